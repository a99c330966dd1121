"""Which requests belong together, and whom a step lets in: needs no vLLM."""

from collections.abc import Iterable

import pytest

from halu.vllm.door import Door
from halu.vllm.groups import Groups


def groups(clock: list[float]) -> Groups:
    """Two whole pairs, a and b, c and d; and e, whose partner has not come."""
    known = Groups(lambda: clock[0], patience=10)
    for group, names in (("p", "ab"), ("q", "cd")):
        for name in names:
            known.add(group, 2, name, None)
    known.add("r", 2, "e", None)
    return known


def door(running: Iterable[str], slots: int) -> Door:
    """A step's door while these run and so many slots are free."""
    names = list(running)
    found = Door(groups([0.0]), len(names) + slots)
    found.enter(names)
    return found


def test_a_branch_waits_for_the_others_of_its_request() -> None:
    assert door("", 0).admits("x")  # a plain request is vLLM's own affair
    assert door("", 2).admits("a")
    assert not door("", 1).admits("a")
    assert not door("", 9).admits("e")
    assert door("a", 1).admits("b")
    assert not door("a", 9).admits("c")  # another request is half in
    assert door("ab", 2).admits("c")


def test_behind_a_request_that_waits_for_slots_nobody_comes_in() -> None:
    """Else every slot that falls free goes to whoever needs only one."""
    one = door("y", 1)
    assert not one.admits("a")
    assert not one.admits("x")
    assert one.shut


def test_who_waits_for_a_partner_keeps_nobody_out() -> None:
    one = door("y", 1)
    assert not one.admits("e")
    assert one.admits("x")


def test_a_request_that_is_half_in_comes_first_and_then_the_others() -> None:
    one = door("", 4)
    assert one.admits("a")
    one.enter("a")
    assert not one.admits("x")
    assert not one.admits("c")
    assert one.admits("b")
    one.enter("b")
    assert one.admits("c")
    assert one.admits("x")


def test_partners_come_in_through_a_shut_door() -> None:
    one = door("a", 1)
    one.shut = True
    assert one.admits("b")
    assert not one.admits("x")


def test_who_waits_too_long_is_told() -> None:
    clock = [0.0]
    known = groups(clock)
    assert known.late() == set()
    clock[0] = 11.0
    assert known.late() == {"e"}


def test_one_branch_takes_the_others_along() -> None:
    known = groups([0.0])
    assert len(known) == 3
    assert known.drop({"a": "why", "x": "another"}) == {"b": "why"}
    assert known.of("b") is None
    assert known.drop({"c": "one", "d": "two"}) == {}
    assert known.of("e") is not None
    assert len(known) == 1


@pytest.mark.parametrize("extra", ["", "f"])
def test_a_member_too_many_lets_nobody_wait_for_ever(extra: str) -> None:
    clock = [0.0]
    known = groups(clock)
    for name in extra:
        known.add("p", 2, name, None)
    clock[0] = 11.0
    assert known.late() == {"e", *("abf" if extra else "")}
