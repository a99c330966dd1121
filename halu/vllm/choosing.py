"""From the rows of scores of one step to tokens: the branches of a request are brought together.

A row counts only in a step in which all branches of its request have one; otherwise it is dropped,
and read again in a later step. Nothing here raises: what goes wrong ends the request alone.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.attention.steered import Steered
from halu.strategy import Step, Tap
from halu.vllm.part import Part, draw

Early = Callable[[Mapping[int, Tensor], Sequence[Tap]], dict[Tap, Tensor]]
"""Rows of scores that the output head makes of earlier streams."""


@dataclass(frozen=True, slots=True)
class Newest:
    """A request's newest row: its name, its number in the batch, the tokens before."""

    name: str
    number: int
    one: Part
    seen: Sequence[int]


@dataclass(slots=True)
class Outcome:
    """What a step came to.

    Attributes:
        tokens: the token of each request that has one, by number in the batch.
        dropped: requests whose row did not count, and how many tokens they read again.
        failed: requests that are over, and why.
        mute: numbers of those that get no token in this step.
    """

    tokens: dict[int, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    mute: list[int] = field(default_factory=list)


def choose(logits: Tensor, newest: Sequence[Newest], early: Early) -> Outcome:
    """Brings together what belongs together; the rule's row takes the place of each branch's row in
    `logits` [N, V].
    """
    outcome = Outcome()
    requests: defaultdict[str, list[Newest]] = defaultdict(list)
    for row in newest:
        requests[row.one.asked.group or row.name].append(row)
    for rows in requests.values():
        for row in rows:
            if len(rows) == len(row.one.asked.branches):
                row.one.told(logits[row.number].float())
        why = next((row.one.failure for row in rows if row.one.failure is not None), None)
        if why is None and len(rows) == len(rows[0].one.asked.branches):
            why = _joined(logits, rows, early, outcome)
        elif why is None:
            outcome.dropped |= {row.name: row.one.seen if row.one.steers else 1 for row in rows}
            outcome.mute += [row.number for row in rows]
        if why is not None:
            outcome.failed |= {row.name: why for row in rows}
            outcome.mute += [row.number for row in rows]
    return outcome


def _joined(logits: Tensor, rows: Sequence[Newest], early: Early, outcome: Outcome) -> str | None:
    """Chooses one request's token; returns why it cannot."""
    main = next((row for row in rows if row.one.asked.main), None)
    names = {row.one.asked.branch for row in rows}
    if main is None or names != set(main.one.asked.branches):
        return "The branches of this request do not fit together."
    one = main.one
    assert one.plan is not None
    assert one.steering is not None
    try:
        scores = {row.one.asked.branch: logits[row.number].float() for row in rows}
        heads = _early(early, one.steering, one.plan.taps)
        ruled = one.plan.rule(Step(len(main.seen), scores, list(main.seen), heads))
        token = draw(one, ruled, main.seen)
    except Exception as error:
        one.fail(error)
        return one.failure
    for row in rows:
        logits[row.number] = ruled
        if token is not None:
            outcome.tokens[row.number] = token
    if token is None and len(rows) > 1:
        return "A request of several branches must say how tokens are drawn (sampling)."
    return None


@torch.inference_mode()
def _early(early: Early, steering: Steered, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    return early(steering.tapped, taps) if taps else {}
