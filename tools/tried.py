"""What strategies do on random models: what they cost, and where they refuse to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halu.adapters import Adapter
    from halu.strategy import Strategy

GIVEN: dict[str, dict[str, Any]] = {
    "adhh": {"heads": [[0, 1], [2, 0]]},
    "ara": {"caption_tokens": 2},
    "carve": {"max_steps": 2},
    "code": {"describe_tokens": 2},
    "sentinel": {"first": "sampled", "detectors": ["clip"]},
    "var": {"dimensions": [1, 2], "tau": 1.5},
    "vdgd": {"describe_tokens": 2},
}
"""Facts of real models that random ones must be given, and short texts where one is written first:
random models never end theirs.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strategy costs for one question about one picture.

    Attributes:
        rows: rows that go through the language model at each token.
        prompts: prompts read besides the plain one.
        texts: texts that the model writes first.
    """

    rows: int
    prompts: int
    texts: int

    @property
    def beside(self) -> str:
        """Prompts and texts in a word."""
        said = f"{self.texts} text{'s' * (self.texts > 1)} first" if self.texts else ""
        return " + ".join(part for part in (str(self.prompts or ""), said) if part) or "0"


@cache
def adapter(family: str) -> Adapter:
    """A random model of a family."""
    from halu.testing.random_models import random_adapter

    return random_adapter(family)


@cache
def cost(strategy: type[Strategy]) -> Cost:
    """Read off the plan that a strategy makes on a random model."""
    from PIL import Image

    from halu.context import RequestContext
    from halu.planning import choose, steered
    from halu.types import Request, question

    texts = []

    class Context(RequestContext):
        def say(self, *args: Any, **kwargs: Any) -> Any:
            before = self.forwards
            said = super().say(*args, **kwargs)
            self.forwards = before
            texts.append(said)
            return said

    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    given = GIVEN.get(strategy.name, {})
    request = Request(messages=words, strategy=strategy.name, params=given)
    plan, contexts = choose(request).plan(adapter("llava"), request, context=Context)
    for branch in (plan.main, *plan.extra):
        steered(plan, branch)()
    prompts = len(plan.extra) + sum(ctx.forwards for ctx in contexts)
    return Cost(rows_a_token(strategy), prompts, len(texts))


def rows_a_token(strategy: type[Strategy]) -> int:
    """The most rows that one step of a short answer carries; random models never end theirs."""
    from PIL import Image

    from halu.decode import Decoder
    from halu.types import Request, Sampling, question

    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    decoder = Decoder(adapter("llava"))
    (job,) = decoder.add(
        [
            Request(
                messages=words,
                strategy=strategy.name,
                params=GIVEN.get(strategy.name, {}),
                sampling=Sampling(max_new_tokens=4),
            )
        ]
    )
    most = 0
    while decoder.jobs:
        decoder.step()
        most = max(most, sum(len(branches) for branches in job.rows))
    return most


@cache
def refusal(family: str, name: str) -> str:
    """Why these strategies do not run on a family, or nothing."""
    from PIL import Image

    from halu.engine import Local
    from halu.errors import HaluError
    from halu.types import Request, Sampling, question

    parts = name.split("+")
    params = {
        key if len(parts) == 1 else f"{part}.{key}": value
        for part in parts
        for key, value in GIVEN.get(part, {}).items()
    }
    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    request = Request(
        messages=words, strategy=name, params=params, sampling=Sampling(max_new_tokens=2)
    )
    try:
        Local(adapter(family)).generate([request])
    except HaluError as error:
        return error.message
    return ""
