"""What one engine request carries: a JSON string in `SamplingParams.extra_args["halu"]`, or over
HTTP in `vllm_xargs`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from halu.errors import BadInput
from halu.types import Sampling

KEY = "halu"
FORWARDS = "halu_forwards"
"""Where the engine's outputs say how many forwards a request has taken."""
MAIN = "main"
LARGEST = 16384
"""Longest side of a picture, in pixels."""
PIXELS = 20_000_000
"""Most pixels of all pictures of a branch together: the worker makes pictures of these sizes."""


class Asked(BaseModel):
    """One branch of one request.

    Attributes:
        strategy: registered name; parts joined with '+'.
        params: the strategy's parameters.
        sampling: how the rule's row becomes a token; none: as vLLM samples.
        branch: which branch of the plan this is.
        branches: all branches of the plan, the main one first.
        group: what the branches of one request have in common; empty if there is only one.
        steers: whether an attention policy acts on this branch, so that its keys and values are its
            own.
        sizes: width and height of its pictures before the image processor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str | None = Field(None, max_length=200)
    params: dict[str, Any] = Field(default_factory=dict)
    sampling: Sampling | None = None
    branch: str = Field(MAIN, max_length=200)
    branches: tuple[str, ...] = Field((MAIN,), min_length=1, max_length=16)
    group: str = Field("", max_length=200)
    steers: bool = False
    sizes: tuple[tuple[int, int], ...] = Field((), max_length=64)

    @field_validator("sizes")
    @classmethod
    def _sensible(cls, sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if not all(0 < side <= LARGEST for size in sizes for side in size):
            raise ValueError(f"sides of pictures lie in 1 to {LARGEST}")
        if area(sizes) > PIXELS:
            raise ValueError(f"pictures have at most {PIXELS:,} pixels together")
        return sizes

    @property
    def main(self) -> bool:
        """Whether it is the branch whose rule and taps count."""
        return self.branch == MAIN

    def text(self) -> str:
        """As a JSON string."""
        return self.model_dump_json()


def area(sizes: Iterable[tuple[int, int]]) -> int:
    """Pixels of pictures of these sizes together."""
    return sum(width * height for width, height in sizes)


def read(extra_args: Mapping[str, Any] | None) -> Asked | None:
    """What an engine request asks of halu; none if nothing.

    Raises:
        BadInput: if it cannot be read.
    """
    text = (extra_args or {}).get(KEY)
    if text is None:
        return None
    if not isinstance(text, str):
        raise BadInput(f"{KEY!r} must be a JSON string, not {type(text).__name__}.", param=KEY)
    try:
        asked = Asked.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or KEY
        raise BadInput(f"{KEY!r}: {where}: {first['msg']}.", param=KEY) from error
    except ValueError:  # half a surrogate pair
        raise BadInput(f"{KEY!r} is no text.", param=KEY) from None
    if asked.branch not in asked.branches or (len(asked.branches) > 1) != bool(asked.group):
        raise BadInput(f"{KEY!r}: branch, branches and group do not fit.", param=KEY)
    return asked
