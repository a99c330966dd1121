"""A request with detectors: the evidence that it must ask for, and whether its strategy has any."""

from collections.abc import Sequence

from halu.detector import Detector
from halu.errors import Unknown, Unsupported
from halu.types import Request


def prepared(request: Request, using: Sequence[Detector], *, told: bool = True) -> Request:
    """The request, asking for the evidence that these detectors read; `told` is whether the model
    can give any. Detectors that look at the picture too do without where there is none.

    Raises:
        Unsupported: a detector that reads nothing else, with a model that tells none, or a strategy
            that has none.
    """
    readers = [one for one in using if one.reads_trace]
    if not readers or request.evidence == "map":
        return request
    strategy = _taking_back(request)
    if told and not strategy:
        return request.model_copy(update={"evidence": "map"})
    if blind := [one.name for one in readers if one.kind == "trace"]:
        why = f"{strategy!r} may take tokens back and has no evidence for each"
        raise Unsupported(
            f"Detector {blind[0]!r} reads how each token was chosen;"
            f" {why if told else 'this backend does not tell it'}.",
            hint="Name detectors that look at the picture, such as clip or objects.",
            param="detectors",
        )
    return request


def _taking_back(request: Request) -> str:
    """The part of the request's strategy that may take tokens back; empty if none may."""
    from halu.strategy import strategies  # torch comes with them

    for name in (request.strategy or "greedy").split("+"):
        try:
            part = strategies.get(name)
        except Unknown:  # whoever answers the request may know it
            continue
        if part.takes_back:
            return part.name
    return ""
