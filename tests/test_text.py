"""Text as it comes: characters of several tokens, stop strings, and spans that tile the text."""

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from halu.testing.random_models import random_adapter
from halu.text import TextStream

LOST = "\N{REPLACEMENT CHARACTER}"
TOKENIZERS = {family: random_adapter(family).tokenizer for family in ("llava", "qwen2_vl")}
on_both = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


class Pieces:
    """A tokenizer whose token n is the n-th of these bytes."""

    def __init__(self, *pieces: bytes | str) -> None:
        self.pieces = [p.encode() if isinstance(p, str) else p for p in pieces]

    def decode(self, ids: list[int], **own: Any) -> str:
        return b"".join(self.pieces[n] for n in ids).decode(errors="replace")


def streamed(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    """The stream after these tokens, and what was shown step by step."""
    text = TextStream(tokenizer, stops)
    shown = []
    for token in ids:
        text.push(token)
        shown.append(text.take(final=False))
        if text.stopped:
            break
    text.finish()
    shown.append(text.take(final=True))
    return text, shown


def assert_tiled(text: TextStream) -> None:
    """Spans follow one another without a gap and cover the text."""
    edges = [0, *(stop for _, stop in text.spans)]
    assert [start for start, _ in text.spans] == edges[:-1]
    assert all(start <= stop for start, stop in text.spans)
    if text.spans:
        assert edges[-1] == len(text.text)


@on_both
@given(written=st.text(alphabet="ab .\né日ﬁ🙂👩\u200d\u0301\t0", max_size=30))
@example("né 日本 🙂👩‍👩‍👧 ﬁ")
@example("Is there a dog in the image?  two   spaces\n\n")
def test_any_text_comes_out_as_it_went_in(tokenizer: Any, written: str) -> None:
    ids = tokenizer.encode(written, add_special_tokens=False)
    assume(not set(ids) & set(tokenizer.all_special_ids))
    text, shown = streamed(tokenizer, ids)
    assert text.text == tokenizer.decode(ids, clean_up_tokenization_spaces=False).lstrip(" ")
    assert "".join(shown) == text.text
    assert not text.stopped
    assert_tiled(text)


@on_both
@given(ids=st.lists(st.integers(0, 300), max_size=25))
@example([200, 201, 202])
def test_any_tokens_come_out_as_the_tokenizer_reads_them(tokenizer: Any, ids: list[int]) -> None:
    """Random models say bytes that are no characters."""
    text, shown = streamed(tokenizer, ids)
    read = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert text.text == read.lstrip(" ")
    assert "".join(shown) == text.text
    assert_tiled(text)


def test_spaces_before_the_first_word_are_the_templates() -> None:
    text, shown = streamed(Pieces(" ", "  a", " ", "b "), [0, 1, 2, 3])
    assert shown == ["", "a", " ", "b ", ""]
    assert text.spans == [(0, 0), (0, 1), (1, 2), (2, 4)]


def test_a_character_of_several_tokens_is_shown_once_it_is_whole() -> None:
    face = "🙂".encode()
    tokenizer = Pieces("a", face[:1], face[1:3], face[3:], "b")
    text, shown = streamed(tokenizer, [0, 1, 2, 3, 4])
    assert shown == ["a", "", "", "🙂", "b", ""]
    assert text.spans == [(0, 1), (1, 1), (1, 1), (1, 2), (2, 3)]
    cut, shown = streamed(tokenizer, [0, 1, 2])
    assert shown == ["a", "", "", LOST]
    assert cut.text == "a" + LOST
    assert_tiled(cut)


def test_special_tokens_are_not_said() -> None:
    tokenizer = TOKENIZERS["llava"]
    ids = tokenizer.encode("a dog", add_special_tokens=False)
    text, _ = streamed(tokenizer, [ids[0], tokenizer.eos_token_id, *ids[1:]])
    assert text.text == tokenizer.decode(ids)
    assert len(text.spans) == len(ids) + 1
    assert_tiled(text)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "said"),
    [
        (["yes", ". Be", "cause"], (".",), ["yes", ""], "yes"),
        (["a S", "TO", "P b"], ("STOP",), ["a ", "", ""], "a "),
        (["a S", "TO", "RM b"], ("STOP",), ["a ", "", "STORM b"], "a STORM b"),
        (["one STOP two"], ("STOP",), ["one "], "one "),
        (["aab", "c"], ("aabc", "ab"), ["a"], "a"),
        (["xx", "xy"], ("xxy",), ["", "x"], "x"),
        (["ab", "ab", "c"], ("abc",), ["", "ab", ""], "ab"),
        (["end"], ("end",), [""], ""),
        (["a", "b"], ("",), ["a", "b"], "ab"),
        (["a", "ST"], ("STOP",), ["a", ""], "aST"),
        (["ü", "ß"], ("üß", "ß"), ["", ""], ""),
    ],
)
def test_stop_strings(
    pieces: list[str], stops: tuple[str, ...], shown: list[str], said: str
) -> None:
    text, steps = streamed(Pieces(*pieces), list(range(len(pieces))), stops)
    assert text.text == said
    assert steps[: len(shown)] == shown
    assert "".join(steps) == said
    assert text.stopped == any(stop and stop in "".join(pieces) for stop in stops)
    assert_tiled(text)


@given(
    pieces=st.lists(st.text(alphabet="abc🙂", min_size=1, max_size=4), max_size=12),
    stops=st.lists(st.text(alphabet="abc🙂", min_size=1, max_size=3), max_size=3),
    cuts=st.integers(0, 10**6),
)
def test_nothing_is_shown_that_a_stop_takes_back(
    pieces: list[str], stops: list[str], cuts: int
) -> None:
    """Against the obvious way: the whole text up to the first stop that appears."""
    data = [part for piece in pieces for part in _torn(piece.encode(), cuts)]
    text, shown = streamed(Pieces(*data), list(range(len(data))), tuple(stops))
    whole, wanted = "", None
    for n in range(1, len(data) + 1):
        whole = b"".join(data[:n]).decode(errors="ignore")
        places = [whole.find(stop) for stop in stops if stop in whole]
        if places:
            wanted = whole[: min(places)]
            break
    assert text.text == (whole if wanted is None else wanted)
    assert "".join(shown) == text.text
    assert text.stopped == (wanted is not None)
    assert_tiled(text)


def _torn(data: bytes, cuts: int) -> list[bytes]:
    """The bytes in one or two pieces, perhaps in the middle of a character."""
    place = cuts % (len(data) + 1)
    return [part for part in (data[:place], data[place:]) if part]
