"""How a run reaches its models: each is opened when its turn comes and closed before the next.

A `Backend` answers batches of requests; a run does not know whether a model in this process, a pool
of processes or a server is behind it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from halu.eval.plan import Source
from halu.types import Generate

Memory = Callable[[], float | None]
"""Peak memory so far in MB, or None where it cannot be known."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A model that is ready. `slots` batches may be answered at once, from as many threads.

    `memory` is asked after every batch and may start counting anew; without one a run reports the
    peak of its own process.
    """

    generate: Generate
    slots: int = 1
    memory: Memory | None = None


Opener = Callable[[Source], AbstractContextManager[Backend]]
"""Opens a model for the time of a `with` block."""


def ready(generate: Generate, slots: int = 1, memory: Memory | None = None) -> Opener:
    """Make an opener of something that answers already, whatever the model is called."""

    @contextmanager
    def opened(source: Source) -> Iterator[Backend]:
        yield Backend(generate, slots, memory)

    return opened
