"""MMHal-Bench and VaLLu: official files in, the judge's replies read as their scripts do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging import Bench, serving
from PIL import Image

from halu.errors import BadInput
from halu.eval.benchmark import Benchmark, benchmarks
from halu.eval.judge import Judge, Judged, score_all, seated
from halu.eval.mmhal import rated as mmhal_rated
from halu.eval.plan import Plan, Source
from halu.eval.played import played
from halu.eval.run import run
from halu.eval.score import Given, score
from halu.eval.store import JUDGED, read_manifest, read_rows
from halu.eval.summary import summarise
from halu.eval.vallu import ASPECTS
from halu.eval.vallu import rated as vallu_rated

MMHAL = [
    {
        "question_type": kind,
        "question_topic": "person",
        "image_id": f"{number:016x}",
        "image_src": f"https://example.org/a/{number}.jpg",
        "image_content": ["Cat", "Mat"],
        "question": f"What does cat {number} do?",
        "gt_answer": "It sleeps.",
        "model_answer": "",
    }
    for number, kind in enumerate(["attribute", "counting", "other"])
]
VALLU = [
    {
        "id": number,
        "image": f"../ART/image/{number}.jpg",
        "conversations": [{"from": "human", "value": f"Why {number}?\n<image>"}],
        "task": "reasoning",
    }
    for number in range(3)
]


@pytest.fixture
def mmhal(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for item in MMHAL:
        name = str(item["image_src"]).split("/")[-1]
        Image.new("RGB", (8, 8), (0, 0, 80 * int(name[0]))).save(tmp_path / "images" / name)
    (tmp_path / "response_template.json").write_text(json.dumps(MMHAL, indent=2))
    (tmp_path / "eval_gpt4.py").write_text(
        "import nowhere\ntemplate = '''Objects {}\nAsked {}\nHuman {}\nModel {}'''\n"
    )
    return tmp_path


@pytest.fixture
def vallu(tmp_path: Path) -> Path:
    (tmp_path / "ART" / "image").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "ART" / "image" / f"{number}.jpg")
    (tmp_path / "vallu_benchmark.jsonl").write_text("".join(json.dumps(i) + "\n" for i in VALLU))
    (tmp_path / "evaluate_gpt.py").write_text(
        'prompt_abstract_1="Look. Query: "\nprompt_abstract_2="Rate it."\nraise SystemExit\n'
    )
    return tmp_path


def measured(benchmark: Benchmark, folder: Path, answers: list[str]) -> dict[str, float]:
    samples = benchmark.samples(folder, None, 0, None)
    scores = score_all(benchmark, samples, answers)
    found = benchmark.rates(np.array(benchmark.tally(each.counts for each in scores)))
    return {name: float(value) for name, value in found.items()}


def test_mmhal_is_rated_by_the_judge(mmhal: Path) -> None:
    ratings = {
        "good": "It is fine.\nRating: 6",
        "bad": "rating: 2",
        "odd": "Rating: 3 or rating: 4",
    }
    with serving(Bench(lambda prompt: ratings[prompt.rpartition(" ")[2]])) as bench:
        benchmark = seated(benchmarks.get("mmhal"), Judge(bench.url, "m"))
        found = measured(benchmark, mmhal, list(ratings))
        asked = {sent["messages"][0]["content"] for sent in bench.seen}
    assert found == {"score": 8 / 3, "hallucination_rate": 2 / 3}
    assert "Objects Cat, Mat\nAsked What does cat 0 do?\nHuman It sleeps.\nModel good" in asked
    assert benchmark.rules == "mmhal, judge m"
    samples = benchmark.samples(mmhal, 2, 0, ["test"])
    assert [(s.id, s.image, s.category) for s in samples] == [
        ("0", "0.jpg", "attribute"),
        ("1", "1.jpg", "counting"),
    ]
    assert benchmark.picture("1.jpg", mmhal).size == (8, 8)


@pytest.mark.parametrize(
    ("reply", "rating", "value"),
    [
        ("- Rating: 0, not informative, with hallucination", 0, 0),
        ("RATING: 6", 6, 1),
        ("Rating: 3, no. Rating: 3.", 3, 0.5),
        ("Rating: 4 ... Rating: 5", 0, None),
        ("Rating 5", 0, None),
        ("", 0, None),
    ],
)
def test_mmhal_reads_ratings_as_its_script_does(
    reply: str, rating: int, value: float | None
) -> None:
    read = mmhal_rated(reply)
    assert read.value == value
    assert read.counts == {"answers": 1, "ratings": rating, "hallucinated": int(rating < 3)}


def test_vallu_shows_the_judge_the_picture(vallu: Path) -> None:
    replies = {"0": 5, "1": 2, "2": 0}

    def reply(prompt: str) -> str:
        rating = replies[prompt.removesuffix("Rate it.")[-1]]
        return "json\n" + json.dumps({name: {"reason": "", "score": rating} for name in ASPECTS})

    with serving(Bench(reply)) as bench:
        benchmark = seated(benchmarks.get("vallu"), Judge(bench.url, "m"))
        found = measured(benchmark, vallu, ["0", "1", "2"])
        parts = bench.seen[0]["messages"][0]["content"]
    assert found == dict.fromkeys(ASPECTS, 3.5)  # the third reply is out of range and left out
    assert parts[0]["text"].startswith("Look. Query: Why ")
    assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("reply", "correctness"),
    [
        (str({aspect: {"score": "[4]"} for aspect in ASPECTS}), 4),
        ("```json\n" + json.dumps(dict.fromkeys(ASPECTS, 3)) + "\n```", 3),
        (json.dumps(dict.fromkeys(ASPECTS[:4], 3)), None),
        ("__import__('os').getcwd()", None),
        ("{1, 2}", None),
        ("", None),
    ],
)
def test_vallu_reads_replies_and_runs_nothing(reply: str, correctness: int | None) -> None:
    read = vallu_rated(reply)
    assert read.counts.get("correctness") == correctness
    assert (read.value is None) == (correctness is None)


@pytest.mark.parametrize("name", ["mmhal", "vallu"])
def test_without_a_judge_nothing_is_scored(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    benchmark = benchmarks.get(name)
    assert benchmark.judged
    assert isinstance(benchmark, Judged)
    sample = benchmark.samples(folder, 1, 0, None)[0]
    with pytest.raises(BadInput, match=r"--judge URL.*HALU_JUDGE_KEY"):
        benchmark.score(sample, "A cat.")
    with pytest.raises(BadInput, match="--judge URL"):
        seated(benchmark, None)


def _written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no template": (
        "mmhal",
        lambda folder: (folder / "response_template.json").unlink(),
        "no response_template.json in",
    ),
    "two scripts": (
        "mmhal",
        lambda folder: (
            shutil.copytree(folder / "images", folder / "b")
            and (folder / "b" / "eval_gpt4.py").write_text("template = ''")
        ),
        r"Two files are eval_gpt4\.py: .*b/eval_gpt4\.py and",
    ),
    "no script": ("mmhal", lambda folder: (folder / "eval_gpt4.py").unlink(), "no eval_gpt4.py in"),
    "script without text": ("mmhal", _written("eval_gpt4.py", "a = 1"), "sets no text 'template'"),
    "script with other places": (
        "mmhal",
        _written("eval_gpt4.py", "template = '{a} {}'"),
        "does not have four places",
    ),
    "not a script": ("mmhal", _written("eval_gpt4.py", "template ="), "not a Python script"),
    "torn": ("mmhal", _written("response_template.json", '[{"question": "'), "json:1: not JSON"),
    "no contents": (
        "mmhal",
        _written("response_template.json", json.dumps([MMHAL[0] | {"image_content": "Cat"}])),
        "item 1: 'image_content'",
    ),
    "picture gone": (
        "mmhal",
        lambda folder: (folder / "images" / "1.jpg").unlink(),
        r"1 of 3 pictures are missing .*1\.jpg",
    ),
    "ids clash": (
        "vallu",
        _written("vallu_benchmark.jsonl", (json.dumps(VALLU[0]) + "\n") * 2),
        "jsonl:2: question id 0 occurs twice",
    ),
    "no question": (
        "vallu",
        _written("vallu_benchmark.jsonl", '{"id": 1, "image": "a.jpg"}\n'),
        "jsonl:1: 'conversations'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_gets_one_clear_line(fault: str, request: pytest.FixtureRequest) -> None:
    name, spoil, message = FAULTS[fault]
    folder = request.getfixturevalue(name)
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        benchmarks.get(name).samples(folder, None, 0, None)
    assert "\n" not in str(caught.value)


def _completion(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def test_saved_replies_are_counted_without_a_judge(tmp_path: Path) -> None:
    answers = tmp_path / "evaluation.json"
    told = [_completion(f"Rating: {number % 7}") for number in range(95)]
    answers.write_text(json.dumps([*told, _completion("Rating: 1, rating: 2")], indent=2))
    found = score("mmhal", Given(answers)).rules["mmhal"]
    ratings = [*(number % 7 for number in range(95)), 0]
    assert found.metrics["score"] == pytest.approx(sum(ratings) / 96)
    assert found.metrics["hallucination_rate"] == sum(rating < 3 for rating in ratings) / 96
    assert found.unreadable == 1

    lines = [{"score": {aspect: {"score": str(number)} for aspect in ASPECTS}} for number in (2, 5)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert score("vallu", Given(answers)).rules["vallu"].metrics == dict.fromkeys(ASPECTS, 3.5)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("mmhal", [_completion("Rating: 1")] * 95, "1 of 96 questions have no answer"),
        ("mmhal", [_completion("Rating: 1")] * 97, "holds 97 replies for 96 questions"),
        ("mmhal", [{"choices": []}], "item 1: not a chat completion"),
        ("mmhal", [], "holds 0 replies"),
        ("vallu", [{"answer": "x"}], "item 1: 'score' is missing"),
        ("vallu", [], "holds no ratings"),
    ],
)
def test_faulty_saved_replies(tmp_path: Path, name: str, rows: list[Any], message: str) -> None:
    answers = tmp_path / "evaluation.json"
    answers.write_text(json.dumps(rows))
    with pytest.raises(BadInput, match=message):
        score(name, Given(answers))


def test_a_run_has_its_answers_rated_and_keeps_the_replies(mmhal: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    wanted = Plan(models=(Source(name="m"),), benchmarks=("mmhal",), data=mmhal, judge="j at there")
    with pytest.raises(BadInput, match="--judge URL"):
        run(wanted, played(lambda request: "A dog."), out)
    assert not out.exists()
    with serving(Bench(lambda prompt: "Rating: 4")) as bench:
        judge = Judge(bench.url, "j", cache=out / JUDGED)
        run(wanted, played(lambda request: "A dog."), out, judge=judge)
        asked = len(bench.seen)
    rows = read_rows(out)
    assert len(rows) == len(MMHAL)
    assert 0 < asked == len(list((out / JUDGED).iterdir()))
    (result,) = summarise(read_manifest(out), rows).results
    assert result.metrics["score"].value == 4.0
