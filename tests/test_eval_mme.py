"""MME: the official reading and scores, digit for digit, and the built-in questions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halu.errors import BadInput, HaluError
from halu.eval import mme
from halu.eval.benchmark import benchmarks
from halu.eval.mme_questions import Line, read_questions, samples_of
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import played
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.score import Given, score
from halu.types import Request

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
needs_official = pytest.mark.skipif(
    not OFFICIAL.exists(),
    reason="needs ../shared/data/eval, whose answers may not be redistributed",
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"),
        ("NO", "no"),
        ("Yes, there is.", "yes"),
        ("No.", "no"),
        ("None of them", "no"),
        ("not at all", "no"),
        ("Now yes", "no"),
        (" yes", "yes"),
        ("  yes", None),
        ("I see no dog", None),
        ("", None),
        ("eyes", "yes"),
    ],
)
def test_only_the_first_four_characters_count(text: str, said: str | None) -> None:
    assert mme.read_mme(text) == said


@pytest.mark.parametrize(
    ("text", "parsed", "value"),
    [
        ("No.", "no", 1),
        ("None of them", "no", 1),
        ("yes", "yes", 0),
        ("I say no", "other", 0),
        ("Maybe", "other", None),
    ],
)
def test_an_answer_has_a_value_if_the_rule_or_a_person_can_read_it(
    text: str, parsed: str, value: float | None
) -> None:
    found = mme.score_answer(text, "no")
    assert (found.parsed, found.value) == (parsed, value)


def test_counts_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        mme.rates(np.ones(len(mme.COUNTS) + 1))


@needs_official
def test_official_sample_answers() -> None:
    folder = OFFICIAL / "mme"
    expected = json.loads((OFFICIAL / "expected.json").read_text())["mme"]["LaVIN"]["official"]
    found = score("mme", Given(folder / "LaVIN", folder / "questions"))
    assert found == score("mme", Given(folder / "LaVIN"))
    assert found.n == 2374
    assert list(found.splits) == list(mme.TASKS)
    totals = found.rules["mme"].metrics
    for name in ("perception", "cognition", "hallucination_subset"):
        assert totals[name] == pytest.approx(expected[name], abs=1e-9)
    assert totals["total"] == totals["perception"] + totals["cognition"]
    for task, known in expected["per_task"].items():
        figures = found.splits[task]["mme"]
        assert figures.metrics["score"] == pytest.approx(known["score"])
        assert figures.metrics["acc"] == pytest.approx(known["acc"] / 100)
        assert figures.metrics["acc_plus"] == pytest.approx(known["acc_plus"] / 100)
        for name in ("images", "other"):
            assert figures.counts[name] == known[name]
        for name in ("TP", "FP", "TN", "FN"):
            assert figures.counts[name.lower()] == known[name]


@needs_official
def test_official_questions_are_read() -> None:
    samples = samples_of(read_questions(OFFICIAL / "mme" / "questions"))
    assert len(samples) == 2374
    assert len({sample.image for sample in samples}) == 1187


@needs_official
def test_rituals_subset_is_joined_with_the_official_questions(tmp_path: Path) -> None:
    folder = OFFICIAL / "mme"
    asked = [
        json.loads(line)
        for line in (folder / "mme_hallucination_subset.jsonl").read_text().splitlines()
    ]
    said = [{"question_id": q["question_id"], "prompt": q["text"], "text": "Yes"} for q in asked]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, said)))
    found = score("mme", Given(path, folder / "questions", partial=True))
    assert found.n == 240
    assert found.rules["mme"].metrics["hallucination_subset"] == 200  # 50 a task
    assert "Every answer is read as 'yes' by the rule 'mme'." in found.warnings


ASKED = [("a.jpg", "Is it a dog?", "Yes"), ("a.jpg", "Is it a cat?", "No")]
ASKED += [("b.jpg", "Are there  two?", "Yes"), ("b.jpg", "Are there three?", "No")]
TAIL = "Please answer yes or no."


@pytest.fixture(params=["lines", "beside", "apart"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two tasks that share their pictures, in each of the layouts."""
    root = tmp_path / "MME"
    for task in ("count", "existence"):
        own = root / "release" / task
        pictures = own / "images" if request.param == "apart" else own
        pictures.mkdir(parents=True)
        for name in ("a.jpg", "b.jpg"):
            Image.new("RGB", (8, 8)).save(pictures / name)
            asked = [(q, a) for image, q, a in ASKED if image == name]
            text = "".join(f"{q} {TAIL}\t{a}\n" for q, a in asked)
            home = own / "questions_answers_YN" if request.param == "apart" else own
            home.mkdir(exist_ok=True)
            if request.param != "lines":
                (home / f"{name[0]}.txt").write_text(text)
        if request.param == "lines":
            text = "".join(f"{image}\t{q} {TAIL}\t{a}\n" for image, q, a in ASKED)
            (root / "release" / f"{task}.txt").write_text(text)
    return root


