"""What one request has been told so far: tokens with their text, logprobs and evidence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from halu.attention.trace import Trace
from halu.errors import Failed
from halu.layout import Layout
from halu.rules import jensen_shannon
from halu.text import TextStream
from halu.types import (
    Alternative,
    Answer,
    Event,
    Evidence,
    Finding,
    Request,
    Resolved,
    Token,
    Usage,
)


class Transcript:
    """Collects an answer's tokens.

    Args:
        tokenizer: the model's.
        request: says which strings end the answer and what is to be recorded.
        ends: tokens that end an answer; they are tokens of it but no part of its text.
    """

    def __init__(self, tokenizer: Any, request: Request, ends: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.request = request
        self.ends = ends
        self.stream = TextStream(tokenizer, request.sampling.stop)
        self.tokens: list[Token] = []
        self._told = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self.stream.stopped

    def say(
        self,
        token: int,
        *,
        rows: tuple[Tensor, Tensor] | None = None,
        trace: Trace | None = None,
        likely: Mapping[int, float] | None = None,
    ) -> None:
        """Adds a token.

        Args:
            token: its id.
            rows: the main branch's row [V] and the row after the rule [V].
            trace: where the token looked.
            likely: log-probabilities under the row after the rule, of this token and of the
                likeliest.
        """
        if token not in self.ends:
            self.stream.push(token)
            start, stop = self.stream.spans[-1]
        else:
            start = stop = len(self.stream.text)
        self.tokens.append(
            Token(
                id=token,
                text=self.stream.text[start:stop],
                start=start,
                stop=stop,
                logprob=likely[token] if likely else None,
                top=self._top(likely) if likely else None,
                spelling=self._spelling(token) if self._tells_likely else None,
                evidence=self._evidence(token, rows, trace),
            )
        )

    def news(self) -> Event:
        """Text and tokens since the last call; text that a stop string may take back waits."""
        told, self._told = self._told, len(self.tokens)
        return Event(text=self.stream.take(final=False), tokens=tuple(self.tokens[told:]))

    def last(self, answer: Answer) -> Event:
        """What has not been told yet, with the answer."""
        told, self._told = self._told, len(self.tokens)
        text = self.stream.take(final=True)
        return Event(text=text, tokens=tuple(self.tokens[told:]), answer=answer)

    def answer(
        self, layout: Layout, forwards: int, strategy: Resolved, findings: tuple[Finding, ...] = ()
    ) -> Answer:
        """The answer, now that nothing more is said.

        Args:
            layout: of the main branch's prompt.
            forwards: rows that went through the model.
            strategy: the strategy as it ran.
            findings: what a search has to say of the answer.
        """
        tokens = self._closed()
        stopped = self.stopped or (bool(tokens) and tokens[-1].id in self.ends)
        return Answer(
            text=self.stream.text,
            tokens=tokens,
            finish_reason="stop" if stopped else "length",
            usage=Usage(
                prompt_tokens=layout.length,
                image_tokens=layout.image_tokens,
                completion_tokens=len(tokens),
                forwards=forwards,
            ),
            strategy=strategy,
            findings=findings,
        )

    def _closed(self) -> tuple[Token, ...]:
        """All tokens, with spans that tile the final text: what was held back goes to the last one,
        what a stop string cut off is cut from its tokens too.
        """
        self.stream.finish()
        end = len(self.stream.text)
        if self.tokens and self.tokens[-1].stop < end:
            self.tokens[-1] = self._spanning(self.tokens[-1], self.tokens[-1].start, end)
        self.tokens = [
            self._spanning(token, min(token.start, end), end) if token.stop > end else token
            for token in self.tokens
        ]
        return tuple(self.tokens)

    def _spanning(self, token: Token, start: int, stop: int) -> Token:
        own = {"start": start, "stop": stop, "text": self.stream.text[start:stop]}
        return token.model_copy(update=own)

    def numbers(self, token: Tensor, row: Tensor) -> Tensor:
        """A token [] that a row [V] gave, and the log-probabilities that are told with it: numbers
        [n] for `likely`, left on the row's device.
        """
        logs = torch.log_softmax(row, -1)
        count = self.request.sampling.logprobs or 0
        values, ids = logs.topk(min(count, len(row)))
        own = logs.gather(0, token[None])
        # A number in float32 tells tokens below 2**24 apart.
        wide = torch.promote_types(row.dtype, torch.float32)
        return torch.cat([part.to(wide) for part in (token[None], own, ids, values)])

    @staticmethod
    def likely(numbers: Sequence[float]) -> tuple[int, dict[int, float]]:
        """The token, and log-probabilities of it and of the likeliest, none of them -inf.

        Raises:
            Failed: if the row that gave it holds NaN.
        """
        (token, own), best = numbers[:2], numbers[2:]
        if math.isnan(own):
            raise Failed("The scores are no numbers any more: they left the range of their type.")
        half = len(best) // 2
        pairs = zip(best[:half], best[half:], strict=True)
        found = {int(one): value for one, value in pairs if math.isfinite(value)}
        return int(token), {**found, int(token): own}

    def _top(self, likely: Mapping[int, float]) -> tuple[Alternative, ...] | None:
        count = self.request.sampling.logprobs
        if not count:
            return None
        best = sorted(likely.items(), key=lambda one: -one[1])[:count]
        return tuple(
            Alternative(id=token, text=self._spelling(token), logprob=value)
            for token, value in best
        )

    def _spelling(self, token: int) -> str:
        """The token's own text, whatever stands before it."""
        found: str = self.tokenizer.decode([token])
        return found

    @property
    def _tells_likely(self) -> bool:
        return self.request.sampling.logprobs is not None

    def _evidence(
        self, token: int, rows: tuple[Tensor, Tensor] | None, trace: Trace | None
    ) -> Evidence | None:
        if trace is None or rows is None:
            return None
        main, row = rows
        logp = torch.log_softmax(row, -1)
        mass, look = trace.take()
        return Evidence(
            entropy=float(-torch.special.xlogy(logp.exp(), logp.exp()).sum()),
            shift=max(0.0, float(jensen_shannon(main, row))),
            rank=int((main > main[token]).sum()),
            mass=mass,
            look=look if self.request.evidence == "map" else None,
        )
