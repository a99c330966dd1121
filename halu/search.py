"""How finished rows become tokens: one hypothesis that picks or draws, or beams that compete.

A search sees rows [N, V], one for each live hypothesis, after the strategy's rule; it answers with
the parent and the token of each hypothesis that goes on. It knows nothing of models, caches or
text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.types import Sampling

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
    """

    streams: bool

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Search":
        """A fresh search for one request: how to draw, which tokens end an answer, the prompt's
        tokens.
        """

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The next hypotheses from rows [N, V]; `seen` are the tokens of each so far."""

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The answer's tokens once the search is over, else none; `final`: no step is left."""


@dataclass(slots=True)
class Pick:
    """One hypothesis: the best token at temperature 0, otherwise a draw."""

    streams: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    rng: torch.Generator | None = None

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Pick":
        """A fresh generator from the request's seed."""
        rng = torch.Generator().manual_seed(sampling.seed)
        return Pick(sampling=sampling, ends=ends, prompt=prompt, rng=rng)

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """One choice."""
        row = filtered(rows[0], self.sampling, (*self.prompt, *seen[0]))
        if not self.sampling.temperature:
            token = int(row.argmax())
        else:
            token = int(torch.multinomial(torch.softmax(row, -1).cpu(), 1, generator=self.rng))
        return [Choice(0, token)]

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The one hypothesis, when it has ended."""
        return live[0] if final or (live[0] and live[0][-1] in self.ends) else None


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
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    totals: list[float] = field(default_factory=lambda: [0.0])
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    over: bool = False

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> "Beams":
        """A fresh search with one empty hypothesis."""
        return Beams(self.width, self.length_penalty, False, sampling, ends, prompt)

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The best `width` continuations that do not end; those that end are put aside."""
        pairs = zip(rows, seen, strict=True)
        table = torch.stack(
            [filtered(row, self.sampling, (*self.prompt, *ids)) for row, ids in pairs]
        )
        logp = torch.log_softmax(table, -1)
        totals = logp + torch.tensor(self.totals, device=rows.device)[:, None]
        k = min((1 + len(self.ends)) * self.width, int(torch.isfinite(totals).sum()))
        values, indices = totals.flatten().topk(k)
        chosen: list[Choice] = []
        kept: list[float] = []
        for rank, (value, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
            parent, token = divmod(index, rows.shape[1])
            if token in self.ends:
                if rank < self.width:
                    self._end(value, [*seen[parent], token])
                continue
            if len(chosen) < self.width:
                chosen.append(Choice(parent, token))
                kept.append(value)
        self.totals = kept
        self.over = self._settled(len(seen[0]) + 1) or not chosen
        return chosen

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The best ended hypothesis, or at the length limit the best of all."""
        if not (final or self.over):
            return None
        if final:
            for total, ids in zip(self.totals, live, strict=True):
                self._end(total, ids)
        return max(self.ended, key=lambda item: item[0])[1]

    def _end(self, total: float, ids: list[int]) -> None:
        self.ended.append((total / max(len(ids), 1) ** self.length_penalty, ids))
        self.ended = sorted(self.ended, key=lambda item: -item[0])[: self.width]

    def _settled(self, length: int) -> bool:
        if len(self.ended) < self.width or not self.totals:
            return False
        best_left: float = max(self.totals) / length**self.length_penalty
        return best_left <= self.ended[-1][0]


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
