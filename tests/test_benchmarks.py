"""Benchmarks: dry runs on tiny models, how they take their times, and what they refuse."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from halu.attention import Redistribution, ScoreMap, at_least, weighted_attention
from halu.attention.inputs import Inputs
from halu.strategy import strategies

FOLDER = Path(__file__).parent.parent / "benchmarks"
TOKENS = 3


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "decode.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_decoding_is_measured_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "tiny.json"
    done = run("--tiny", "--tokens", TOKENS, "--rounds", 1, "--batch", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert "mean nothing" in found["device"]
    assert [one["batch"] for one in found["results"]] == [2, 2]
    for one in found["results"]:
        assert set(one["contestants"]) | set(one["refused"]) == {
            "stock generate",
            "two forwards",
            "greedy without recording",
            "greedy on remembered pictures",
            *strategies.names(),
        }
        assert set(one["refused"]) <= {"fia"}, one["refused"]
        assert one["floor"]["bytes"] > 0
        for own in one["contestants"].values():
            assert own["further token"]["to floor"]["median"] > 0
            assert "ms" not in own["further token"], "absolute times are for GPUs"
        for part in one["contestants"]["stock generate"].values():
            assert part["to stock generate"] == {"median": 1, "min": 1, "max": 1}
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_peer_says_its_tokens_or_why_it_cannot_run(tmp_path: Path) -> None:
    out = tmp_path / "tiny.json"
    only = "mitigv vcd,mitigv opera"
    done = run("--tiny", "--tokens", TOKENS, "--rounds", 1, "--only", only, "--out", out)
    assert done.returncode == 0, done.stderr
    for one in json.loads(out.read_text())["results"]:
        for name in only.split(","):
            assert (name in one["contestants"]) != (name in one["refused"])
            assert ": " in one["refused"].get(name, "Error: because")


@pytest.mark.slow
def test_layers_agreement_is_ranked_beside_the_traces_detectors(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "layers_agreement.py"), "--fit", "8", "--scenes", "6"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert json.loads(done.stdout) == found
    auroc = found["auroc"]
    assert all(0.3 < auroc[name] <= 1 for name in ("pair", "layers", "both"))
    assert found["gain"] == pytest.approx(auroc["both"] - auroc["pair"])
    assert found["gain_ci"][0] <= found["gain"] <= found["gain_ci"][1]
    assert found["claims"] > 20


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module


def test_a_second_row_is_told_as_a_ratio(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows, size = script("two_rows"), script("shapes").TINY["tiny LLaVA"]
    monkeypatch.setitem(rows.ON_CPU, rows.SAVED, size)
    took = iter([1.0, *[3.0, 2.0] * rows.ROUNDS])
    monkeypatch.setattr(rows, "seconds", lambda count, weights: next(took))
    rows.main()
    assert capsys.readouterr().out.startswith("1.50 (1.50-1.50), ")
    weights = [torch.ones(3, 2), torch.ones(5, 2)]
    monkeypatch.undo()
    assert rows.seconds(2, weights) > 0


@pytest.fixture
def decode(script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with a clock that only contestants move."""
    module = script("decode")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(module, "clock", clock, raising=False)
    return module


def test_nobody_of_another_name_is_measured(
    decode: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["decode.py", "--only", "vcd,vdc", "--out", "decode.json"])
    with pytest.raises(SystemExit) as ended:
        decode.main()
    assert ended.value.code == 2
    assert "nobody is called 'vdc'; there are: act, " in capsys.readouterr().err
    assert decode.names(",".join(decode.NAMES)) == decode.NAMES


def taking(decode: Any, first: float, *further: float) -> Any:
    """A contestant that needs so long for its tokens."""

    def ask(pictures: Any, tokens: int, tick: Callable[[int], None]) -> None:
        for count, seconds in enumerate((first, *further), start=1):
            decode.clock.now += seconds
            tick(count)

    return ask


def test_a_token_is_timed_within_one_answer(decode: Any) -> None:
    assert decode.took(taking(decode, 5, 1, 2, 3), [], 4) == (5, 2, 11)
    with pytest.raises(ValueError, match="fewer than two tokens"):
        decode.took(taking(decode, 5), [], 1)


def test_a_turn_is_relative_to_greedy_beside_it_and_only_whole_rounds_count(decode: Any) -> None:
    speeds, refused = iter((7, *[1] * 4, *[1, 1, 3, 3, 1], *[2] * 5)), {}

    def changing(pictures: Any, tokens: int, tick: Callable[[int], None]) -> None:
        taking(decode, 1, next(speeds))(pictures, tokens, tick)

    def failing(pictures: Any, tokens: int, tick: Callable[[int], None]) -> None:
        raise AttributeError("no such thing\nat all")

    found = {"stock generate": taking(decode, 2, 4), "greedy": changing, "broken": failing}
    plan = SimpleNamespace(rounds=2, tokens=2, timed=True)
    floor = decode.Took(1, 1, 1)
    warm, *rounds = decode.rounds_of(found, lambda: [1, 2], lambda: floor, plan, refused)
    assert refused == {"broken": "AttributeError: no such thing"}
    rounds[1]["late"] = rounds[1]["greedy"]
    # greedy's turns of the second round take 1, 1, [3], 3 and 1 a token: beside stock generate 1,
    # beside its own 2, beside the floor 2; in the third round all take 2
    rows = decode.table(warm, rounds, True)
    assert list(rows) == ["stock generate", "greedy"]
    assert rows["stock generate"]["further token"]["to greedy"] == spread(4, 2)
    own = rows["greedy"]["further token"]
    assert own["to greedy"] == spread(1.5, 1)
    assert own["to stock generate"] == spread(1.5 / 4, 1 / 2)
    assert own["to floor"] == spread(1.5 / 0.5, 1 / 0.5)
    assert (own["ms"], rows["greedy"]["first token"]["ms"]) == (2500, 1000)
    assert rows["greedy"]["start-up"] == round(8 / 3.5, 2)


