"""From rows to `summary.json`, tables and the page; figures checked by hand on tiny runs."""

import io
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from halu.errors import BadInput
from halu.eval import words
from halu.eval.backends import ready
from halu.eval.benchmark import Metric
from halu.eval.console import tables
from halu.eval.forest import forest
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import played, playing
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.store import read_rows
from halu.eval.summary import Summary
from halu.types import Request

LINE = re.compile(rb"^.*\n", re.MULTILINE)


def plan(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "models": (Source(name="played"),),
        "benchmarks": ("pope-scenes", "chair-scenes"),
        "strategies": (Arm(strategy="vcd", params={"alpha": 0.5}),),
        "limit": 5,
        "batch_size": 2,
    }
    return Plan.model_validate(fields | changes)


def yes(request: Request) -> str:
    return "Yes"


def clever(request: Request) -> str:
    """Greedy says yes to all and invents; vcd is often right."""
    words_ = request.messages[-1].content[-1]
    assert words_.type == "text"
    if "describe" in words_.text:
        made_up = "" if request.strategy == "vcd" else " <b>A fire hydrant</b> & a toaster."
        return f"A person and a dog.{made_up}"
    if request.strategy != "vcd":
        return "Yes"
    return random.Random(request.sampling.seed).choice(("Yes", "No", "Perhaps"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    run(plan(limit=12, command="halu bench <x>"), ready(playing(clever), memory=lambda: 321.0), out)
    return out


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    return report(folder)


def test_summary_has_the_shape_of_the_contract(folder: Path, summary: Summary) -> None:
    stored = json.loads((folder / "summary.json").read_text())
    assert stored == json.loads(summary.model_dump_json())
    assert {"versions", "seed", "command", "model"} <= stored["run"].keys()
    results = stored["results"]
    assert [(r["benchmark"], r["split"], r["strategy"]) for r in results] == [
        (benchmark, split, strategy)
        for benchmark, splits in {
            "pope-scenes": ("random", "popular", "adversarial"),
            "chair-scenes": ("test",),
        }.items()
        for split in splits
        for strategy in ("greedy", "vcd")
    ]
    metrics = {
        "pope-scenes": {"accuracy", "precision", "recall", "f1", "yes_ratio"},
        "chair-scenes": {"chair_s", "chair_i", "recall", "precision", "length"},
    }
    for result in results:
        names = metrics[result["benchmark"]]
        assert {"params", "n", "unreadable", "cost"} <= result.keys()
        assert result["metrics"].keys() == names
        assert all(figure.keys() == {"value", "ci"} for figure in result["metrics"].values())
        assert result["vs_greedy"].keys() == (names if result["strategy"] == "vcd" else set())
        assert all({"delta", "ci", "p"} <= d.keys() for d in result["vs_greedy"].values())
        assert result["cost"].keys() == {
            "tokens_per_second",
            "seconds_per_sample",
            "forwards_per_token",
            "peak_memory_mb",
        }
        assert result["cost"]["peak_memory_mb"] == 321


def test_figures_agree_with_the_rows(folder: Path, summary: Summary) -> None:
    rows = [r for r in read_rows(folder) if (r.split, r.strategy) == ("random", "vcd")]
    found = next(r for r in summary.results if (r.split, r.strategy) == ("random", "vcd"))
    right = [bool({"tp", "tn"} & row.counts.keys()) for row in rows]
    accuracy = found.metrics["accuracy"]
    assert accuracy.value == pytest.approx(np.mean(right))
    assert accuracy.ci is not None
    assert accuracy.ci[0] <= (accuracy.value or 0) <= accuracy.ci[1]
    assert found.unreadable == sum(row.answer == "Perhaps" for row in rows) > 0
    assert found.n == 12
    assert found.images == 2
    assert found.params == {"alpha": 0.5}
    assert found.vs_greedy["accuracy"].delta == pytest.approx(np.mean(right) - 0.5)
    assert found.vs_greedy["accuracy"].test == "mcnemar"
    assert found.cost.forwards_per_token == 1


def test_notes_warn_of_what_figures_hide(summary: Summary) -> None:
    assert summary.notes == (
        "pope-scenes: 2 pictures are few; intervals are too narrow below about 30.",
        "chair-scenes: 12 pictures are few; intervals are too narrow below about 30.",
        *(
            f"pope-scenes, {split}: greedy always gives the same answer."
            for split in ("random", "popular", "adversarial")
        ),
        *(
            f"chair-scenes, test: {label} always gives the same answer."
            for label in ("greedy", "vcd(alpha=0.5)")
        ),
    )


def test_verdicts_follow_the_direction_of_the_metric(summary: Summary) -> None:
    chair = next(r for r in summary.results if (r.split, r.strategy) == ("test", "vcd"))
    assert chair.vs_greedy["chair_i"].verdict == "better"
    assert (chair.vs_greedy["chair_i"].delta or 0) < 0
    assert chair.vs_greedy["length"].verdict == "lower"
    assert chair.vs_greedy["recall"].verdict == "no difference"


def test_equal_strategies_show_no_difference(tmp_path: Path) -> None:
    arms = (Arm(strategy="vcd"), Arm(strategy="vcd", params={"alpha": 2}), Arm(strategy="var"))
    run(plan(strategies=arms), played(yes), tmp_path)
    found = report(tmp_path)
    assert [r.label for r in found.results[:4]] == ["greedy", "vcd", "vcd(alpha=2)", "var"]
    for result in found.results:
        for delta in result.vs_greedy.values():
            assert delta.verdict == "no difference"
            assert delta.p in (1, None)
            assert delta.delta in (0, None)


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    run(plan(), played(lambda request: "No."), tmp_path)
    found = json.loads(report(tmp_path).model_dump_json())["results"][0]
    assert found["metrics"]["precision"] == {"value": None, "ci": None}
    assert found["metrics"]["recall"]["value"] == 0
    assert "undefined" in (tmp_path / "report.html").read_text("utf-8")


def test_an_unfinished_run_compares_what_all_have_answered(folder: Path, tmp_path: Path) -> None:
    lines = LINE.findall((folder / "rows.jsonl").read_bytes())
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:30])
    found = report(tmp_path)
    assert found.notes[0] == "Unfinished: 6 of 96 answers are there."
    assert [(r.label, r.n) for r in found.results] == [("greedy", 2), ("vcd(alpha=0.5)", 2)]
    assert found.results[0].metrics["accuracy"].ci is None
    (tmp_path / "rows.jsonl").write_bytes(b"")
    assert report(tmp_path).results == ()


