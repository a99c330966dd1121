"""Tuning: what may be searched, what the search sees, what is measured in the end."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from halu.decoders.vcd import VCD
from halu.errors import BadInput, Unknown
from halu.eval import ranges
from halu.eval.benchmark import benchmarks
from halu.eval.durable import lock
from halu.eval.plan import Arm, Plan, Source, half_of
from halu.eval.played import played
from halu.eval.ranges import Range
from halu.eval.run import samples_of
from halu.eval.store import read_rows
from halu.eval.trials import TRIALS, Trial
from halu.eval.tune import HELD_OUT, Search, best, tune
from halu.scenes.files import write
from halu.strategy import strategies
from halu.types import Request

BEST = 1.3


def reply(request: Request) -> str:
    """Say yes the more often, the nearer alpha is to the best value."""
    told = request.messages[-1].content[-1].text
    chance = hashlib.sha256(told.encode()).digest()[0] / 255
    alpha = request.params.get("alpha", 1.0) if request.strategy == "vcd" else 0.0
    return "Yes" if chance < 1 - abs(alpha - BEST) / 2 else "No"


def search(**changes: Any) -> Search:
    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("pope-scenes",),
        strategies=(Arm(strategy="vcd", params={"beta": 0.2}),),
        limit=24,
        batch_size=8,
    )
    space = ranges.chosen("vcd", VCD.Params, {"beta": 0.2}, ["alpha=0..3"])
    defaults = VCD.configured({"beta": 0.2}).params.model_dump()
    return Search(plan, space, defaults, **({"metric": "recall", "trials": 12} | changes))


def test_the_best_point_is_found_and_measured_elsewhere(tmp_path: Path) -> None:
    seen: list[Request] = []

    def noting(request: Request) -> str:
        seen.append(request)
        return reply(request)

    found = tune(search(), played(noting), tmp_path / "out")
    assert len(found.trials) == 12
    assert found.trials[0].params == {"alpha": 1.0}  # the default comes first
    assert abs(found.chosen["alpha"] - BEST) <= abs(1.0 - BEST)
    rows = read_rows(tmp_path / "out" / HELD_OUT)
    arms = {row.arm: row.params for row in rows}
    assert set(arms) == {"greedy", "vcd(beta=0.2)", f"vcd(alpha={found.chosen['alpha']}, beta=0.2)"}
    tuned_on = {
        s.image
        for s in samples_of(
            benchmarks.get("pope-scenes"), search().halves(benchmarks.get("pope-scenes"))[0]
        )
    }
    assert tuned_on
    assert not tuned_on & {row.image_id for row in rows}
    asked = len(seen) - len(rows)
    assert asked == 12 * found.samples
    assert {r.params.get("beta") for r in seen if r.strategy == "vcd"} == {0.2}


def test_a_stopped_search_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        """The power fails."""

    def failing(progress: Any) -> None:
        if progress.done == 5:
            raise Stop

    with pytest.raises(Stop):
        tune(search(), played(reply), tmp_path / "out", progress=failing)
    lines = (tmp_path / "out" / TRIALS).read_text().splitlines()
    assert len(lines) == 5
    with (tmp_path / "out" / TRIALS).open("a") as torn:
        torn.write('{"params": {"al')
    with pytest.raises(BadInput, match=r"not empty.*--resume"):
        tune(search(), played(reply), tmp_path / "out")
    with pytest.raises(BadInput, match="another search"):
        tune(search(metric="accuracy"), played(reply), tmp_path / "out", resume=True)
    found = tune(search(), played(reply), tmp_path / "out", resume=True)
    assert len(found.trials) == 12
    assert [t.model_dump_json() for t in found.trials[:5]] == lines
    again = tune(search(), played(reply), tmp_path / "out", resume=True)
    assert again == found


def test_two_searches_do_not_write_to_one_folder(tmp_path: Path) -> None:
    found = tune(search(), played(reply), tmp_path / "out")
    with (tmp_path / "out" / TRIALS).open("a") as other:
        lock(other, tmp_path)
        with pytest.raises(BadInput, match="Another process"):
            tune(search(), played(reply), tmp_path / "out", resume=True)
    assert tune(search(), played(reply), tmp_path / "out", resume=True) == found


def test_a_folders_pictures_are_halved(tmp_path: Path) -> None:
    write(tmp_path / "data", 20, 0)
    pope = benchmarks.get("pope")
    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("pope",),
        strategies=(Arm(strategy="vcd"),),
        data=tmp_path / "data",
    )
    tuning, rest = (
        {s.image for s in samples_of(pope, half)} for half in Search(plan, {}, {}).halves(pope)
    )
    every = samples_of(pope, plan)
    assert tuning
    assert rest
    assert not tuning & rest
    assert tuning | rest == {s.image for s in every}
    assert len({half_of(s) for s in every if s.image == every[0].image}) == 1


def test_a_default_outside_the_range_is_not_tried(tmp_path: Path) -> None:
    own = search(trials=3)
    space = ranges.chosen("vcd", VCD.Params, {"beta": 0.2}, ["alpha=2..3"])
    narrow = Search(own.plan, space, own.defaults, own.metric, own.trials)
    found = tune(narrow, played(reply), tmp_path / "out")
    assert all(2 <= trial.params["alpha"] <= 3 for trial in found.trials)
    longer = Search(own.plan, space, own.defaults, own.metric, 5)
    with pytest.raises(BadInput, match=r"finished after 3 points"):
        tune(longer, played(reply), tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (["alpah"], Unknown, "alpha"),
        (["mode"], BadInput, "mode"),
        (["alpha=3"], BadInput, "alpha=0..2"),
        (["alpha=2..1"], BadInput, "not within"),
        (["alpha=-1..1"], BadInput, "not within"),
        (["alpha=0..9"], BadInput, "0..5"),
        (["alpha=a..b"], BadInput, "alpha=a..b"),
        (["beta"], BadInput, "both fixed and tuned"),
    ],
)
def test_what_cannot_be_searched(asked: list[str], error: type[Exception], says: str) -> None:
    own = strategies.get("m3id") if asked == ["mode"] else VCD
    with pytest.raises(error, match=says.replace(".", r"\.")):
        ranges.chosen(own.name, own.Params, {"beta": 0.2}, asked)


def test_declared_ranges_are_those_of_the_parameters() -> None:
    assert ranges.declared(VCD.Params) == {
        "alpha": Range(0.0, 5.0),
        "beta": Range(0.0, 1.0),
        "noise": Range(0.0, 999.0, whole=True),
    }
    with pytest.raises(BadInput, match="no parameter to tune"):
        ranges.chosen("greedy", strategies.get("greedy").Params, {}, [])
    for strategy in strategies:
        for name, one in ranges.declared(strategy.Params).items():
            ends = one.choices or (int(one.low) if one.whole else one.low, one.high)
            default = strategy.Params.model_fields[name].default
            assert default in one.choices or one.low <= default <= one.high
            if one.choices:
                continue
            for end in ends:
                strategy.configured({name: int(end) if one.whole else end})


def test_metrics_are_checked_and_undefined_points_lose() -> None:

    pope = benchmarks.get("pope-scenes")
    accuracy = pope.metrics[0]
    trials = [Trial(params={"a": i}, value=v) for i, v in enumerate((None, 0.2, 0.7, 0.7, None))]
    assert best(trials, accuracy) == {"a": 2}
    lower = benchmarks.get("chair-scenes").metrics[0]
    assert best(trials, lower) == {"a": 1}
    with pytest.raises(BadInput, match="undefined at every point"):
        best(trials[:1], accuracy)
    with pytest.raises(Unknown, match="accuracy"):
        tune(search(metric="acuracy"), played(reply), Path("nowhere"))
    with pytest.raises(Unknown):
        tune(search(metric="yes_ratio"), played(reply), Path("nowhere"))
    assert not Path("nowhere").exists()


def test_the_command(halu: Any, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    words = ("tune", "vcd:beta=0.1", "--benchmark", "pope-scenes", "-p", "alpha=0..2")
    code, said, err = halu(*words, "--trials", 2, "--limit", 4, "-o", out)
    assert code == 0, err
    assert "Best accuracy of 2 points on 12 tuning samples" in said
    chosen = json.loads((out / "tuning.json").read_text())["chosen"]
    assert ("(the defaults: no other point was better)" in said) == (chosen == {"alpha": 1.0})
    assert json.loads((out / "tuning.json").read_text())["ranges"] == {"alpha": "0..2"}
    assert (out / HELD_OUT / "report.html").exists()
    code, said, err = halu(*words, "-p", "gamma", "-o", tmp_path / "other")
    assert (code, said) == (2, "")
    assert err.count("\n") == 1
