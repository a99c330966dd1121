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
from halu.errors import Failed
from halu.strategy import Step, Tap
from halu.vllm.part import Part, draw

Early = Callable[[Mapping[int, Tensor], Sequence[Tap]], dict[Tap, Tensor]]
"""Rows of scores that the output head makes of earlier streams."""


Likely = tuple[list[int], list[float], int]
"""The chosen token and then the likeliest, their log-probabilities, the chosen one's rank."""


@dataclass(frozen=True, slots=True)
class Newest:
    """A request's newest row: its name, its number in the batch."""

    name: str
    number: int
    one: Part


@dataclass(slots=True)
class Outcome:
    """What a step came to.

    Attributes:
        tokens: the token of each request that has one, by number in the batch.
        left: requests whose token vLLM draws, by number in the batch.
        dropped: requests whose row did not count, and how many tokens they read again.
        failed: requests that are over, and why.
        forwards: how many forwards a request has taken, all its branches together, by the name of
            its main one.
        likely: log-probabilities of the tokens of requests that want them, by name.
        mute: numbers of those that get no token in this step, and how many tokens they read again.
        drawn: what has been drawn for the rows of a request, and is still on the device.
    """

    tokens: dict[int, int] = field(default_factory=dict)
    left: dict[int, Part] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    forwards: dict[str, int] = field(default_factory=dict)
    likely: dict[str, Likely] = field(default_factory=dict)
    mute: dict[int, int] = field(default_factory=dict)
    drawn: list[tuple[Sequence[Newest], Tensor]] = field(default_factory=list)

    def fetch(self) -> None:
        """Fetches what has been drawn, for all requests at once."""
        if not self.drawn:
            return
        tokens = torch.stack([token for _, token in self.drawn]).tolist()
        for (rows, _), token in zip(self.drawn, tokens, strict=True):
            for row in rows:
                self.tokens[row.number] = token
                row.one.tokens.append(token)

    def settle(self, sampled: Tensor) -> None:
        """vLLM has drawn [N, 1]: halu's tokens take the place of its own, and its own are heard."""
        if self.tokens:
            drawn = torch.tensor(
                [*self.tokens.values()], dtype=sampled.dtype, device=sampled.device
            )
            sampled[[*self.tokens], 0] = drawn
        for number, one in self.left.items():
            one.tokens.append(int(sampled[number, 0]))


def choose(logits: Tensor, newest: Sequence[Newest], early: Early) -> Outcome:
    """Brings together what belongs together. Where vLLM is to draw, the rule's row takes the place
    of the request's own in `logits` [N, V].
    """
    outcome = Outcome()
    requests: defaultdict[str, list[Newest]] = defaultdict(list)
    for row in newest:
        requests[row.one.asked.group or row.name].append(row)
    for rows in requests.values():
        whole = len(rows) == len(rows[0].one.asked.branches)
        for row in rows if whole else ():
            row.one.told(logits[row.number])
        why = next((row.one.failure for row in rows if row.one.failure is not None), None)
        if why is None and whole:
            why = _joined(logits, rows, early, outcome)
        elif why is None:
            for row in rows:
                outcome.dropped[row.name] = outcome.mute[row.number] = row.one.again()
        if why is not None:
            outcome.failed |= {row.name: why for row in rows}
            outcome.mute |= {row.number: 0 for row in rows}
    outcome.fetch()
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
        ruled = one.plan.rule(Step(len(one.tokens), scores, list(one.tokens), heads))
        if ruled.shape != logits.shape[1:]:
            raise Failed(f"The rule gave {list(ruled.shape)} scores of {logits.shape[1]}.")
        token = draw(one, ruled)
        if one.logprobs is not None and token is not None:
            outcome.likely[main.name] = _likely(ruled, int(token), one.logprobs)
        if token is None:
            logits[main.number] = ruled
    except Exception as error:
        one.fail(error)
        return one.failure
    if token is None and len(rows) > 1:
        return "A request of several branches must say how tokens are drawn (sampling)."
    outcome.forwards[main.name] = sum(row.one.cost for row in rows)
    if token is None:
        outcome.left[main.number] = one
    else:
        outcome.drawn.append((rows, token))
    return None


def _likely(row: Tensor, token: int, count: int) -> Likely:
    logs = torch.log_softmax(row.float(), -1)
    there = int(torch.isfinite(row).sum())
    values, ids = logs.topk(min(count, there) if count >= 0 else there)  # vLLM's -1: all
    rank = 1 + int((logs > logs[token]).sum())
    return [token, *ids.tolist()], [float(logs[token]), *values.tolist()], rank


@torch.inference_mode()
def _early(early: Early, steering: Steered, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
    return early(steering.tapped, taps) if taps else {}
