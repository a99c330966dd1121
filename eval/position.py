"""The risk that a mention is made up, by where in the caption it stands.

Captions begin with what the picture shows best and end with what usually goes with it, so later
mentions are wrong more often. Places are counted in words and put into bins that hold about as many
mentions each, the same bins for every strategy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from halu.eval.against import ends, number
from halu.eval.benchmark import ratio
from halu.eval.paired import Table
from halu.eval.statistics import Array, resample
from halu.eval.store import Row

BINS = 5


@dataclass(frozen=True, slots=True)
class Risk:
    """Share of wrong mentions in one bin, with its interval and how many mentions there are."""

    share: float | None
    ci: tuple[float, float] | None
    n: int


@dataclass(frozen=True, slots=True)
class Positions:
    """Bins as "1–4", "5–9", and the risks of every strategy in them, by label."""

    bins: tuple[str, ...]
    risks: dict[str, tuple[Risk, ...]]


def positions(table: Table, bins: int = BINS, seed: int = 0) -> Positions | None:
    """Compute the risk in every bin; None without mentions."""
    places = [place for rows in table.arms.values() for row in rows for place, _ in mentions(row)]
    if not places:
        return None
    edges = _edges(places, bins)
    counts = np.array([_counts(rows, edges) for rows in table.arms.values()])
    shares = ratio(*_parts(counts.sum(axis=1)))
    spread = ratio(*_parts(resample(counts, seed=seed)))
    named = _parts(counts.sum(axis=1))[1]
    return Positions(
        tuple(_name(first, after) for first, after in pairwise(edges)),
        {
            label: tuple(
                Risk(
                    number(shares[arm, b]),
                    ends(spread[arm, :, b], counts.shape[1]),
                    int(named[arm, b]),
                )
                for b in range(len(edges) - 1)
            )
            for arm, label in enumerate(table.arms)
        },
    )


def mentions(row: Row) -> list[tuple[int, bool]]:
    """List a caption's mentions: which word each is, from 1, and whether it is wrong."""
    return [(len(row.answer[: mark.start].split()) + 1, mark.wrong) for mark in row.marks]


def _edges(places: Sequence[int], bins: int) -> list[int]:
    """First words of the bins, and one past the last."""
    inner = np.quantile(places, np.arange(1, bins) / bins, method="higher")
    return sorted({1, *map(int, inner), max(places) + 1})


def _counts(rows: Sequence[Row], edges: Sequence[int]) -> Array:
    """Count by image: [images, 2 * bins], wrong mentions of every bin and then all."""
    bins = len(edges) - 1
    images: dict[str, Array] = {}
    for row in rows:
        found = images.setdefault(row.unit, np.zeros(2 * bins))
        for place, wrong in mentions(row):
            at = int(np.searchsorted(edges, place, side="right")) - 1
            found[at] += wrong
            found[bins + at] += 1
    return np.array(list(images.values()))


def _parts(counts: Array) -> tuple[Array, Array]:
    wrong, named = np.split(counts, 2, axis=-1)
    return wrong, named


def _name(first: int, after: int) -> str:
    return f"{first}" if after == first + 1 else f"{first}–{after - 1}"
