"""Freed memory goes back to the system: while nothing runs, and under load now and then.

glibc keeps what threads free, for the next time; pictures and bodies come and go in sizes of which
it keeps ever more. Where the C library is another one this does nothing.
"""

import ctypes
import time
from collections.abc import Callable

PAUSE_SECONDS = 5.0
"""Between two times: looking through all freed memory takes some milliseconds."""
BUSY_SECONDS = 10.0
"""So much longer where something always runs, which waits for it."""


class Trim:
    """Calls the C library, now and then.

    Args:
        trim: gives memory back; by default glibc's, or nothing.
    """

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        self._trim = trim or of_glibc()
        self._next = time.monotonic()

    @property
    def due(self) -> float:
        """Seconds until it may be called again while nothing runs."""
        return max(0.0, self._next - time.monotonic())

    @property
    def late(self) -> bool:
        """Whether it should be called though something runs."""
        return time.monotonic() > self._next + BUSY_SECONDS

    def __call__(self) -> None:
        """Gives memory back."""
        self._trim()
        self._next = time.monotonic() + PAUSE_SECONDS


def of_glibc() -> Callable[[], object]:
    """glibc's `malloc_trim`; nothing where there is none."""
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows takes no None
        return lambda: None
    found.argtypes = [ctypes.c_size_t]
    return lambda: found(0)
