"""Conversations asked anew, and windows on a picture."""

import numpy as np
import pytest
from PIL import Image

from halu.conversation import after, before, instead, question_of, repictured
from halu.errors import Unsupported
from halu.regions import LARGEST, cut_out, hottest_window
from halu.types import Message, Part, Picture, Text

ONE, TWO, THREE = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30))


def turn(role: str, *parts: str | Image.Image) -> Message:
    content: tuple[Part, ...] = tuple(
        Text(text=part) if isinstance(part, str) else Picture(image=part) for part in parts
    )
    return Message(role=role, content=content)


def read(messages: tuple[Message, ...]) -> list[list[str | Image.Image]]:
    return [[p.text if isinstance(p, Text) else p.image for p in m.content] for m in messages]


TALK = (
    turn("system", "Be kind."),
    turn("user", ONE, "Who?"),
    turn("assistant", "Ann."),
    turn("user", "Is", TWO, "like", ONE, "?"),
)


def test_only_the_last_question_changes() -> None:
    rest = read(TALK[:3])
    assert question_of(TALK) == "Is like ?"
    assert read(before(TALK, "So:")) == [*rest, ["So: Is", TWO, "like", ONE, "?"]]
    assert read(after(TALK, "Why?")) == [*rest, ["Is", TWO, "like", ONE, "? Why?"]]
    assert read(instead(TALK, "Why?")) == [*rest, [TWO, ONE, "Why?"]]


def test_what_follows_the_last_question_stays() -> None:
    talk = (*TALK, turn("assistant", "It"))
    assert read(before(talk, "So:"))[-1] == ["It"]
    assert read(before(talk, "So:"))[3][0] == "So: Is"


@pytest.mark.parametrize("ask", [before, after, instead])
def test_a_picture_alone_gets_the_words(ask: object) -> None:
    assert callable(ask)
    assert read(ask((turn("user", ONE),), "Why?")) == [[ONE, "Why?"]]
    assert question_of((turn("user", ONE),)) == ""


@pytest.mark.parametrize("ask", [before, after, instead])
def test_without_a_users_turn_there_is_nothing_to_ask(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(Unsupported, match="no user's turn"):
        ask((turn("system", "Be kind."),), "Why?")


def test_each_picture_gives_way_to_any_number() -> None:
    found = read(repictured(TALK, [[THREE], [], [TWO, THREE]]))
    assert found == [
        ["Be kind."],
        [THREE, "Who?"],
        ["Ann."],
        ["Is", "like", TWO, THREE, "?"],
    ]


def test_the_hottest_window_is_the_middlemost_of_equals() -> None:
    assert hottest_window(np.ones((4, 4)), 0.5, (40, 80)) == (10, 20, 30, 60)
    heat = np.zeros((3, 6))
    heat[2, 5] = 1
    left, top, right, bottom = hottest_window(heat, 0.5, (60, 30))
    assert (right, bottom) == (60, 30)
    assert (left, top) == (30, 10)
    assert hottest_window(heat, 1.0, (60, 30)) == (0, 0, 60, 30)
    assert hottest_window(heat, 0.01, (60, 30)) == (50, 20, 60, 30)


def test_a_sliver_is_not_enlarged_without_end() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[7] = True
    found = cut_out(Image.new("RGB", (2000, 2000), "white"), mask)
    assert found.width * found.height <= LARGEST
    assert found.width > 2000
    assert np.asarray(found).min() == 255
    whole = cut_out(ONE, np.zeros((8, 8), bool))
    assert whole.size == ONE.size
    assert np.asarray(whole).max() == 0
