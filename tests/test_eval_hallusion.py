"""HallusionBench: official files, three accuracies by hand, both rules, and faulty files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import Bench, serving
from PIL import Image

from halu.errors import BadInput
from halu.eval.benchmark import Sample, benchmarks
from halu.eval.hallusion import read_verdict
from halu.eval.judge import Judge, score_all, seated
from halu.eval.score import Given, score


def entry(kind: str, figure: int, question: int, answer: int, **more: Any) -> dict[str, Any]:
    shown = kind == "VD" or figure > 0
    return {
        "category": kind,
        "subcategory": "ocr",
        "visual_input": str(int(shown)),
        "set_id": "0",
        "figure_id": str(figure),
        "sample_note": "",
        "question_id": str(question),
        "question": f"Is it {question}?",
        "gt_answer_details": "It is so.",
        "gt_answer": str(answer),
        "filename": f"./hallusion_bench/{kind}/ocr/0_{figure}.png" if shown else None,
        **more,
    }


QUESTIONS = [
    entry("VD", 0, 0, 1),
    entry("VD", 0, 1, 0),
    entry("VD", 1, 0, 0),
    entry("VD", 1, 1, 1),
    entry("VS", 0, 0, 1),
    entry("VS", 0, 1, 0),
    entry("VS", 1, 0, 1),
    entry("VS", 1, 1, 0),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "HallusionBench.json").write_text(json.dumps(QUESTIONS))
    for item in QUESTIONS:
        if item["filename"]:
            path = tmp_path / item["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    return tmp_path


def rates(name: str, samples: list[Sample], counts: list[dict[str, int]]) -> dict[str, float]:
    benchmark = benchmarks.get(name)
    clusters: dict[str | None, list[dict[str, int]]] = {}
    for sample, row in zip(samples, counts, strict=True):
        clusters.setdefault(sample.cluster, []).append(row)
    total = np.sum([benchmark.tally(rows) for rows in clusters.values()], axis=0)
    return {key: float(value) for key, value in benchmark.rates(total).items()}


def test_without_a_judge_only_questions_with_a_figure_are_asked(folder: Path) -> None:
    benchmark = benchmarks.get("hallusionbench")
    samples = benchmark.samples(folder, None, 0, None)
    assert [sample.id for sample in samples] == [
        *(f"VD_ocr_0_{figure}_{question}" for figure in (0, 1) for question in (0, 1)),
        *(f"VS_ocr_0_1_{question}" for question in (0, 1)),
    ]
    assert samples[0].image == "VD/ocr/0_0.png"
    assert benchmark.picture("VD/ocr/0_0.png", folder).size == (8, 8)
    answers = ["Yes.", "No", "no", "no", "Yes", "perhaps"]  # the fourth is wrong, the last unclear
    scores = [benchmark.score(*pair) for pair in zip(samples, answers, strict=True)]
    assert [score.value for score in scores] == [1, 1, 1, 0, 1, None]
    found = rates("hallusionbench", samples, [dict(score.counts) for score in scores])
    assert found == {"a_acc": 4 / 6, "q_acc": 2 / 4, "f_acc": 1 / 3}


def test_the_judge_counts_unclear_as_right_where_there_is_no_figure(folder: Path) -> None:
    replies = {"a": "Correct.", "b": "This is incorrect", "c": "unclear"}
    with serving(Bench(lambda prompt: replies[prompt.split("Answer: ")[1][0]])) as bench:
        benchmark = seated(benchmarks.get("hallusionbench-official"), Judge(bench.url, "m"))
        samples = benchmark.samples(folder, None, 0, None)
        scores = score_all(benchmark, samples, list("aabcccaa"))
        assert "It is so." in bench.seen[0]["messages"][0]["content"]
    assert samples[4].image is None
    assert [score.value for score in scores] == [1, 1, 0, None, 1, 1, 1, 1]
    found = rates("hallusionbench-official", samples, [dict(score.counts) for score in scores])
    # No figure belongs to the questions without one: two figures of VD, one of VS.
    assert found == {"a_acc": 6 / 8, "q_acc": 2 / 4, "f_acc": 2 / 3}
    assert benchmark.rules == "official, judge m"


def test_without_its_judge_nothing_is_scored(folder: Path) -> None:
    benchmark = benchmarks.get("hallusionbench-official")
    sample = benchmark.samples(folder, 1, 0, None)[0]
    with pytest.raises(BadInput, match="--judge URL"):
        benchmark.score(sample, "Yes")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Correct", "right"),
        ("It is INCORRECT, not correct.", "wrong"),
        ("“correct”", "right"),
        ("unclear", "unclear"),
        ("", "unclear"),
    ],
)
def test_verdicts(reply: str, verdict: str) -> None:
    assert read_verdict(reply) == verdict


def test_variants_that_are_counted_apart_leave_q_acc_undefined(folder: Path) -> None:
    benchmark = benchmarks.get("hallusionbench")
    samples = benchmark.samples(folder, None, 0, None)[:4]
    rows = [benchmark.score(sample, "Yes").counts for sample in samples]
    found = benchmark.rates(np.add(benchmark.tally(rows[:2]), benchmark.tally(rows[2:])))
    assert np.isnan(found["q_acc"])
    assert found["a_acc"] == 0.5
    assert np.isnan(benchmark.rates(np.zeros(len(benchmark.counts)))["a_acc"])


def _file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "answers.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_result_file_is_scored_by_words_and_by_verdicts(folder: Path) -> None:
    verdicts = "11021121"
    rows = [
        item | {"model_prediction": "Yes", "gpt4v_output_gpt_check": verdict}
        for item, verdict in zip(QUESTIONS, verdicts, strict=True)
    ]
    scored = score(
        "hallusionbench",
        Given(_file(folder, rows), questions=folder / "HallusionBench.json"),
        "official",
    )
    assert scored.rules["official"].metrics == {"a_acc": 5 / 8, "q_acc": 1 / 4, "f_acc": 1 / 3}
    scored = score("hallusionbench", Given(_file(folder, rows)))
    assert scored.n == 6
    assert scored.rules["vlmevalkit"].metrics == {"a_acc": 0.5, "q_acc": 0.25, "f_acc": 0}


def test_both_rules_side_by_side_over_different_questions(folder: Path) -> None:
    answers = ["Yes", "No", "no", "both yes and no", "Yes", "No", "No", "hm"]
    rows = [
        item | {"model_prediction": text, "gpt4v_output_gpt_check": verdict}
        for item, text, verdict in zip(QUESTIONS, answers, "11021112", strict=True)
    ]
    scored = score("hallusionbench", Given(_file(folder, rows)), "all")
    assert {rule: figures.n for rule, figures in scored.rules.items()} == {
        "vlmevalkit": 6,
        "official": 8,
    }
    assert scored.n == 8
    assert scored.unreadable == 2  # nobody reads the fourth and the last
    assert scored.warnings == (  # the third: the word is right, the verdict is not; the seventh
        "The rules read 2 answers differently: name the rule with the figure.",
    )
    shown = [row for row in rows if row["visual_input"] == "0"]
    with pytest.raises(BadInput, match="'vlmevalkit' counts questions with a figure"):
        score("hallusionbench", Given(_file(folder, shown)))


ANSWERED = [item | {"model_prediction": "Yes"} for item in QUESTIONS]
FAULTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no answer": ([QUESTIONS[0], *ANSWERED[1:]], "item 1: no answer"),
    "twice": ([ANSWERED[0]] * 2, "question VD_ocr_0_0_0 occurs twice"),
    "unknown": ([ANSWERED[0] | {"figure_id": "7"}], "VD_ocr_0_7_0 is not in"),
    "gap": (ANSWERED[1:], "1 of 6 questions have no answer, such as VD_ocr_0_0_0"),
    "odd label": ([ANSWERED[0] | {"gt_answer": "maybe"}], "item 1: 'gt_answer'"),
    "odd number": ([ANSWERED[0] | {"set_id": "x"}], "item 1: 'set_id' is not a number: 'x'"),
    "empty": ([], "holds no answers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_file(folder: Path, fault: str) -> None:
    rows, message = FAULTS[fault]
    given = Given(_file(folder, rows), questions=folder / "HallusionBench.json")
    with pytest.raises(BadInput, match=message):
        score("hallusionbench", given)


def test_verdicts_are_never_invented(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"item 1: .*holds no verdict"):
        score("hallusionbench", Given(_file(folder, ANSWERED)), "official")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no questions": (lambda f: (f / "HallusionBench.json").unlink(), "no HallusionBench.json in"),
    "twice": (
        lambda f: (f / "HallusionBench.json").write_text(json.dumps(QUESTIONS + QUESTIONS[:1])),
        "item 9: question VD_ocr_0_0_0 occurs twice",
    ),
    "picture gone": (
        lambda f: (f / "hallusion_bench" / "VS" / "ocr" / "0_1.png").unlink(),
        r"1 of 3 pictures are missing .*VS/ocr/0_1\.png",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_faulty_folder_gets_one_clear_line(folder: Path, fault: str) -> None:
    spoil, message = SPOILT[fault]
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        benchmarks.get("hallusionbench").samples(folder, None, 0, None)
    assert "\n" not in str(caught.value)
