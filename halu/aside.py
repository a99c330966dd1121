"""What a strategy may run beside its request's own decoding: a prompt read once, or followed
greedily; its memory is given up afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.adapter import check_pixels
from halu.adapters.cache import RowCache
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.prompt import Prompt
from halu.running import Row
from halu.search import Choice
from halu.strategy import Said


@dataclass(slots=True, eq=False, repr=False)
class Aside:
    """One prompt and its greedy continuation, the end token included.

    Attributes:
        prompt: what is read.
        ends: tokens that end it.
        most: most tokens; 1 only reads the prompt.
        each: hears the row [V] that each token was taken from.
        rows: its row of the cache.
        tokens: what has been said.
        scores: the newest row [V].
        error: what its policies or `each` raised; it is over then.
    """

    prompt: Prompt
    ends: frozenset[int] = frozenset()
    most: int = 1
    each: Callable[[Tensor], None] | None = None
    rows: list[list[Row]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scores: Tensor | None = None
    error: Exception | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        policies: Sequence[AttentionPolicy] = (),
        *,
        ends: frozenset[int] = frozenset(),
        most: int = 1,
        each: Callable[[Tensor], None] | None = None,
    ) -> "Aside":
        """An aside under these policies, which may record.

        Raises:
            Unsupported: if the prompt's pixels are not known.
        """
        check_pixels(prompt)
        row = Row(Steered(prompt.layout, tuple(policies)), len(prompt.ids), prompt.next_position)
        return cls(prompt, ends, most, each, rows=[[row]])

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The one."""
        return (self.prompt,)

    @property
    def passing(self) -> bool:
        """Whether the prompt is all."""
        return self.most == 1

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        ended = bool(self.tokens) and self.tokens[-1] in self.ends
        return ended or len(self.tokens) >= self.most or self.error is not None

    def advance(self, scores: Tensor) -> None:
        """Takes the best token of a row [1, V]."""
        self.choose(self.ask(scores).tolist())

    def ask(self, scores: Tensor) -> Tensor:
        """The best token [1] of a row [1, V]; none [0] if anything fails."""
        try:
            self.rows[0][0].check()
            if self.each is not None:
                self.each(scores[0])
        except Exception as error:
            self.error = error
            return scores.new_empty(0)
        self.scores = scores[0]
        return scores.argmax(-1).to(scores.dtype)

    def choose(self, known: Sequence[float]) -> None:
        """Takes the token."""
        self.tokens += map(int, known)
        self.choices = [Choice(0, token) for token in self.tokens[-1:]]

    def fail(self, error: Exception) -> None:
        """It is over."""
        self.error = error

    def fed(self) -> None:
        """One key more."""
        row = self.rows[0][0]
        row.length, row.position = row.length + 1, row.position + 1

    def check(self) -> None:
        """Raises what its policies or `each` raised."""
        if self.error is not None:
            raise self.error

    @property
    def row(self) -> Tensor:
        """The newest row of scores [V].

        Raises:
            Exception: what its policies or `each` raised.
        """
        self.check()
        assert self.scores is not None
        return self.scores


def alone(adapter: Adapter, asides: Sequence[Aside]) -> None:
    """Runs asides to their end, with nothing else beside them."""
    cache, live = RowCache(adapter.facts.layers), list(asides)
    rows = [aside.rows[0][0] for aside in live]
    scores = adapter.runner.read([a.prompt for a in live], [row.steering for row in rows], cache)
    while live:
        for aside, own in zip(live, scores, strict=True):
            aside.rows[0][0].steering.heard(own)
            aside.advance(own[None])
        kept = [index for index, aside in enumerate(live) if not aside.over]
        live = [live[index] for index in kept]
        cache.arrange(kept)
        if live:
            rows = [aside.rows[0][0] for aside in live]
            scores = adapter.runner.step(
                [aside.tokens[-1] for aside in live],
                [row.length for row in rows],
                [row.position for row in rows],
                [row.steering for row in rows],
                cache,
            )
        for aside in live:
            aside.fed()


def said(adapter: Adapter, aside: Aside) -> Said:
    """What an aside has said.

    Raises:
        Exception: what its policies raised.
    """
    aside.check()
    text: str = adapter.tokenizer.decode(aside.tokens, skip_special_tokens=True)
    return Said(tuple(aside.tokens), text.strip())


def continued(prompt: Prompt, tokens: Sequence[int]) -> Prompt:
    """A prompt that goes on with these tokens of an answer."""
    check_pixels(prompt)
    length = len(prompt.ids) + len(tokens)
    new = prompt.next_position + torch.arange(len(tokens))
    places = torch.cat([prompt.positions, new.expand(*prompt.positions.shape[:-1], -1)], -1)
    return replace(
        prompt,
        ids=(*prompt.ids, *tokens),
        layout=replace(prompt.layout, length=length),
        positions=places,
        next_position=prompt.next_position + len(tokens),
    )
