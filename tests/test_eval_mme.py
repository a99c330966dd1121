"""MME: the official reading and scores, digit for digit, and the built-in questions."""

import json
from pathlib import Path

import numpy as np
import pytest

from halu.eval import mme
from halu.eval.benchmark import benchmarks
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import played
from halu.eval.report import report
from halu.eval.run import run
from halu.types import Request

OFFICIAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"


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


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official answers may not be redistributed")
def test_official_sample_answers() -> None:
    expected = json.loads((OFFICIAL / "expected.json").read_text())["mme"]["LaVIN"]
    found = {}
    for file in sorted((OFFICIAL / "mme" / "LaVIN").glob("*.txt")):
        pictures: dict[str, list[dict[str, int]]] = {}
        lines = [line.split("\t") for line in file.read_text().splitlines() if line.strip()]
        for image, _, answer, response in lines:
            score = mme.score_answer(response, answer.strip().lower())
            pictures.setdefault(image, []).append(dict(score.counts))
        counts = np.array([mme.tally(rows) for rows in pictures.values()]).sum(0)
        found[file.stem] = float(mme.rates(counts)["score"])
    subset = sum(found[task] for task in mme.HALLUCINATION)
    assert subset == pytest.approx(expected["official"]["hallucination_subset"])
    per_task = expected["vlmevalkit"]
    for task in ("existence", "count", "position", "color", "OCR", "landmark"):
        assert found[task] == pytest.approx(per_task[task])


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
