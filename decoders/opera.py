"""OPERA: beams that are charged for leaning on one earlier token, and that go back when all do.

Huang et al., CVPR 2024, arXiv:2311.17911. Each of the `beams` beams is tried with its `candidates`
best next tokens. A_i is the last layer's attention row of generated token i (largest over heads,
divided by its sum), W_ij its part on generated token j. For a candidate, the last of w rows,
    S_j = 1e-7 scale W_jj scale W_j+1,j ... scale W_w-1,j,   in half precision,
and its score is z - penalty max_j S_j; in the first ten tokens it is z + penalty times A's mass on
the pictures. Beams compete by the log-softmax over their candidates. The place of a beam is the
most frequent argmax_j S_j among its candidates, and of all beams the most frequent of theirs. Once
every beam has had this place more than `threshold` times and it is not among the first ten, the
search goes back to the token after it and chooses it anew, among all tokens, by plain scores but
without the beams' earlier choices there. A place is gone back to `candidates` times, then the one
before it; never over more than `history` tokens.
Taken from the released code (shikiw/OPERA), which the paper's equations leave open in places;
candidates=1, threshold=25 is its faster setting. Beams are counted as by transformers 4.29 there:
an ended answer with its end, a live one with its start. mode="paper": going back forgets what was
excluded later and what has ended since, and a candidate stays ahead of the other tokens however
large its penalty. mode="official": only the next place's exclusions are forgotten, what has ended
returns with a place's second visit, and a penalty may be any. Not reproduced: no going back once an
index fails or beyond 511 tokens, a start token taken for picture. Attention is read as the model
computes it, before another strategy weighs it. Ours: candidates are hypotheses of one forward,
which takes beams x candidates rows of memory; one beam works too.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, log

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.columns import Columns
from halu.search import Choice, Ended, Policies, continuations, filtered, unsampled
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import Sampling

# The release's constants.
FIRST = 10
OTHERS, LATER = -999.0, -1e9
MOST = {"paper": 900.0, "official": inf}  # of a penalty; 900 keeps candidates ahead of the others


@strategies.register("opera")
class OPERA(Strategy):
    """Over-trust penalty and retrospection-allocation."""

    name = "opera"
    kind = "control"
    takes_back = True
    paper = Paper(short="OPERA", arxiv="2311.17911", venue="CVPR 2024")
    off = {"beams": 1, "penalty": 0.0, "threshold": None}

    class Params(StrategyParams):
        """How wide the search is, what it is charged for, and when it goes back."""

        mode: Mode = "paper"
        beams: int = Field(5, ge=1, le=16, description="Hypotheses kept.")
        candidates: int = Field(5, ge=1, le=16, description="Next tokens tried for each.")
        scale: float = Field(50.0, gt=0, le=1000, description="Factor on attention weights.")
        threshold: int | None = Field(
            15, ge=1, le=1000, description="Go back beyond this many agreements; none: never."
        )
        penalty: float = Field(1.0, ge=0, le=100, description="Weight of the penalty.")
        history: int = Field(512, ge=1, le=4096, description="Most tokens to go back.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its last layer recorded, searched."""
        p = self.params
        unsampled(ctx.request.sampling)
        if (p.beams, p.penalty, p.threshold) == (1, 0.0, None):
            return Plan(ctx.main)
        last = ctx.model.layers - 1
        recorded = (*ctx.main.policies, lambda prompt: Columns(prompt.layout, last))
        return Plan(replace(ctx.main, policies=recorded), search=Retrospective(p))


