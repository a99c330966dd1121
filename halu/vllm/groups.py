"""Which engine requests belong together."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0
"""Seconds that a branch waits for the others of its request to arrive."""


@dataclass(slots=True, eq=False)
class Group:
    """The branches of one request.

    Attributes:
        size: how many there are to be.
        members: those that have come, by name.
        since: when the first came, in seconds of a clock that never goes back.
    """

    size: int
    since: float
    members: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all have come."""
        return len(self.members) == self.size


class Groups:
    """All groups that the scheduler knows.

    Args:
        clock: what time it is.
        patience: seconds that a branch waits for others.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, patience: float = PATIENCE
    ) -> None:
        self.clock = clock
        self.patience = patience
        self._of: dict[str, Group] = {}
        self._named: dict[str, Group] = {}

    def __len__(self) -> int:
        return len(self._named)

    def add(self, group: str, size: int, name: str, request: Any) -> Group:
        """A branch has come; returns its group."""
        one = self._named.setdefault(group, Group(size, self.clock()))
        one.members[name] = request
        self._of[name] = one
        return one

    def of(self, name: str) -> Group | None:
        """The group of a request, if it has one."""
        return self._of.get(name)

    def drop(self, over: Mapping[str, str]) -> dict[str, str]:
        """Requests are over, each for a reason; returns those that cannot go on without them,
        dropped too, each with the reason of the one that it followed.
        """
        left: dict[str, str] = {}
        for name, why in over.items():
            group = self._of.get(name)
            for member in group.members if group is not None else ():
                if member not in over:
                    left.setdefault(member, why)
        ended = {self._of.pop(name) for name in (*over, *left) if name in self._of}
        if ended:
            self._named = {key: one for key, one in self._named.items() if one not in ended}
        return left

    def late(self) -> set[str]:
        """Branches that have waited too long for others."""
        now = self.clock()
        waiting = (one for one in self._named.values() if not one.whole)
        return {name for one in waiting if now - one.since > self.patience for name in one.members}