def test_the_benchmark_reads_every_layout(folder: Path) -> None:
    source = benchmarks.get("mme")
    samples = source.samples(folder, None, 0, None)
    assert [s.split for s in samples] == ["existence"] * 4 + ["count"] * 4
    assert [s.label for s in samples] == ["yes", "no"] * 4
    assert samples[0].prompt == f"Is it a dog? {TAIL}"
    assert source.samples(folder, 1, 0, ["count"]) == samples[4:6]
    assert source.picture(samples[0].image or "", folder).size == (8, 8)
    rows = [source.score(s, "Yes" if s.image == "count/a.jpg" else s.label).counts for s in samples]
    both = source.rates(np.array(source.tally(rows[4:6])) + np.array(source.tally(rows[6:])))
    assert both["score"] == 75 + 50


def test_missing_pictures_are_named(folder: Path) -> None:
    (folder / "release" / "count").rename(folder / "release" / "elsewhere")
    with pytest.raises(HaluError, match=r"pictures are missing|Unknown split 'count'"):
        benchmarks.get("mme").samples(folder, None, 0, ["count"])


def results(folder: Path, replies: list[str], task: str = "existence") -> Path:
    folder.mkdir(exist_ok=True)
    rows = zip(ASKED, replies, strict=True)
    lines = [f"{image}\t{q} {TAIL}\t{a}\t{reply}" for (image, q, a), reply in rows]
    (folder / f"{task}.txt").write_text("\n".join(lines))
    return folder


def test_pairs_are_found_by_picture_within_a_task(tmp_path: Path) -> None:
    path = results(tmp_path / "r", ["Yes.", "no, it is not", "yes", "Maybe"])
    lines = (path / "existence.txt").read_text().split("\n")
    (path / "existence.txt").write_text("\n".join([lines[0], lines[2], lines[1], lines[3]]))
    results(path, ["yes", "yes", "no", "no"], task="count")
    found = score("mme", Given(path))
    assert found.splits["existence"]["mme"].metrics == {"score": 125, "acc": 0.75, "acc_plus": 0.5}
    assert found.splits["existence"]["mme"].counts["other"] == 1
    assert found.splits["count"]["mme"].metrics["acc_plus"] == 0
    alone = score("mme", Given(path / "existence.txt"))
    assert alone.rules == {"mme": found.splits["existence"]["mme"]}
    assert found.unreadable == 1
    assert "perception" not in found.rules["mme"].metrics
    assert "The task count has 2 pictures; MME's has 30." in found.warnings


def test_llavas_answer_file_is_joined_whatever_its_prompt_ends_in(
    folder: Path, tmp_path: Path
) -> None:
    end = "\nAnswer the question using a single word or phrase."
    said = [
        {"question_id": f"{task}/{image}", "prompt": " ".join(q.split()) + end, "text": a}
        for task in ("count", "existence")
        for image, q, a in reversed(ASKED)
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, said)))
    found = score("mme", Given(path, folder))
    assert {name: f["mme"].metrics["score"] for name, f in found.splits.items()} == {
        "existence": 200,
        "count": 200,
    }
    path.write_text("\n".join(map(json.dumps, said[1:])))
    with pytest.raises(BadInput, match="1 of 8 questions have no answer"):
        score("mme", Given(path, folder))
    assert score("mme", Given(path, folder, partial=True)).n == 7
    with pytest.raises(BadInput, match="needs its questions"):
        score("mme", Given(path))


def test_a_picture_with_one_answer_is_left_out_of_acc_plus(folder: Path, tmp_path: Path) -> None:
    said = [
        {"question_id": f"existence/{image}", "prompt": q, "text": a} for image, q, a in ASKED[:3]
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, said)))
    found = score("mme", Given(path, folder, partial=True)).rules["mme"]
    assert found.metrics == {"score": 200, "acc": 1, "acc_plus": 1}
    assert (found.counts["questions"], found.counts["images"]) == (3, 1)
    path.write_text(json.dumps(said[0]))
    found = score("mme", Given(path, folder, partial=True)).rules["mme"]
    assert found.metrics["acc"] == 1
    assert math.isnan(found.metrics["acc_plus"])
    assert math.isnan(found.metrics["score"])


