"""A run's own rows read again by another rule, and a run read by another from the start."""

import json
from pathlib import Path
from typing import Any

import pytest

from halu.errors import BadInput, HaluError, Unknown
from halu.eval.own_rows import Chosen
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import played
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.score import Given, score
from halu.eval.store import ROWS, read_manifest, read_rows
from halu.types import Request

SAID = {"greedy": "NO", "vcd": "Yes, there is not a doubt."}


def reply(request: Request) -> str:
    return SAID[request.strategy]


def done(out: Path, **changes: Any) -> Path:
    """A short run of POPE and CHAIR under greedy and VCD; its rows."""
    fields: dict[str, Any] = {
        "models": (Source(name="played"),),
        "benchmarks": ("pope-scenes", "chair-scenes"),
        "strategies": (Arm(strategy="vcd"),),
        "limit": 6,
        "batch_size": 6,
    }
    run(Plan.model_validate(fields | changes), played(reply), out, keep_going=True)
    return out / ROWS


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("own") / "run")


def chosen(rows: Path, **which: Any) -> Given:
    return Given(rows, rows=Chosen(**{"benchmark": "pope-scenes", **which}))


def test_rows_are_read_by_every_rule_without_other_files(rows: Path) -> None:
    found = score("pope-scenes", chosen(rows, strategy="greedy"), "all")
    assert found.n == 18
    assert set(found.splits) == {"random", "popular", "adversarial"}
    ratio = {rule: figures.metrics["yes_ratio"] for rule, figures in found.rules.items()}
    assert ratio["pope"] == 1  # POPE's own rule takes NO for a yes
    assert ratio["opera"] == 0
    assert "mean_accuracy" in found.rules["opera"].metrics


def test_the_default_rule_gives_the_figures_of_the_run(rows: Path) -> None:
    own = next(
        result
        for result in report(rows.parent).results
        if (result.split, result.strategy) == ("popular", "vcd")
    )
    found = score("pope-scenes", chosen(rows, strategy="vcd"))
    again = found.splits["popular"]["pope"].metrics
    for name in ("accuracy", "yes_ratio"):
        assert again[name] == own.metrics[name].value


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ({}, "Name one with --strategy: greedy, vcd"),
        ({"strategy": "vdc"}, "Did you mean vcd"),
        ({"model": "paid"}, "Did you mean played"),
        ({"benchmark": "pope", "strategy": "vcd"}, "Did you mean pope-scenes"),
        ({"strategy": "vcd", "repeat": 3}, "Unknown repeat"),
    ],
)
def test_what_is_meant_must_be_told(rows: Path, which: dict[str, Any], told: str) -> None:
    with pytest.raises(HaluError, match=told):
        score("pope-scenes", chosen(rows, **which))


def test_a_benchmark_with_one_rule_says_where_its_figures_are(rows: Path) -> None:
    with pytest.raises(BadInput, match=r"report\.md"):
        score("amber", Given(rows, annotations=(annotated(rows.parent.parent),)))


def annotated(folder: Path) -> Path:
    """AMBER's annotations, as far as they are needed to get to the answers."""
    truth = [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": []}]
    (folder / "annotations.json").write_text(json.dumps(truth))
    return folder


def test_strategies_are_chosen_in_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"query": "Is there a dog in the image?", "ans": "Yes"}) + "\n")
    with pytest.raises(BadInput, match="no rows of a run"):
        score("pope", chosen(path, strategy="vcd"))


def test_the_command_scores_rows(halu: Any, rows: Path) -> None:
    args = ("score", "pope-scenes", rows, "-s", "greedy", "--json")
    code, out, _ = halu(*args, "--rules", "pope,opera")
    assert code == 0
    assert set(json.loads(out)["rules"]) == {"pope", "opera"}


def test_a_run_is_read_by_the_rule_that_it_names(tmp_path: Path) -> None:
    done(tmp_path / "run", benchmarks=("pope-scenes",), rules="opera")
    assert read_manifest(tmp_path / "run").benchmarks[0].rules == "opera"
    assert {row.parsed for row in read_rows(tmp_path / "run") if row.arm == "greedy"} == {"no"}
    own = report(tmp_path / "run").results
    again = score("pope-scenes", chosen(tmp_path / "run" / ROWS, strategy="vcd"), "opera")
    vcd = next(r for r in own if (r.split, r.strategy) == ("random", "vcd"))
    figures = again.splits["random"]["opera"].metrics
    for name in ("accuracy", "yes_ratio"):
        assert vcd.metrics[name].value == figures[name]


def test_a_rule_must_be_one_of_the_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="rule of chair-scenes 'opera'"):
        done(tmp_path / "run", rules="opera")
    assert not (tmp_path / "run").exists()
