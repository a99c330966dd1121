"""Detectors in a run: what they must be told of each answer, and what they find in it.

A strategy's own findings (`sentinel`, `woodpecker`) are kept with those of the run's detectors.
"""

from collections.abc import Callable, Iterator, Sequence

from halu.detector import Detector, DetectorContext, chosen, find
from halu.eval.backends import Timed
from halu.eval.plan import Plan, Source
from halu.examining import prepared
from halu.types import Answer, Finding, Request, question

Ask = Callable[[list[Request]], Timed]


def refuse_blind(plan: Plan) -> None:
    """Refuse detectors that could not read some strategy of a run, before any question is asked.

    Raises:
        HaluError: for a detector that does not exist, has no such parameter, or reads how each
            token was chosen where a strategy or a backend does not tell it.
    """
    using = chosen(plan.detectors)
    for arm in plan.arms():
        asked = Request(messages=question(""), strategy=arm.strategy, params=arm.params)
        for source in plan.models:
            prepared(asked, using, told=source.tells_evidence)


def telling(requests: Sequence[Request], plan: Plan, source: Source) -> list[Request]:
    """Requests that ask for the evidence that the run's detectors read."""
    using = chosen(plan.detectors)
    return [prepared(one, using, told=source.tells_evidence) for one in requests]


def findings(
    request: Request, answer: Answer, plan: Plan, source: Source, ask: Ask
) -> tuple[Finding, ...]:
    """All that is found in one answer; where there is no picture, nobody looks at one."""

    def again(requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        yield from enumerate(ask(list(requests)).answers)

    using = [one for one in chosen(plan.detectors) if _sees(one, request)]
    known = DetectorContext(request, again, source.name)
    return (*answer.findings, *find(answer, request.images, using, known))


def _sees(one: Detector, request: Request) -> bool:
    return bool(request.images) or one.kind != "picture"
