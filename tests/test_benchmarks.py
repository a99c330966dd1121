"""Benchmarks that need other machines: dry runs on tiny models, and what they refuse."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halu.attention import Redistribution, ScoreMap, at_least, weighted_attention
from halu.attention.inputs import Inputs
from halu.strategy import strategies

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_decode.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "gpu.json"
    done = run("--tiny", "--tokens", 3, "--rounds", 1, "--batch", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert "mean nothing" in found["device"]
    assert [one["batch"] for one in found["results"]] == [2, 2]
    for one in found["results"]:
        ran = set(one["contestants"])
        assert ran | set(one["refused"]) == {
            "stock generate",
            "two forwards",
            "greedy, not recorded",
            "greedy, pictures remembered",
            *strategies.names(),
        }
        assert set(one["refused"]) <= {"fia"}, one["refused"]
        assert one["floor, ms"] > 0
        assert one["contestants"]["stock generate"]["to stock generate"] == 1.0
        assert one["contestants"]["greedy"]["to greedy"] == 1.0
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses_in_one_line(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "gpu.json")
    assert done.returncode == 1
    assert "there is none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return import_module


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
