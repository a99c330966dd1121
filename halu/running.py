"""What the decoding loop runs: anything that has rows in the shared cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from halu.attention.steered import Steered
from halu.prompt import Prompt
from halu.search import Choice


@dataclass(slots=True)
class Row:
    """One branch of one hypothesis: its steering, how many keys it has, the next position."""

    steering: Steered
    length: int
    position: int

    def check(self) -> None:
        """Raises what a policy raised while rows of others went through the model with this one."""
        if self.steering.failure is not None:
            raise self.steering.failure


class Running(Protocol):
    """One request's decoding, or a text said beside it.

    Attributes:
        rows: its rows of the cache [hypothesis][branch].
        choices: how its hypotheses go on, from the last `advance`.
        passing: whether it is over once its prompts are read, so that nothing need be kept.
        over: whether its rows may be given up.
    """

    rows: list[list[Row]]
    choices: list[Choice]

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What is read first, a row each."""

    @property
    def passing(self) -> bool:
        """See above."""

    @property
    def over(self) -> bool:
        """See above."""

    def advance(self, scores: Tensor) -> None:
        """Chooses from the newest rows of scores [n, V]. Raises nothing: what goes wrong is its
        own.
        """

    def fail(self, error: Exception) -> None:
        """Ends it with an error of its own."""

    def fed(self) -> None:
        """Says that its choices have gone through the model."""


def count(running: Running) -> int:
    """Its rows of the cache now."""
    return sum(len(branches) for branches in running.rows)
