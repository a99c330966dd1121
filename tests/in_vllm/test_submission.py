"""What a request hears from the engine, and how large its pictures may be: needs no vLLM."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image
from vllm_requests import request

from halu.adapters import bare_adapter
from halu.errors import BadImage, Failed
from halu.vllm.asked import PIXELS
from halu.vllm.run import Run
from halu.vllm.submission import Submission
from halu.vlm import asking


def no_words(asides: Any) -> None:
    raise AssertionError("nothing is said beside decoding")


def submission(**sampling: Any) -> Submission:
    return Submission(bare_adapter("tiny-llava"), request("vcd", **sampling), no_words, 512)


def words(one: Submission, text: str = "a dog and a cat") -> list[int]:
    found: list[int] = one.adapter.tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_tokens_that_come_together_all_count() -> None:
    """vLLM puts together what it said while nobody listened, the end included."""
    one, other = submission(), submission()
    tokens = [*words(one), min(one.adapter.ends)]
    event = one.hear(tokens, True)
    for token in tokens[:-1]:
        other.hear([token], False)
    other.hear(tokens[-1:], True)
    assert one.tokens == tokens
    assert one.answer == other.answer
    assert one.answer is not None
    assert one.answer.text == "a dog and a cat"
    assert one.answer.finish_reason == "stop"
    assert event is not None
    assert event.answer is one.answer


def test_tokens_up_to_the_limit_all_count() -> None:
    one = submission()
    one.hear(words(one), True)
    assert one.answer is not None
    assert [token.id for token in one.answer.tokens] == words(one)
    assert one.answer.finish_reason == "length"


@pytest.mark.parametrize("ended", [False, True])
def test_nothing_counts_after_a_stop_string_or_an_end(ended: bool) -> None:
    one = submission(stop=(" and",))
    one.hear(words(one), ended)
    assert one.answer is not None
    assert one.answer.text == "a dog"
    assert one.answer.finish_reason == "stop"
    other = submission()
    end = min(other.adapter.ends)
    other.hear([*words(other, "a dog"), end, *words(other, "a cat")], ended)
    assert other.tokens == [*words(other, "a dog"), end]


def test_log_probabilities_stay_with_their_tokens() -> None:
    one = submission(logprobs=0)
    tokens = words(one)
    one.hear(tokens, True, [{token: -float(n)} for n, token in enumerate(tokens)])
    assert one.answer is not None
    assert [token.logprob for token in one.answer.tokens] == [-float(n) for n in range(len(tokens))]


def test_pictures_that_are_too_large_together_are_refused_by_name() -> None:
    large = Image.new("RGB", (5000, PIXELS // 5000 + 1))
    asked = asking(large, "What is this?", strategy="vcd")
    with pytest.raises(BadImage, match="20,005,000 pixels together"):
        Submission(bare_adapter("tiny-llava"), asked, no_words, 512)


def test_what_is_said_again_after_an_interruption_must_be_what_was_told() -> None:
    run = object.__new__(Run)
    run._one = cast("Any", SimpleNamespace(tokens=[5, 6, 7]))
    run._skip = 3
    run._check([5, 6])
    run._skip = 1
    run._check([7])
    with pytest.raises(Failed, match="then answered differently"):
        run._check([8])
