"""TextHalu-Bench: files as the authors lay them out, its rule's quirks, faulty files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halu.errors import BadInput
from halu.eval.benchmark import benchmarks
from halu.eval.score import Given, score
from halu.eval.texthalu import options, options_chosen, score_given, spotted

SPOTTING = [
    {"filename": "./spot/1.jpg", "letter_group": ["Motel", "###", "", "pull", "PULL"]},
    {"filename": "./spot/2.jpg", "letter_group": ["BLIF"]},
]
UNDERSTANDING = [
    {"filename": "./ask/1.jpg", "letter_group": ["Which words? A.BLIF B.ZORP C.a cat", "A C"]},
    {"filename": "./spot/1.jpg", "letter_group": ["Which?\nA. one\nB. two", "B"]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("spot/1.jpg", "spot/2.jpg", "ask/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    for name, lines in (("Spotting", SPOTTING), ("Understanding", UNDERSTANDING)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.json").write_text(text)
    return tmp_path


def test_questions_of_both_tasks(folder: Path) -> None:
    benchmark = benchmarks.get("textualhalu")
    samples = benchmark.samples(folder, None, 0, None)
    assert [(s.id, s.image, s.label) for s in samples] == [
        ("spotting/1", "spot/1.jpg", ("MOTEL", "PULL", "PULL")),
        ("spotting/2", "spot/2.jpg", ("BLIF",)),
        ("understanding/1", "ask/1.jpg", ("A", "C")),
        ("understanding/2", "spot/1.jpg", ("B",)),
    ]
    assert samples[2].prompt == "Which words? \nA.BLIF \nB.ZORP \nC.a cat"
    assert benchmark.picture("ask/1.jpg", folder).size == (8, 8)
    assert [s.id for s in benchmark.samples(folder, 1, 0, ["understanding"])] == ["understanding/1"]


def test_words_spotted() -> None:
    assert spotted('The text: "Pull", pull!') == ("THE", "PULL")
    score = score_given(spotted("pull motel exit"), ("MOTEL", "PULL", "PULL"), "pull motel exit")
    assert score.counts == {"hits": 2, "false": 1, "missed": 1}
    assert score.value == pytest.approx(2 / 3)
    assert score_given((), ("BLIF",), "...").value is None
    assert score_given((), (), "text").value == 1


def test_options_chosen() -> None:
    known = options("Which words? \nA.BLIF \nB.ZORP \nC.a\n cat")
    assert known == {"A": "BLIF", "B": "ZORP", "C": "a cat"}
    assert options_chosen("A and C", known) == ("A", "C")
    assert options_chosen("It is a cat.", known) == ("C",)
    assert options_chosen("Both words", known) == ("B",)  # the letter anywhere
    assert options_chosen("none", known) == ()


def test_figures_are_summed_over_pictures_and_averaged_over_tasks(folder: Path) -> None:
    answers = folder / "answers.jsonl"
    told = {
        "spotting/1": "motel pull",
        "spotting/2": "BELIEF",
        "understanding/1": "A",
        "understanding/2": "B",
    }
    answers.write_text("".join(json.dumps({"id": k, "answer": v}) + "\n" for k, v in told.items()))
    scored = score("textualhalu", Given(answers, questions=folder))
    spot, understand = (
        scored.splits[name]["texthalu"].metrics for name in ("spotting", "understanding")
    )
    assert spot == pytest.approx({"f1": 4 / 7, "precision": 2 / 3, "recall": 0.5})
    assert understand == pytest.approx({"f1": 0.8, "precision": 1, "recall": 2 / 3})
    pooled = scored.rules["texthalu"].metrics
    assert pooled["average_f1"] == pytest.approx((4 / 7 + 0.8) / 2)
    answers.write_text("".join(json.dumps({"answer": text}) + "\n" for text in told.values()))
    assert (
        score("textualhalu", Given(answers, questions=folder)).rules["texthalu"]
        == (scored.rules["texthalu"])
    )


def test_nothing_hit_is_zero_and_nothing_asked_is_undefined() -> None:
    benchmark = benchmarks.get("textualhalu")
    assert float(benchmark.rates(np.array([0, 0, 3]))["f1"]) == 0
    assert np.isnan(benchmark.rates(np.zeros(3))["f1"])


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda f: (f / "Spotting.json").unlink(), "no Spotting.json or spotting.json in"),
    "torn": (lambda f: (f / "Spotting.json").write_text('{"filename":\n'), "not JSON"),
    "no words": (
        lambda f: (f / "Spotting.json").write_text('{"filename": "a"}\n'),
        "json:1: 'letter_group' is missing",
    ),
    "no answer": (
        lambda f: (f / "Understanding.json").write_text(
            json.dumps({"filename": "a", "letter_group": ["Which?"]})
        ),
        "json:1: 'letter_group' lacks",
    ),
    "picture gone": (lambda f: (f / "ask" / "1.jpg").unlink(), r"1 of 3 pictures .*ask/1\.jpg"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_faulty_folder_gets_one_clear_line(folder: Path, fault: str) -> None:
    spoil, message = SPOILT[fault]
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        benchmarks.get("textualhalu").samples(folder, None, 0, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "spotting/9", "answer": "x"}], "jsonl:1: there is no question 'spotting/9'"),
        ([{"id": "spotting/1", "answer": "x"}] * 2, r"spotting/1 is answered twice: .*:1 and .*:2"),
        ([{"id": "spotting/1", "answer": "x"}], "1 of 2 questions have no answer"),
        ([{"answer": "x"}], "1 answers without ids do not fit 4 questions"),
    ],
)
def test_a_faulty_answer_file(folder: Path, rows: list[dict[str, str]], message: str) -> None:
    answers = folder / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadInput, match=message):
        score("textualhalu", Given(answers, questions=folder))
    with pytest.raises(BadInput, match="--questions with the folder"):
        score("textualhalu", Given(answers))
