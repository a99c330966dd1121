"""Printed words: what is asked of signs, and how readings of them are scored."""

import random

import numpy as np
import pytest

from halu.eval import world
from halu.eval.benchmark import benchmarks
from halu.eval.text_scenes import near_miss, score_reading
from halu.scenes.themes import NONSENSE_WORDS, REAL_WORDS


def test_each_sign_is_asked_about_openly_by_its_word_and_by_a_near_miss() -> None:
    samples = benchmarks.get("text-scenes").samples(None, 9, 0, None)
    for split, words in (("real", REAL_WORDS), ("nonsense", NONSENSE_WORDS)):
        own = [sample for sample in samples if sample.split == split]
        assert [sample.label for sample in own[1:3]] == ["yes", "no"]
        for asked, confirmed, denied in zip(own[::3], own[1::3], own[2::3], strict=True):
            assert asked.image == confirmed.image == denied.image
            assert asked.image is not None
            (sign,) = world.truth(asked.image).prints
            assert asked.label == sign.text
            assert sign.text in words
            assert f'"{sign.text}"' in confirmed.prompt
            assert f'"{sign.text}"' not in denied.prompt


@pytest.mark.parametrize("word", REAL_WORDS + NONSENSE_WORDS)
def test_a_near_miss_differs_in_one_letter_and_is_on_no_sign(word: str) -> None:
    miss = near_miss(word, random.Random(word))
    assert sum(a != b for a, b in zip(word, miss, strict=True)) == 1
    assert miss not in REAL_WORDS + NONSENSE_WORDS


@pytest.mark.parametrize(
    ("text", "value", "slips"),
    [
        ("OPEN", 1, 0),
        ("The sign says open.", 1, 0),
        ("EXIT", 0, 1),
        ("OPEN or EXIT", 0, 1),
        ("OPENS", 0, 0),
        ("I cannot read it", 0, 0),
        ("42!", None, 0),
    ],
)
def test_a_reading(text: str, value: float | None, slips: int) -> None:
    score = score_reading(text, "OPEN")
    assert score.value == value
    assert score.counts == {"open": 1, "read": int(value == 1), "slips": slips}


def test_always_yes_has_known_figures() -> None:
    benchmark = benchmarks.get("text-scenes")
    samples = benchmark.samples(None, 30, 1, ["nonsense"])
    found = benchmark.rates(
        np.array(benchmark.tally(benchmark.score(s, "Yes").counts for s in samples))
    )
    assert {name: float(value) for name, value in found.items()} == {
        "read": 0,
        "accuracy": 0.5,
        "slips": 0,
        "yes_ratio": 1,
    }
