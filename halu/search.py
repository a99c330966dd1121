"""How finished rows become tokens: one hypothesis that picks or draws, or beams that compete.

A search sees rows [N, V], one for each live hypothesis, after the strategy's rule; it answers with
the parent and the token of each hypothesis that goes on. It knows nothing of models, caches or
text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.errors import BadInput
from halu.types import Finding, Sampling

Policies = Sequence[tuple[AttentionPolicy, ...]]
"""The attention policies of each live hypothesis' main branch, which may have recorded."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Hypothesis `parent` goes on with `token`, after its first `keep` tokens; none: after all."""

    parent: int
    token: int
    keep: int | None = None


class Search(Protocol):
    """Keeps its own state for one request.

    Attributes:
        streams: whether every choice is final, so that tokens can be told as they come.
        goes_back: whether it may drop tokens of a hypothesis that goes on.
        asks: whether it may read prompts beside decoding while it chooses.
    """

    streams: bool
    goes_back: bool
    asks: bool

    @property
    def most(self) -> int:
        """The most hypotheses that it keeps at once."""

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Search":
        """A fresh search for one request: how to draw, which tokens end an answer, the prompt's
        tokens.
        """

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The next hypotheses from rows [N, V]; `seen` are the tokens of each so far."""

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The answer's tokens once the search is over, else none; `final`: the longest hypothesis
        is as long as it may be.
        """


