"""How much at once and how fast: places in the house, and a token bucket for each key."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from halu.service.refusals import Busy, TooFast


@dataclass(slots=True)
class House:
    """Places for requests. A request holds one from its first byte to its last, so that memory has
    a bound.
    """

    places: int
    inside: int = 0
    closing: bool = False
    typical_seconds: float = 1.0
    """Moving mean of how long requests stay; what a refused client is told to wait."""

    @contextmanager
    def place(self, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
        """Holds a place.

        Raises:
            Busy: at once, if there is none, or if the house closes.
        """
        if self.closing:
            raise Busy("The server is about to stop.", seconds=5.0)
        if self.inside >= self.places:
            raise Busy("The server is busy.", seconds=self.typical_seconds)
        self.inside += 1
        start = clock()
        try:
            yield
        finally:
            self.inside -= 1
            self.typical_seconds += 0.1 * (clock() - start - self.typical_seconds)


@dataclass(slots=True)
class Bucket:
    """Tokens that come back steadily; holds one minute's worth."""

    left: float
    at: float


@dataclass(slots=True)
class Rates:
    """A token bucket for each name; none: no limit."""

    per_minute: int | None
    clock: Callable[[], float] = time.monotonic
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def take(self, name: str) -> None:
        """Takes one token.

        Raises:
            TooFast: if there is none.
        """
        if self.per_minute is None:
            return
        now = self.clock()
        bucket = self.buckets.setdefault(name, Bucket(self.per_minute, now))
        refill = (now - bucket.at) * self.per_minute / 60
        bucket.left, bucket.at = min(self.per_minute, bucket.left + refill), now
        if bucket.left < 1:
            wait = (1 - bucket.left) * 60 / self.per_minute
            raise TooFast("This key has sent too many requests.", seconds=wait)
        bucket.left -= 1