@dataclass(slots=True)
class Moment:
    """The beams after some number of tokens, best first; what follows is known once they were
    judged.

    Attributes:
        beams: their tokens.
        totals: their log-probabilities.
        ended: what had ended by then.
        places: the place of each beam.
        chosen: beam and token of each continuation that was kept.
    """

    beams: list[tuple[int, ...]]
    totals: list[float]
    ended: Ended
    places: list[int] = field(default_factory=list)
    chosen: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Retrospective:
    """The search. Between two choices it has one live hypothesis for each candidate, or it feeds
    beams that no hypothesis stands for token by token.
    """

    params: OPERA.Params
    streams: bool = False
    goes_back: bool = True
    asks: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    prompt: tuple[int, ...] = ()
    moments: list[Moment] = field(default_factory=list)
    ended: Ended = field(default_factory=lambda: Ended(5))
    table: Tensor | None = None  # [beams, V], while the candidates are out
    candidates: list[tuple[int, int]] = field(default_factory=list)  # beam and token
    again: int | None = None  # the place to be chosen anew
    visits: Counter[int] = field(default_factory=Counter)
    excluded: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    over: bool = False

    @property
    def most(self) -> int:
        """One for each candidate of each beam."""
        return self.params.beams * self.params.candidates

    def start(
        self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]
    ) -> "Retrospective":
        """A fresh search: all beams are empty and the first alone counts."""
        width = self.params.beams
        first = Moment([()] * width, [0.0] + [LATER] * (width - 1), Ended(width))
        return Retrospective(
            self.params,
            sampling=sampling,
            ends=ends,
            prompt=prompt,
            moments=[first],
            ended=Ended(width),
        )

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The candidates of the next beams, once there is a hypothesis for each of these."""
        lanes = {tuple(ids): lane for lane, ids in enumerate(seen)}
        if self.table is not None:
            self._judge(lanes, policies)
        while not self.over:
            beams = self.moments[-1].beams
            if any(beam not in lanes for beam in beams):
                return [_toward(beam, seen) for beam in beams]
            table = self._rows(rows[[lanes[beam] for beam in beams]])
            if self.again is None:
                return self._try(table, lanes)
            self._choose_anew(table, self.again)
        return []

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The best of all once the beams have been judged at the length limit, or have ended."""
        if not self.over:
            return None
        now = self.moments[-1]
        for total, beam in reversed(list(zip(now.totals, now.beams, strict=True))):
            self.ended.add(total, len(beam) + 1, list(beam))
        return self.ended.best

    def _rows(self, rows: Tensor) -> Tensor:
        beams = self.moments[-1].beams
        pairs = zip(rows, beams, strict=True)
        return torch.stack([filtered(r, self.sampling, (*self.prompt, *ids)) for r, ids in pairs])

    def _try(self, table: Tensor, lanes: dict[tuple[int, ...], int]) -> list[Choice]:
        beams = self.moments[-1].beams
        values, tokens = table.topk(min(self.params.candidates, table.shape[1]))
        beam, rank = torch.isfinite(values).nonzero(as_tuple=True)
        self.table = table
        self.candidates = list(zip(beam.tolist(), tokens[beam, rank].tolist(), strict=True))
        return list(dict.fromkeys(Choice(lanes[beams[b]], token) for b, token in self.candidates))

    def _judge(self, lanes: dict[tuple[int, ...], int], policies: Policies) -> None:
        """Charges the candidates; then goes back, or chooses among them."""
        assert self.table is not None
        p, now, table = self.params, self.moments[-1], self.table
        self.table = None
        beams, tokens = (list(part) for part in zip(*self.candidates, strict=True))
        kept = [(*now.beams[beam], token) for beam, token in self.candidates]
        tried = [policies[lanes[ids]] for ids in kept]
        records = [next(one for one in each if isinstance(one, Columns)) for each in tried]
        logs = torch.stack([record.logs[-1] for record in records])  # [candidates, w]
        length = logs.shape[1]
        rows = torch.arange(length, 0, -1, dtype=logs.dtype, device=logs.device)
        leant = (1e-7 * (logs + rows * log(p.scale)).exp()).half()
        most = leant.amax(-1)
        found = (leant == most[:, None]).int().argmax(-1).tolist()  # the first of equals
        now.places = [
            _mode([place for place, own in zip(found, beams, strict=True) if own == beam])
            for beam in range(len(now.beams))
        ]
        self.again = self._place(length)
        if self.again is not None:
            return
        charge = (p.penalty * most).nan_to_num(posinf=inf).clamp(max=MOST[p.mode]).float()
        if length <= FIRST:
            charge = -p.penalty * torch.stack([record.picture for record in records])
        charged = torch.where(torch.isfinite(table), OTHERS, -inf)
        charged[beams, tokens] = table[beams, tokens] - charge
        self._choose(charged)

    def _place(self, length: int) -> int | None:
        """Where the beams are to be chosen anew, if they lean on one token; drops what came
        after.
        """
        p, now = self.params, self.moments[-1].places
        place = _mode(now)
        if p.threshold is None or place < FIRST:
            return None
        for beam in range(len(now)):
            if sum(place in one.places[beam : beam + 1] for one in self.moments) <= p.threshold:
                return None
        place += 1 - (self.visits[place + 1] >= p.candidates)
        if self.visits[place] >= p.candidates:
            return None
        self.visits[place] += 1
        place = max(place, 1, length - p.history - 1)
        back = min(place, length - 2)  # one token goes at least
        official = p.mode == "official"
        self.excluded = {
            key: pairs
            for key, pairs in self.excluded.items()
            if (key != place + 1 if official else key <= place)
        }
        self.excluded.setdefault(place, set()).update(self.moments[back].chosen)
        del self.moments[back + 1 :]
        kept = self.moments[back].ended
        self.ended = kept if official else replace(kept)
        return place

    def _choose_anew(self, table: Tensor, place: int) -> None:
        """From plain scores [beams, V], what was chosen before made as unlikely as the last."""
        least = torch.where(torch.isfinite(table), table, inf).amin(-1)
        for beam, token in self.excluded[place]:
            if beam < len(table):  # a rule may leave fewer beams
                table[beam, token] = torch.minimum(table[beam, token], least[beam])
        self.again = None
        self._choose(table)

    def _choose(self, table: Tensor) -> None:
        """The next beams from scores [beams, V]; a continuation that ends is put aside."""
        now, width = self.moments[-1], self.params.beams
        totals = torch.log_softmax(table, -1) + table.new_tensor(now.totals)[:, None]
        on, ended = continuations(totals, width, self.ends)
        length = len(now.beams[0]) + 1
        for one in ended:
            self.ended.add(one.total, length, [*now.beams[one.parent], one.token])
        now.chosen = [(one.parent, one.token) for one in on]
        beams = [(*now.beams[one.parent], one.token) for one in on]
        self.moments.append(Moment(beams, [one.total for one in on], replace(self.ended)))
        self.over = (
            not on
            or length >= self.sampling.max_new_tokens
            or self.ended.settled(float(totals.max()), length + 1)
        )


def _mode(places: Sequence[int]) -> int:
    """The most frequent, the smallest of equals."""
    return max(sorted(set(places)), key=places.count)


def _toward(beam: tuple[int, ...], seen: list[list[int]]) -> Choice:
    """The next token of a beam on the hypothesis that has most of it; the last one again, if all
    of it.
    """
    shared = [_shared(beam, ids) for ids in seen]
    lane = max(range(len(seen)), key=shared.__getitem__)
    keep = min(shared[lane], len(beam) - 1)
    return Choice(lane, beam[keep], keep)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens they begin with in common."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (x, y) in pairs if x != y), min(len(a), len(b)))