@runtime_checkable
class Remarks(Protocol):
    """A search that has something to say of its answer, once `best` has told it."""

    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Pick:
    """One hypothesis: the best token at temperature 0, otherwise a draw."""

    streams: bool = True
    goes_back: bool = False
    asks: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    rng: torch.Generator | None = None

    @property
    def most(self) -> int:
        """One."""
        return 1

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Pick":
        """A fresh generator from the request's seed."""
        rng = torch.Generator().manual_seed(sampling.seed)
        return Pick(sampling=sampling, ends=ends, prompt=prompt, rng=rng)

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """One choice."""
        return [Choice(0, int(self.token(rows[0], seen[0])))]

    def token(self, row: Tensor, seen: Sequence[int]) -> Tensor:
        """The token [] that goes on, from its row [V] and left on its device: a loop over many
        requests fetches all of them at once.
        """
        row = filtered(row, self.sampling, (*self.prompt, *seen))
        if not self.sampling.temperature:
            return row.argmax()
        return drawn(row, float(torch.rand((), generator=self.rng)))

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The one hypothesis, when it has ended."""
        return live[0] if final or (live[0] and live[0][-1] in self.ends) else None


class Continuation(NamedTuple):
    """Hypothesis `parent` with one more token, and the total log-probability that it then has."""

    parent: int
    token: int
    total: float


def continuations(
    totals: Tensor, width: int, ends: frozenset[int]
) -> tuple[list[Continuation], list[Continuation]]:
    """From totals [N, V] the `width` best that go on, and those among the `width` best that end."""
    k = min((1 + len(ends)) * width, int(torch.isfinite(totals).sum()))
    values, indices = totals.flatten().topk(k)
    on: list[Continuation] = []
    ended: list[Continuation] = []
    for rank, (value, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
        parent, token = divmod(index, totals.shape[1])
        one = Continuation(parent, token, value)
        if one.token not in ends:
            on.append(one)
        elif rank < width:
            ended.append(one)
    return on[:width], ended


@dataclass(slots=True)
class Ended:
    """Hypotheses that have ended: the best `width` by total / length ** length_penalty."""

    width: int
    length_penalty: float = 1.0
    found: tuple[tuple[float, list[int]], ...] = ()

    def add(self, total: float, length: int, ids: list[int]) -> None:
        """Puts one aside, if it is good enough."""
        score = total / max(length, 1) ** self.length_penalty
        found = sorted([*self.found, (score, ids)], key=lambda item: -item[0])
        self.found = tuple(found[: self.width])

    def settled(self, total: float, length: int) -> bool:
        """Whether there are `width`, none of them worse than this."""
        if len(self.found) < self.width:
            return False
        score: float = total / length**self.length_penalty
        return score <= self.found[-1][0]

    @property
    def best(self) -> list[int]:
        """The best of all."""
        return self.found[0][1]


@dataclass(slots=True)
class Beams:
    """Beam search: hypotheses compete by total log-probability / length ** length_penalty.

    The scores are those after the strategy's rule, so a contrastive rule and beams combine as in
    CODE's release. Ends when `width` hypotheses have ended and no live one can overtake the worst
    of them.
    """

    width: int = 5
    length_penalty: float = 1.0
    streams: bool = False
    goes_back: bool = False
    asks: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    totals: list[float] = field(default_factory=lambda: [0.0])
    ended: Ended = field(default_factory=lambda: Ended(5))
    over: bool = False

    @property
    def most(self) -> int:
        """One for each beam."""
        return self.width

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Beams":
        """A fresh search with one empty hypothesis."""
        return Beams(
            self.width,
            self.length_penalty,
            sampling=sampling,
            ends=ends,
            prompt=prompt,
            ended=Ended(self.width, self.length_penalty),
        )

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The best `width` continuations that do not end; those that end are put aside."""
        pairs = zip(rows, seen, strict=True)
        table = torch.stack(
            [filtered(row, self.sampling, (*self.prompt, *ids)) for row, ids in pairs]
        )
        totals = torch.log_softmax(table, -1) + table.new_tensor(self.totals)[:, None]
        on, ended = continuations(totals, self.width, self.ends)
        length = len(seen[0]) + 1
        for one in ended:
            self.ended.add(one.total, length, [*seen[one.parent], one.token])
        self.totals = [one.total for one in on]
        self.over = not on or self.ended.settled(max(self.totals), length)
        return [Choice(one.parent, one.token) for one in on]

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The best ended hypothesis, or at the length limit the best of all."""
        if not (final or self.over):
            return None
        if final:
            for total, ids in zip(self.totals, live, strict=True):
                self.ended.add(total, len(ids), ids)
        return self.ended.best


def unsampled(sampling: Sampling) -> None:
    """Refuses a temperature.

    Raises:
        BadInput: if there is one.
    """
    if sampling.temperature:
        raise BadInput(
            "Beam search does not sample.", hint="Leave the temperature out.", param="temperature"
        )


def drawn(row: Tensor, share: float) -> Tensor:
    """The token [] at this share of the probability mass [0, 1) of a row [V], tokens in their
    order; on the device of the row.
    """
    mass = torch.softmax(row, -1).double().cumsum(-1)
    found = torch.searchsorted(mass, share * mass[-1:], right=True)[0]
    return found.clamp(max=len(row) - 1)  # a row of NaN has no such place


def filtered(row: Tensor, sampling: Sampling, seen: Sequence[int]) -> Tensor:
    """A row [V] after repetition penalty, temperature, top-k and top-p, in that order; what is cut
    is -inf.
    """
    row = _without_repetition(row, sampling.repetition_penalty, seen)
    if not sampling.temperature:
        return row
    row = row / max(sampling.temperature, 1e-4)  # below, float32 overflows; it is greedy anyway
    if 0 < sampling.top_k < row.numel():
        row = row.masked_fill(row < row.topk(sampling.top_k).values[-1], float("-inf"))
    if sampling.top_p < 1:
        values, order = row.sort(descending=True)
        p = torch.softmax(values, -1)
        cut = order[
            p.cumsum(-1) - p >= sampling.top_p
        ]  # mass before the token: the best one always stays
        row = row.index_fill(0, cut, float("-inf"))
    return row


def _without_repetition(row: Tensor, penalty: float, seen: Sequence[int]) -> Tensor:
    """Scores of seen tokens divided by the penalty if positive, multiplied if negative (CTRL, arXiv
    1909.05858).
    """
    if penalty == 1 or not seen:
        return row
    index = torch.tensor(sorted(set(seen)), device=row.device)
    values = row[index]
    return row.index_copy(0, index, torch.where(values > 0, values / penalty, values * penalty))
