"""Whom the scheduler lets in in one step."""

from collections.abc import Iterable

from halu.vllm.groups import Group, Groups


class Door:
    """The waiting requests that may come in in one step.

    A branch comes in when another of its request runs already; or, as the first of its request,
    when all have arrived, no other request is half in, and there are slots for all. Else branches
    that wait for each other could fill all slots. While a request is half in, nobody else comes
    before its other branches; and behind one that waits for slots nobody comes in either, who would
    take each slot as it falls free.

    Args:
        groups: what belongs together.
        slots: how many requests may run at once.

    Attributes:
        inside: names of the requests that run.
        shut: whether only partners of those who run may come in any more.
    """

    def __init__(self, groups: Groups, slots: int) -> None:
        self.groups = groups
        self.slots = slots
        self.inside: set[str] = set()
        self.shut = False
        self._half: set[Group] = set()

    def enter(self, names: Iterable[str]) -> None:
        """These run."""
        for name in names:
            self.inside.add(name)
            group = self.groups.of(name)
            if group is not None and group.whole:
                half = not self.inside.issuperset(group.members)
                (self._half.add if half else self._half.discard)(group)

    def admits(self, name: str) -> bool:
        """Whether a waiting request may come in."""
        group = self.groups.of(name)
        if group is not None and not self.inside.isdisjoint(group.members):
            return group.whole
        if self.shut or self._half or (group is not None and not group.whole):
            return False
        self.shut = group is not None and len(self.inside) + group.size > self.slots
        return not self.shut
