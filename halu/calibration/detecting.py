"""Curves of detectors, fitted on answers of which it is known what is made up.

`halu calibrate MODEL DETECTOR` fits them and keeps them where detectors look first (`logistic`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from halu.calibration import Source, labelled
from halu.calibration.cases import Case, captioned, claimed, written
from halu.calibration.curve import auroc, fitted
from halu.calibration.labelled import Tell
from halu.detector import Detector, detectors
from halu.errors import BadInput, Failed, Unsupported
from halu.logistic import Curve, called, place, table
from halu.vlm import VLM

Item = TypeVar("Item")

LEAST = 10
"""Made-up claims, and true ones, without which there is no curve."""
FOLDS = 5


class Row(NamedTuple):
    """A claim's measurements, the number of its case, and whether it is made up."""

    case: int
    features: dict[str, float]
    made_up: bool


class Fit(NamedTuple):
    """A curve, and its AUROC on pictures that were left out of it in turn."""

    curve: Curve
    auroc: float


def calibrated() -> list[str]:
    """The detectors whose scores are curves."""
    return [cls.name for cls in detectors if hasattr(cls, "measure")]


def check(detector: Detector, source: Source) -> None:
    """Refuse what does not fit, before a model is loaded.

    Raises:
        BadInput: for options that a detector's calibration does not use, or that lack others.
        Unsupported: for captions in a file, which leave no trace to read.
    """
    if source.n < 1:
        raise BadInput(f"--n must be at least 1, not {source.n}.", param="n")
    if source.data is not None:
        raise BadInput("--data is for zerotuning and act.", hint="Use --images.", param="data")
    if source.captions is not None:
        if detector.kind == "trace":
            raise Unsupported(
                f"Detector {detector.name!r} reads how each token was chosen; captions in a file"
                " do not say it.",
                hint="Give --images and --annotations, and the model writes its own.",
                param="captions",
            )
        if source.annotations is not None:
            raise BadInput("Give --captions or --annotations, not both.", param="annotations")
    elif (source.images is None) != (source.annotations is None):
        raise BadInput(
            "Pictures need --annotations or --captions, and these --images.", param="images"
        )


def cases(
    detector: Detector, source: Source, opened: Callable[[], VLM], tell: Tell
) -> Iterator[Case]:
    """What a detector is fitted on: captions of a file, else those that the model writes of
    annotated pictures or built-in scenes; of the latter also statements, for what looks at the
    picture. A detector of detectors gets the pictures after those of its parts.

    Raises:
        BadInput: for data that cannot be used.
    """
    first = source.n if detector.reads_trace and detector.kind == "picture" else 0
    n = first + source.n
    if source.captions is not None:
        yield from _after(first, written(source.captions, source.images, n))
        return
    if source.images is not None and source.annotations is not None:
        known = labelled.annotated(source.images, source.annotations, n)
    else:
        known = labelled.scenes(n)
        if detector.kind == "picture" and not first:
            yield from claimed(labelled.drawn(n))
    yield from captioned(opened(), _after(first, known), tell)


def keep(found: dict[str, Fit], detector: str) -> dict[str, Path]:
    """Store curves where detectors look first; the files by kind of claim."""
    files = {}
    for kind, (curve, _) in found.items():
        file = files[kind] = place(table(detector, kind), curve.fitted_for)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".draft")
        draft.write_text(curve.model_dump_json(indent=1) + "\n", "utf-8")
        draft.replace(file)
    return files


def fit(detector: Detector, cases: Iterable[Case]) -> dict[str, Fit]:
    """Curves by kind of claim; what reads the trace has one for all.

    Raises:
        Failed: if there are too few made-up or too few true claims of every kind.
    """
    measuring: Any = detector
    rows: dict[str, list[Row]] = {}
    rests_on = ""
    for number, case in enumerate(cases):
        for one in measuring.measure(case.answer, case.images, case.asked):
            made_up = case.made_up(one.claim)
            if made_up is not None:
                kind = one.claim.kind if detector.kind == "picture" else "object"
                rows.setdefault(kind, []).append(Row(number, one.features, made_up))
                rests_on = measuring.rests_on(case.answer, case.asked)
    model = called(rests_on)
    found = {kind: _fitted(own, model) for kind, own in rows.items() if _enough(own)}
    if not found:
        told = [row.made_up for own in rows.values() for row in own]
        raise Failed(
            f"Detector {detector.name!r} measured {sum(told)} made-up claims and"
            f" {len(told) - sum(told)} true ones; {LEAST} of each are needed.",
            hint="Use more pictures.",
        )
    return found


def _enough(rows: Sequence[Row]) -> bool:
    return LEAST <= sum(row.made_up for row in rows) <= len(rows) - LEAST


def _fitted(rows: Sequence[Row], model: str) -> Fit:
    """On all rows; scores to rank by come from curves without a fifth of the cases each."""
    curve, scores = _curve(rows, model), np.zeros(len(rows))
    for fold in range(FOLDS):
        rest = [row for row in rows if row.case % FOLDS != fold]
        if len({row.made_up for row in rest}) < 2:
            return Fit(curve, float("nan"))
        other = _curve(rest, model)
        for number, row in enumerate(rows):
            if row.case % FOLDS == fold:
                scores[number] = other.probability(row.features)
    return Fit(curve, auroc(scores, np.array([row.made_up for row in rows])))


def _curve(rows: Sequence[Row], model: str) -> Curve:
    return fitted([row.features for row in rows], [row.made_up for row in rows], model)


def _after(first: int, found: Sequence[Item]) -> Sequence[Item]:
    if len(found) <= first:
        raise BadInput(
            f"All {len(found)} pictures were for the parts of this detector.",
            hint="Give more pictures, or calibrate all of them with a smaller --n.",
            param="n",
        )
    return found[first:]
