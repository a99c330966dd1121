"""Token ids to text as they come: nothing is emitted that a later token or a stop string could take
back.
"""

from collections.abc import Sequence
from typing import Any


class TextStream:
    """Decodes one answer token by token.

    Args:
        tokenizer: has `decode(ids, skip_special_tokens=...)`.
        stops: strings that end the answer and are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stop for stop in stops if stop)
        self.text = ""
        self.stopped = False
        self.spans: list[tuple[int, int]] = []
        self._ids: list[int] = []
        self._start = 0
        self._read = 0
        self._sent = 0

    def push(self, token: int) -> None:
        """Adds a token; `text`, `spans` and `stopped` are then up to date."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._read])
        now = self._decode(self._ids[self._start :])
        start = len(self.text)
        if not now.endswith("�"):  # else: the middle of a character
            self._append(now[len(before) :])
            self._start, self._read = self._read, len(self._ids)
        self.spans.append((start, len(self.text)))
        self._cut()

    def finish(self) -> None:
        """Emits what was held back as the middle of a character."""
        rest = self._decode(self._ids[self._start :])[
            len(self._decode(self._ids[self._start : self._read])) :
        ]
        if rest and not self.stopped:
            self._append(rest)
            self._start = self._read = len(self._ids)
            self.spans[-1] = (self.spans[-1][0], len(self.text))

    def take(self, *, final: bool) -> str:
        """New text that is safe to show."""
        end = len(self.text)
        if not final and not self.stopped:
            end -= max((self._overlap(stop) for stop in self.stops), default=0)
        new = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return new

    def _append(self, new: str) -> None:
        """Spaces before the first word belong to the chat template, not to the answer."""
        self.text += new if self.text else new.lstrip(" ")

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _cut(self) -> None:
        places = [place for stop in self.stops if (place := self.text.find(stop)) >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.stopped = True
            self.spans = [(min(a, len(self.text)), min(b, len(self.text))) for a, b in self.spans]

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return next(
            (
                n
                for n in range(min(len(stop), len(self.text)), 0, -1)
                if self.text.endswith(stop[:n])
            ),
            0,
        )
