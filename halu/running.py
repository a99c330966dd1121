"""What the decoding loop runs: anything that has rows in the shared cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
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
        choices: how its hypotheses go on, from the last `choose`.
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

    def ask(self, scores: Tensor) -> Tensor:
        """Looks at the newest rows of scores [n, V]. What it must know of them to choose are
        numbers [k], left on their device: the loop fetches those of all that run at once. Raises
        nothing: what goes wrong is its own.
        """

    def choose(self, known: Sequence[float]) -> None:
        """Chooses, given the numbers that it asked for. Raises nothing."""

    def fail(self, error: Exception) -> None:
        """Ends it with an error of its own."""

    def fed(self) -> None:
        """Says that its choices have gone through the model."""


def count(running: Running) -> int:
    """Its rows of the cache now."""
    return sum(len(branches) for branches in running.rows)


def fetched(asked: Sequence[Tensor]) -> list[list[float]]:
    """Numbers of several tensors [k], in one transfer from their device."""
    sizes = [len(one) for one in asked]
    flat = iter(torch.cat(list(asked)).tolist() if asked else ())
    return [list(islice(flat, size)) for size in sizes]


def chosen_rows(
    rows: list[list[Row]], choices: Sequence[Choice], lengths: Sequence[int]
) -> list[list[Row]]:
    """The rows [hypothesis][branch] of the chosen hypotheses; `lengths` are the parents' in tokens.

    A parent that goes on twice is forked, since its policies may learn from what comes.
    """
    taken: set[int] = set()
    found = []
    for choice in choices:
        cut = 0 if choice.keep is None else lengths[choice.parent] - choice.keep
        again = choice.parent in taken
        taken.add(choice.parent)
        found.append(
            [
                Row(
                    row.steering.fork() if again else row.steering,
                    row.length - cut,
                    row.position - cut,
                )
                for row in rows[choice.parent]
            ]
        )
    return found
