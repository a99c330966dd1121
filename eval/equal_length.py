"""Captions at equal length: shorter captions make fewer things up by being shorter.

A strategy's caption and greedy's of the same picture (and repeat) are both cut after as many words
as the shorter one has, and CHAIR is taken from the mentions that are left whole. It needs nothing
but rows: the answer, its marks, and the true objects as label.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from halu.eval.against import Delta, Single, ends, judged, number, single
from halu.eval.benchmark import Metric, ratio, summed
from halu.eval.paired import Table
from halu.eval.statistics import Array, resample
from halu.eval.store import Row
from halu.types import Record

COUNTS = ("captions", "captions_wrong", "mentions", "mentions_wrong", "truth", "found", "words")
METRICS = (
    Metric("chair_s", "lower", "captions with an object that is not there"),
    Metric("chair_i", "lower", "named objects that are not there"),
    Metric("recall", "higher", "objects of the picture that are named"),
)
_WORD = re.compile(r"\S+")


class Cut(Record):
    """A metric of a strategy's cut captions, and of greedy's cut to the same lengths."""

    value: float | None
    ci: tuple[float, float] | None
    greedy: float | None
    vs_greedy: Delta


class EqualLength(Record):
    """One strategy at greedy's length; `words` is the mean length of the cut captions."""

    words: float
    metrics: dict[str, Cut]


def equal_length(table: Table, seed: int = 0) -> dict[str, EqualLength]:
    """Compare every strategy with greedy at equal length, by label; empty without captions."""
    (_, greedy), *others = table.arms.items()
    if not any(row.marks for rows in table.arms.values() for row in rows):
        return {}
    if any(isinstance(row.label, str) for row in greedy):
        return {}
    counts = {label: _counts(greedy, rows) for label, rows in others}
    spreads = {label: resample(each, seed=seed) for label, each in counts.items()}
    deltas = {metric.name: _deltas(metric, counts, spreads) for metric in METRICS}
    return {
        label: EqualLength(
            words=float(each[1, :, 6].sum() / each[1, :, 0].sum()),
            metrics={
                m.name: _cut(m.name, each, spreads[label], deltas[m.name][label]) for m in METRICS
            },
        )
        for label, each in counts.items()
    }


def cut(row: Row, words: int) -> dict[str, int]:
    """Count what the first `words` words of a caption name; a mention cut in two is left out."""
    ends = [word.end() for word in _WORD.finditer(row.answer)][:words]
    stop = ends[-1] if ends else 0
    marks = [mark for mark in row.marks if mark.stop <= stop]
    wrong = sum(mark.wrong for mark in marks)
    truth = set(row.label if "found" in row.counts else ())  # else names are not matched one to one
    return {
        "captions": 1,
        "captions_wrong": int(wrong > 0),
        "mentions": len(marks),
        "mentions_wrong": wrong,
        "truth": len(truth),
        "found": len(truth & {mark.name for mark in marks}),
        "words": len(ends),
    }


def rates(counts: Array) -> dict[str, Array]:
    """Compute CHAIR_s, CHAIR_i and recall; last axis in the order of `COUNTS`."""
    total = dict(zip(COUNTS, np.moveaxis(counts, -1, 0), strict=True))
    return {
        "chair_s": ratio(total["captions_wrong"], total["captions"]),
        "chair_i": ratio(total["mentions_wrong"], total["mentions"]),
        "recall": ratio(total["found"], total["truth"]),
    }


def _counts(greedy: Sequence[Row], rows: Sequence[Row]) -> Array:
    """Count both strategies' captions, cut alike, by image: [2, images, k]."""
    images: dict[str, list[list[dict[str, int]]]] = {}
    for pair in zip(greedy, rows, strict=True):
        words = min(len(row.answer.split()) for row in pair)
        both = images.setdefault(pair[0].unit, [[], []])
        for found, row in zip(both, pair, strict=True):
            found.append(cut(row, words))
    sides = [[summed(COUNTS, both[side]) for both in images.values()] for side in (0, 1)]
    return np.array(sides)


def _deltas(
    metric: Metric, counts: Mapping[str, Array], spreads: Mapping[str, Array]
) -> dict[str, Delta]:
    """One metric of every strategy against greedy's captions cut for it."""
    singles: list[Single] = [
        single(
            rates(each.sum(axis=1))[metric.name], rates(spreads[label])[metric.name], each.shape[1]
        )
        for label, each in counts.items()
    ]
    return dict(zip(counts, judged(metric, singles), strict=True))


def _cut(name: str, counts: Array, spread: Array, delta: Delta) -> Cut:
    greedy, own = rates(counts.sum(axis=1))[name]
    return Cut(
        value=number(own),
        ci=ends(rates(spread)[name][1], counts.shape[1]),
        greedy=number(greedy),
        vs_greedy=delta,
    )