def spread(first: float, second: float) -> dict[str, float]:
    """Of two rounds."""
    low, high = sorted((first, second))
    found = {"median": (low + high) / 2, "min": low, "max": high}
    return {kind: round(value, 3) for kind, value in found.items()}


def test_the_warm_up_of_a_cpu_is_short(decode: Any) -> None:
    seen = []

    def ask(pictures: Any, tokens: int, tick: Callable[[int], None]) -> None:
        seen.append((len(pictures), tokens))
        taking(decode, 1, 1)(pictures, tokens, tick)

    plan = SimpleNamespace(rounds=1, tokens=24, timed=False)
    took = decode.Took(1, 1, 1)
    list(decode.rounds_of({"greedy": ask}, lambda: [1] * 8, lambda: took, plan, {}))
    assert seen == [(1, 3)] * 4 + [(8, 24)] * 4


def test_a_run_that_is_cut_short_keeps_its_rounds(
    decode: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def ask(pictures: Any, tokens: int, tick: Callable[[int], None]) -> None:
        calls.append(tokens)
        if len(calls) > 16:
            raise KeyboardInterrupt
        taking(decode, 1, 1)(pictures, tokens, tick)

    options = {"tiny": True, "tokens": TOKENS, "rounds": 5, "batch": None, "only": {"greedy"}}
    out = tmp_path / "cut.json"
    plan = decode.planned(SimpleNamespace(**options, out=out))
    found = {"greedy": ask, "stock generate": ask}
    monkeypatch.setattr(decode, "contestants", lambda vlm, pictures, capture: found)
    monkeypatch.setattr(decode, "copied_a_second", lambda device: 1e9)
    with pytest.raises(KeyboardInterrupt):
        decode.run(plan, lambda results: decode.written(plan, results))
    (one,) = json.loads(out.read_text())["results"]
    assert (one["rounds"], set(one["contestants"])) == (1, {"greedy", "stock generate"})


FORM = Redistribution.of(
    torch.tensor([1, 1, 0.6, 0.6]),
    torch.tensor([0.0, 1, 0, 0]),
    [at_least(0, 0, 0.5, -0.5, 0), at_least(0.2, 0, 1, 1, 0)],
)


@pytest.mark.parametrize("keys", [512, 8192])
@pytest.mark.parametrize("wrong", [None, "zero", "nan", "unsteered"])
def test_kernels_are_timed_only_if_they_are_as_right_as_eager(
    keys: int, wrong: str | None, script: Callable[[str], Any]
) -> None:
    pytest.importorskip("triton")
    kernels = script("kernels")
    torch.manual_seed(0)
    q = torch.randn(1, 8, 1, 64, dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, 8, keys, 64, dtype=torch.bfloat16)
    labels = torch.multinomial(torch.tensor(kernels.SHARES), keys, replacement=True)[None]
    slopes = torch.tensor([1.0, 1.1, 1.0, 0.95])
    score_map = ScoreMap(slopes, slopes, torch.zeros(4))
    inputs = Inputs(q, k, v, labels, 4, 64**-0.5, score_map=score_map)

    def right(epilogue: Redistribution | None) -> Tensor:
        parts: Any = {"scale": inputs.scale, "score_map": score_map, "epilogue": epilogue}
        return weighted_attention(q, k, v, labels, 4, **parts, impl="reference")

    given = {"kernel plain": None, "kernel fused": FORM, "kernel torch": FORM}
    found = {name: lambda own=own: right(own) for name, own in given.items()}
    if wrong is None:
        kernels.gate(inputs, FORM, found)
        return
    bad = {"zero": right(FORM) * 0, "nan": right(FORM) * torch.nan, "unsteered": right(None)}
    found["kernel torch"] = lambda: bad[wrong]
    with pytest.raises(SystemExit, match="kernel torch is off by"):
        kernels.gate(inputs, FORM, found)


def test_the_tuner_takes_the_quickest_that_runs_and_is_right(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    tuner = script("tune_kernels")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(tuner, "captured", lambda call: call)
    monkeypatch.setattr(tuner, "seconds", lambda call: float(call().sum()))
    wanted = torch.ones(4) / 1000

    def run(config: Any) -> Tensor:
        if config is not None and config.stages > 1:
            raise RuntimeError("PassManager::run failed")
        return wanted * (1 if config is None else 1 + (config.rows + config.keys) / 1e5)

    best = tuner.quickest(run, "prompt")
    assert (best.rows, best.keys, best.stages) == (16, 16, 1)
    for wrong in (wanted * torch.nan, wanted * 0):
        with pytest.raises(SystemExit, match="is off by"):
            tuner.quickest(lambda config, own=wrong: wanted if config is None else own, "prompt")
