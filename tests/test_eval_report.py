"""From rows to `summary.json`, tables and the page; figures checked by hand on tiny runs."""

import csv
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
from halu.eval.console import show, tables
from halu.eval.forest import forest, levels
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
        assert all(
            figure.keys() == {"value", "ci", "seed_sd"} for figure in result["metrics"].values()
        )
        assert result["vs_greedy"].keys() == (names if result["strategy"] == "vcd" else set())
        assert all({"delta", "ci", "p"} <= d.keys() for d in result["vs_greedy"].values())
        assert result["cost"].keys() == {
            "tokens_per_second",
            "seconds_per_sample",
            "forwards_per_token",
            "peak_memory_mb",
            "time_vs_greedy",
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


def test_totals_over_splits_are_named(summary: Summary) -> None:
    assert [(t.name, t.metric, t.label) for t in summary.totals] == [
        (f"mean_{metric}", metric, label)
        for metric in ("f1", "accuracy")
        for label in ("greedy", "vcd(alpha=0.5)")
    ]
    for total in summary.totals:
        own = [r for r in summary.results if (r.benchmark, r.label) == ("pope-scenes", total.label)]
        assert total.value == pytest.approx(np.mean([r.metrics[total.metric].value for r in own]))
        assert total.ci is not None
        assert total.ci[0] <= total.value <= total.ci[1]
        assert (total.vs_greedy is None) == (total.label == "greedy")


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
    assert found["metrics"]["precision"] == {"value": None, "ci": None, "seed_sd": None}
    assert found["metrics"]["recall"]["value"] == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert re.search("Undefined for every strategy: .*precision", page)


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


def test_the_report_can_be_made_again_and_is_the_same(folder: Path, summary: Summary) -> None:
    names = ("summary.json", "report.html", "report.md", "report.csv")
    before = [(folder / name).read_bytes() for name in names]
    assert report(folder) == summary
    assert before == [(folder / name).read_bytes() for name in names]


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no run"):
        report(tmp_path)


def test_tables_for_the_terminal(summary: Summary) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    found = tables(summary, None)
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


def test_a_figure_without_an_interval_has_no_brackets() -> None:
    share = Metric("a", "higher", "")
    assert words.written(1.0, None, share) == "100.0"
    assert words.written(1.0, (0.9, 1.0), share) == "100.0 (90.0 to 100.0)"


def test_a_total_without_an_interval_has_no_brackets(
    summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = [total.model_copy(update={"ci": None}) for total in summary.totals]
    assert totals
    show(summary.model_copy(update={"totals": tuple(totals)}))
    assert "()" not in capsys.readouterr().out


def test_a_narrow_terminal_gets_every_figure_in_parts(summary: Summary) -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    found = tables(summary, 60)
    assert len(found) > 4
    for table in found:
        assert console.measure(table).maximum <= 60
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    for heading in ("accuracy", "yes_ratio", "chair_i", "fwd/tok", "MB"):
        assert heading in text


def test_a_pipe_gets_tables_whole(summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    wide = Arm(strategy="vcd", params={"alpha": 0.5, "beta": 0.123456789, "noise": 999})
    results = [r.model_copy(update={"label": wide.label}) for r in summary.results]
    show(summary.model_copy(update={"results": tuple(results)}))
    lines = capsys.readouterr().out.splitlines()
    assert any(wide.label in line and line.rstrip().endswith("│") for line in lines)
    assert "…" not in "".join(lines)


def test_markdown_has_every_figure(folder: Path, summary: Summary) -> None:
    text = (folder / "report.md").read_text("utf-8")
    assert "halu bench <x>" in text
    assert "no claim about any other model" in text
    assert "## pope-scenes, adversarial, played" in text
    lines = [line for line in text.splitlines() if line.startswith("| `vcd(alpha=0.5)`")]
    assert len(lines) == 5  # four tables, and captions at equal length
    heads = [line for line in text.splitlines() if line.startswith("| strategy |")]
    for line, head in zip(lines, heads, strict=False):
        assert line.count("|") == head.count("|")
    chair = next(r for r in summary.results if (r.split, r.strategy) == ("test", "vcd"))
    recall = chair.metrics["recall"].value
    assert words.figure(recall, Metric("recall", "higher", "")) in lines[3]
    assert "**−" in lines[3]
    assert "- mean_f1 of pope-scenes, played, `greedy`: " in text


def test_csv_has_every_figure(folder: Path, summary: Summary) -> None:
    with (folder / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for result in summary.results:
        own = [
            line
            for line in lines
            if (line["benchmark"], line["split"]) == (result.benchmark, result.split)
            and line["label"] == result.label
            and not line["at"]
        ]
        assert [line["metric"] for line in own] == list(result.metrics)
        for line in own:
            value = result.metrics[line["metric"]].value
            assert line["value"] == ("" if value is None else str(value))
            delta = result.vs_greedy.get(line["metric"])
            assert line["verdict"] == (delta.verdict if delta else "")
            assert json.loads(line["params"]) == result.params
    cut = [line for line in lines if line["at"] == "equal length"]
    assert [line["metric"] for line in cut] == ["chair_s", "chair_i", "recall"]


def test_percentage_points_are_for_shares() -> None:
    assert words.unit(Metric("accuracy", "higher", "")) == "percentage points"
    assert words.unit(Metric("score", "higher", "", unit="number")) == "points"


def test_forest_plot_has_zero_in_the_middle(summary: Summary) -> None:
    results = [r for r in summary.results if r.benchmark == "chair-scenes"]
    metrics = [Metric("chair_i", "lower", ""), Metric("length", "neither", "", unit="number")]
    plot = forest(results, metrics)
    assert plot is not None
    (bar,) = plot.bars
    assert plot.zero is not None
    assert bar.low <= bar.x <= bar.high < plot.zero
    assert [tick.at for tick in plot.ticks if tick.text == "0"] == [pytest.approx(plot.zero)]
    assert forest(results[:1], metrics) is None


def test_levels_are_drawn_for_several_splits(summary: Summary) -> None:
    pope = [r for r in summary.results if r.benchmark == "pope-scenes"]
    accuracy = Metric("accuracy", "higher", "")
    plot = levels(pope, accuracy)
    assert plot is not None
    assert plot.zero is None
    assert [(bar.group, bar.label) for bar in plot.bars] == [(r.split, r.label) for r in pope]
    by_place = sorted(zip(plot.bars, pope, strict=True), key=lambda pair: pair[0].x)
    values = [result.metrics["accuracy"].value or 0 for _, result in by_place]
    assert values == sorted(values)
    assert levels(pope[:2], accuracy) is None
