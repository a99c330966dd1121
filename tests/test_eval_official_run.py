"""Official folders through a whole run: rows, undefined metrics, summary and page."""

import json
from pathlib import Path

import pytest
from PIL import Image

from halu.eval.plan import Plan
from halu.eval.played import played
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.sources import Source
from halu.types import Request


def yes(request: Request) -> str:
    return "Yes"


@pytest.mark.parametrize("again", [True, False])
def test_a_run_over_pope_files(tmp_path: Path, again: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    asked = [
        {"question_id": n, "image": f"{n // 2}.png", "text": f"Is there a thing {n} in the image?"}
        | {"label": ("yes", "no")[n % 2]}
        for n in range(8)
    ]
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, asked)))
    if again:
        (folder / "coco_repope_random.json").write_text(json.dumps(asked[:3]))
    for n in range(4):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    run(
        Plan(models=(Source(name="played"),), benchmarks=("pope",), data=folder),
        played(yes),
        tmp_path / "out",
    )
    (result,) = report(tmp_path / "out").results
    assert result.metrics["accuracy"].value == 0.5
    expected = pytest.approx(2 / 3) if again else None
    assert result.metrics["repope_accuracy"].value == expected


def test_a_run_over_mme_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "count").mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(folder / "count" / f"{name}.jpg")
        text = "Is there one? Please answer yes or no.\tYes\nAre there two?\tNo\n"
        (folder / "count" / f"{name}.txt").write_text(text)
    run(
        Plan(models=(Source(name="played"),), benchmarks=("mme",), data=folder),
        played(yes),
        tmp_path / "out",
    )
    (result,) = report(tmp_path / "out").results
    assert result.metrics["score"].value == 50
    assert result.n == 6