def test_different_questions_are_not_compared(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    text = (folder / "rows.jsonl").read_text().replace("Is there", "Is there not", 1)
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(BadInput, match="Not every strategy was asked the same"):
        report(tmp_path)


def test_the_page_is_one_file_that_fetches_nothing(folder: Path, summary: Summary) -> None:
    page = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "url(" not in page
    assert "not claims about LLaVA-1.5" in page
    assert "data:image/jpeg;base64," in page
    assert "halu bench &lt;x&gt;" in page
    assert "&lt;b&gt;A " in page
    assert "<b>A fire" not in page
    assert re.search(r'<mark class="wrong"[^>]*>fire hydrant</mark>', page)
    assert 'class="delta better"' in page
    assert "unreadable, counted as yes" in page


def test_the_report_can_be_made_again_and_is_the_same(folder: Path, summary: Summary) -> None:
    before = [(folder / name).read_bytes() for name in ("summary.json", "report.html")]
    assert report(folder) == summary
    assert before == [(folder / name).read_bytes() for name in ("summary.json", "report.html")]


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        report(tmp_path)


def test_tables_for_the_terminal(summary: Summary) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    found = tables(summary)
    assert len(found) == 4
    for table in found:
        console.print(table)
    text = console.export_text()
    assert "pope-scenes · random · 12 samples, 2 pictures" in text
    assert "vcd(alpha=0.5)" in text
    assert "better" in text


def test_how_figures_are_written() -> None:
    share = Metric("a", "higher", "")
    number = Metric("l", "neither", "", unit="number")
    assert [words.figure(x, share) for x in (0.8731, None)] == ["87.3", "undefined"]
    assert words.figure(31.25, number) == "31.2"
    assert [words.change(x, share) for x in (0.012, -0.004, 0.0001)] == ["+1.2", "−0.4", "±0.0"]
    assert words.changes((-0.01, 0.02), share) == "−1.0 to +2.0"
    assert [words.probability(p) for p in (0.0004, 0.0312, 0.5, None)] == [
        "p < 0.001",
        "p = 0.031",
        "p = 0.50",
        "",
    ]


def test_forest_plot_has_zero_in_the_middle(summary: Summary) -> None:
    results = [r for r in summary.results if r.benchmark == "chair-scenes"]
    metrics = [Metric("chair_i", "lower", ""), Metric("length", "neither", "", unit="number")]
    plot = forest(results, metrics)
    assert plot is not None
    (bar,) = plot.bars
    assert bar.low <= bar.x <= bar.high < plot.zero
    assert [tick.x for tick in plot.ticks if tick.text == "0"] == [plot.zero]
    assert forest(results[:1], metrics) is None
