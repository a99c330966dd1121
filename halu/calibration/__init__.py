"""Facts about a model that some strategies and detectors need, computed where nobody has published
them.

`halu calibrate MODEL STRATEGY` runs the computation and keeps its result (`store`). VAR and AD-HH,
which cannot run without, find it by the model's shape; ZeroTuning and ACT run on all heads unless
they are given the profile as a parameter. Detectors' curves (`detecting`) are found by the model's
name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halu.errors import BadInput, HaluError, Unknown, Unsupported

if TYPE_CHECKING:
    from halu.calibrated import Calibration
    from halu.calibration.labelled import Tell
    from halu.engine import Local
    from halu.strategy import ModelFacts

PROFILED = {"zerotuning": "pairs", "act": "pairs"}
"""Strategies with a head profile, and the parameter that takes it."""
KNOWN = ("var", "adhh", *PROFILED)


@dataclass(frozen=True, slots=True)
class Source:
    """What to calibrate on; built-in scenes where nothing is given."""

    n: int = 100
    images: Path | None = None
    annotations: Path | None = None
    data: Path | None = None
    captions: Path | None = None

    def check(self, strategy: str) -> None:
        """Refuse what does not fit, before a model is loaded.

        Raises:
            Unknown: for what is neither a strategy nor a detector.
            Unsupported: for a strategy or detector that needs no calibration.
            BadInput: for an option that the strategy's calibration does not use.
        """
        from halu.calibration.detecting import calibrated

        if strategy not in KNOWN:
            raise _nothing(strategy, calibrated())
        if self.captions is not None:
            raise BadInput("--captions is for detectors.", param="captions")
        if self.n < 1:
            raise BadInput(f"--n must be at least 1, not {self.n}.", param="n")
        if (self.data is not None) and strategy not in PROFILED:
            raise BadInput("--data is for zerotuning and act.", hint="Use --images.", param="data")
        if (self.images is not None) and strategy in PROFILED:
            raise BadInput("--images is for var and adhh.", hint="Use --data.", param="images")
        if (self.images is not None) != (self.annotations is not None) and strategy == "adhh":
            raise BadInput("adhh needs --images and --annotations together.", param="annotations")
        if self.annotations is not None and strategy != "adhh":
            raise BadInput("--annotations is for adhh.", param="annotations")


def _nothing(name: str, curves: list[str]) -> HaluError:
    from halu.detector import detectors
    from halu.strategy import strategies

    if name not in strategies and name not in detectors:
        return Unknown("strategy or detector", name, [*KNOWN, *curves], param="strategy")
    return Unsupported(
        f"{name!r} has nothing to calibrate.",
        hint=f"These have: {', '.join(KNOWN)}; and detectors: {', '.join(curves)}.",
        param="strategy",
    )


def calibrate(
    vlm: Local, strategy: str, source: Source, *, command: str, tell: Tell
) -> Calibration:
    """Run a strategy's calibration.

    Raises:
        BadInput: for data that cannot be used.
        Failed: if nothing can be found in it.
    """
    from halu.calibrated import Calibration
    from halu.calibration import influence, labelled, profile, sinks

    source.check(strategy)
    where = source.images or source.data or "built-in scenes"
    if strategy == "var":
        shown = labelled.pictures(source.images, source.n)
        count, what = len(shown), "pictures"
        params, details = sinks.find(vlm, shown, tell)
    elif strategy == "adhh":
        known = (
            labelled.annotated(source.images, source.annotations, source.n)
            if source.images and source.annotations
            else labelled.scenes(source.n)
        )
        count, what = len(known), "pictures"
        params, details = influence.find(vlm, known, tell)
    else:
        asked = labelled.questions(source.data, source.n)
        count, what = len(asked), "questions"
        params, details = profile.find(vlm, strategy, PROFILED[strategy], asked, tell)
    return Calibration(
        model=vlm.name,
        shape=vlm.adapter.facts.shape,
        strategy=strategy,
        params=params,
        pictures=f"{count} {what} of {where}",
        command=command,
        details=details,
    )


def keep(found: Calibration, model: ModelFacts) -> Path:
    """Store a calibration where strategies look for it."""
    from halu import calibrated

    return calibrated.save(found, model)
