"""A search that writes sentence by sentence: one that names what is not there is drawn anew, and
the best of the candidates goes on (after SENTINEL, Peng et al., arXiv:2507.12455).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.labelling import Judge, Label
from halu.search import Choice, Pick, Policies, drawn, filtered
from halu.types import Finding, Sampling

ENDS = (".", "!", "?", "\n")


@dataclass(frozen=True, slots=True)
class Manner:
    """How sentences are drawn.

    Attributes:
        candidates: sentences drawn at once.
        rounds: most draws for one sentence.
        always: whether every sentence is drawn, or only those that are judged hallucinated.
        temperature: of the drawn sentences.
        finish: the answer ends when more than this share of the candidates say nothing.
        longest: most tokens of a sentence.
    """

    candidates: int
    rounds: int
    always: bool
    temperature: float
    finish: float
    longest: int


@dataclass
class Candidate:
    """A sentence on its way: all tokens of the answer with it, and its log-probability.

    Attributes:
        done: the sentence is whole.
        ended: the answer ends with it.
    """

    tokens: list[int]
    total: float = 0.0
    done: bool = False
    ended: bool = False


@dataclass
class Sentences:
    """The search: one hypothesis, or several while a sentence is drawn anew. A candidate that is
    done waits by saying its last token again in the same place.
    """

    manner: Manner
    text: Callable[[Sequence[int]], str]
    judge: Judge
    streams: bool = False
    goes_back: bool = True
    asks: bool = False
    pick: Pick = field(default_factory=Pick)
    rng: torch.Generator = field(default_factory=torch.Generator)
    before: list[int] = field(default_factory=list)  # tokens before the sentence
    row: Tensor | None = None  # scores [V] of its first token
    total: float = 0.0
    known: set[str] = field(default_factory=set)
    rounds: int = 0
    lanes: list[Candidate] = field(default_factory=list)  # of the hypotheses; empty: one
    closed: list[Candidate] = field(default_factory=list)  # ended, without a hypothesis
    answer: list[int] | None = None
    findings: tuple[Finding, ...] = ()  # one for each sentence that was drawn anew

    @property
    def most(self) -> int:
        """The candidates and the sentence that they compete with."""
        return self.manner.candidates + 1

    def start(
        self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]
    ) -> "Sentences":
        """A fresh search for one request."""
        rng = torch.Generator().manual_seed(sampling.seed)
        pick = Pick().start(sampling, ends, prompt)
        return Sentences(self.manner, self.text, self.judge, pick=pick, rng=rng)

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The next token of the sentence, or of every candidate for it."""
        if not self.lanes:
            return self._write(rows[0], seen[0], 0)
        if all(lane.done for lane in self.lanes):
            return self._settle(rows)
        return self._draw_on(rows)

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The one hypothesis when it has ended, or the candidate that ends the answer."""
        if self.answer is not None or self.lanes:
            return self.answer
        return self.pick.best(live, final=final)

    def _write(self, row: Tensor, said: list[int], lane: int) -> list[Choice]:
        """One token by plain decoding; at the sentence's end it is judged."""
        if len(said) == len(self.before):
            self.row, self.total = row, 0.0
            if self.manner.always and self.rounds < self.manner.rounds:
                return self._draw(lane, [])
        (choice,) = self.pick.advance(row[None], [said])
        self.total += float(torch.log_softmax(row, -1)[choice.token])
        own = Candidate([*said, choice.token], self.total)
        on = Choice(lane, choice.token)
        self._close(own)
        if not own.done or self._accepts(own):
            return [on]
        return self._draw(lane, [] if own.ended else [(own, on)])

    def _draw(self, lane: int, kept: list[tuple[Candidate, Choice]]) -> list[Choice]:
        """First tokens of new candidates, beside those that are kept."""
        assert self.row is not None
        self.rounds += 1
        for _ in range(self.manner.candidates):
            one = Candidate(list(self.before))
            self._sample(self.row, one)
            if not one.ended:
                kept.append((one, Choice(lane, one.tokens[-1], keep=len(self.before))))
        return self._go_on(kept)

    def _draw_on(self, rows: Tensor) -> list[Choice]:
        """The next token of every candidate."""
        kept = []
        for lane, one in enumerate(self.lanes):
            if one.done:
                kept.append((one, _waiting(one, lane)))
                continue
            self._sample(rows[lane], one)
            if not one.ended:
                kept.append((one, Choice(lane, one.tokens[-1])))
        return self._go_on(kept)

    def _go_on(self, kept: Sequence[tuple[Candidate, Choice]]) -> list[Choice]:
        self.lanes = [one for one, _ in kept]
        if not kept:  # every candidate ends the answer
            best = self._best()
            self._remark(best)
            self.answer = best.tokens
        return [choice for _, choice in kept]

    def _settle(self, rows: Tensor) -> list[Choice]:
        """Chooses among whole candidates, or draws again while the best is hallucinated."""
        manner, best = self.manner, self._best()
        silent = sum(len(one.tokens) == len(self.before) + 1 for one in self.closed)
        if silent > manner.finish * manner.candidates:
            best = next(one for one in self.closed if len(one.tokens) == len(self.before) + 1)
        elif self._label(best).hallucinated and self.rounds < manner.rounds and not best.ended:
            lane = self.lanes.index(best)
            self.closed.clear()
            return self._draw(lane, [(best, _waiting(best, lane))])
        self._remark(best)
        if best.ended or len(best.tokens) >= self.pick.sampling.max_new_tokens:
            self.answer = best.tokens
            return []
        lane = self.lanes.index(best)
        self._accept(best)
        return self._write(rows[lane], best.tokens, lane)

    def _sample(self, row: Tensor, one: Candidate) -> None:
        """Another token of a candidate."""
        sampling = Sampling(temperature=self.manner.temperature)
        share = float(torch.rand((), generator=self.rng))
        token = int(drawn(filtered(row, sampling, one.tokens), share))
        one.total += float(torch.log_softmax(row, -1)[token])
        one.tokens.append(token)
        self._close(one)

    def _close(self, one: Candidate) -> None:
        """Sees whether a candidate is whole, and keeps it if it ends the answer."""
        length = len(one.tokens) - len(self.before)
        one.ended = one.tokens[-1] in self.pick.ends
        full = len(one.tokens) >= self.pick.sampling.max_new_tokens
        stop = self._sentence(one).rstrip(" ").endswith(ENDS)
        one.done = one.ended or full or stop or length >= self.manner.longest
        if one.ended:
            self.closed.append(one)

    def _accepts(self, one: Candidate) -> bool:
        """Whether a sentence of plain decoding may stand; then the next one begins."""
        if self._label(one).hallucinated and self.rounds < self.manner.rounds:
            return False
        self._accept(one)
        return True

    def _accept(self, one: Candidate) -> None:
        self.known |= self._label(one).names
        self.before, self.rounds = list(one.tokens), 0
        self.lanes, self.closed = [], []

    def _best(self) -> Candidate:
        def order(one: Candidate) -> tuple[tuple[int, int], float]:
            count = max(len(one.tokens) - len(self.before), 1)
            return self._label(one).rank(self.known), -one.total / count

        return min([*self.lanes, *self.closed], key=order)

    def _label(self, one: Candidate) -> Label:
        return self.judge(self._sentence(one))

    def _remark(self, best: Candidate) -> None:
        """Tells of all candidates for a sentence; `halu.preferences` makes pairs of them."""
        candidates = [*self.lanes, *self.closed]
        labels = [self._label(one) for one in candidates]
        wrong = sum(bool(label.hallucinated) for label in labels)
        before = self.text(self.before)
        stop = len(self.text(best.tokens).strip())
        shown = [
            {
                "text": self._sentence(one).strip(),
                "names": sorted(label.names),
                "hallucinated": label.hallucinated,
                "uncertain": label.uncertain,
            }
            for one, label in zip(candidates, labels, strict=True)
        ]
        finding = Finding(
            start=min(len(before.lstrip()), stop),  # a silent end takes the space before it along
            stop=stop,
            score=wrong / len(candidates),
            reason=f"Chosen among {len(labels)} sentences; {wrong} of them name what is not there.",
            detector="sentinel",
            evidence={
                "context": before.strip(),
                "named": sorted(self.known),
                "candidates": list(shown),
            },
        )
        self.findings = (*self.findings, finding)

    def _sentence(self, one: Candidate) -> str:
        return self.text(one.tokens)[len(self.text(self.before)) :]


def _waiting(one: Candidate, lane: int) -> Choice:
    """The last token once more, in its own place."""
    return Choice(lane, one.tokens[-1], keep=len(one.tokens) - 1)