def test_a_picture_of_several_tasks_is_one_unit_of_the_totals() -> None:
    """Only in the tasks whose pictures are named after those of COCO."""
    units: dict[str, list[str | None]] = {}
    for task in ("existence", "count", "OCR"):
        asked = [Line(image, q, a.lower(), None, "here") for image, q, a in ASKED]
        units[task] = [sample.cluster or sample.image for sample in samples_of({task: asked})]
    assert units["existence"] == units["count"] == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert set(units["OCR"]) == {"OCR/a.jpg", "OCR/b.jpg"}  # numbered there, another picture


def test_totals_resample_pictures_of_several_tasks_together(tmp_path: Path) -> None:
    root = tmp_path / "MME"
    root.mkdir()
    (root / "images").mkdir()
    for n in range(12):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(root / "images" / f"{n}.jpg", "PNG")
    asked = [f"{n}.jpg\tIs it {word}?\t{word}\n" for n in range(12) for word in ("Yes", "No")]
    for task in mme.HALLUCINATION:
        (root / f"{task}.txt").write_text("".join(asked))

    def half(request: Request) -> str:
        part = request.messages[-1].content[0]
        assert part.type == "image"
        red = part.image.getpixel((0, 0))[0]
        question = request.messages[-1].content[-1]
        assert question.type == "text"
        return "No" if red % 2 and "No" in question.text else "Yes"

    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("mme",),
        strategies=(Arm(strategy="vcd"),),
        data=root,
    )
    run(plan, played(half), tmp_path / "out")
    found = report(tmp_path / "out")
    (whole,) = (total for total in found.totals if total.label == "greedy")
    one = next(result for result in found.results if result.label == "greedy")
    assert whole.name == "hallucination_subset"
    low, high = one.metrics["score"].ci or (0, 0)
    wide, far = whole.ci or (0, 0)
    assert whole.value == 4 * 125
    # One picture moves all four tasks: the interval is four times a task's, not twice.
    assert far - wide == pytest.approx(4 * (high - low), rel=0.15)


SPOILT = {
    "columns": ("a.jpg\tIs it?\tYes\tyes\nno tabs", r"existence\.txt:2: 1 columns, not 4"),
    "answer": ("a.jpg\tIs it?\tPerhaps\tyes", r"existence\.txt:1: answer 'Perhaps'"),
    "twice": ("a.jpg\tIs it?\tYes\tyes\na.jpg\tIs it?\tYes\tno", "occurs twice"),
    "single": ("a.jpg\tIs it?\tYes\tyes", "1 of 1 .* the second of existence/a.jpg"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_faulty_results_get_one_clear_line(tmp_path: Path, fault: str) -> None:
    text, message = SPOILT[fault]
    (tmp_path / "existence.txt").write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        score("mme", Given(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"No MME results .*existence\.txt"):
        score("mme", Given(tmp_path))


def test_built_in_questions_are_pairs_with_one_truth() -> None:
    source = benchmarks.get("mme-scenes")
    samples = source.samples(None, 20, 0, None)
    assert {s.split for s in samples} == set(mme.HALLUCINATION)
    for one, two in zip(samples[::2], samples[1::2], strict=True):
        assert (one.split, one.image) == (two.split, two.image)
        assert {one.label, two.label} == {"yes", "no"}
        assert one.prompt.endswith("? Please answer yes or no.")
    fewer = source.samples(None, 10, 0, ["existence"])
    assert [s.id for s in fewer] == [s.id for s in samples if s.split == "existence"][:10]
    assert source.picture(samples[0].image or "", None).size == (224, 224)


def test_always_yes_scores_fifty(tmp_path: Path) -> None:
    def yes(request: Request) -> str:
        return "Yes"

    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("mme-scenes",),
        strategies=(Arm(strategy="vcd"),),
        limit=8,
    )
    run(plan, played(yes), tmp_path / "out")
    found = report(tmp_path / "out")
    for result in found.results:
        assert result.metrics["score"].value == 50.0
        assert result.metrics["acc"].value == 0.5
        assert result.metrics["acc_plus"].value == 0.0
