"""Benchmarks that need other machines: every line runs here, on tiny models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
