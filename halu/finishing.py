"""A search that replaces the answer by another text once it is whole."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from halu.errors import Failed
from halu.search import Choice, Pick, Policies
from halu.strategy import Context
from halu.types import Finding, Sampling


@dataclass
class Finished:
    """The search: plain decoding, its answer corrected once it is whole."""

    ctx: Context
    correct: Callable[[str], tuple[str, tuple[Finding, ...]]]
    asks: bool
    streams: bool = False
    goes_back: bool = False
    pick: Pick = field(default_factory=Pick)
    findings: tuple[Finding, ...] = ()

    @property
    def most(self) -> int:
        """One hypothesis."""
        return 1

    def start(
        self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]
    ) -> "Finished":
        """A fresh search for one request."""
        return Finished(
            self.ctx, self.correct, self.asks, pick=Pick().start(sampling, ends, prompt)
        )

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """One token."""
        return self.pick.advance(rows, seen, policies)

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The tokens of the corrected answer."""
        tokens = self.pick.best(live, final=final)
        if tokens is None:
            return None
        said = self.ctx.text(tokens).strip()
        new, self.findings = self.correct(said)
        ended = [token for token in tokens[-1:] if token in self.pick.ends]
        return tokens if new == said else [*spelled(self.ctx, new), *ended]


def spelled(ctx: Context, text: str) -> list[int]:
    """The text's tokens: what comes into the prompt when the text takes the picture's place."""
    bare, full = (ctx.branch("text", words=words).prompt.ids for words in ("", text))
    count = (len(full) - len(bare)) // len(ctx.main.prompt.layout.images)
    for first in range(len(bare) + 1):
        tokens = full[first : first + count]
        if bare[:first] == full[:first] and ctx.text(tokens).strip() == text:
            return list(tokens)
    raise Failed("The model's tokenizer cannot write the corrected answer.")
