"""The environment of the tests that run vLLM: when it is made anew, and what is said without it."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
THERE = importlib.util.find_spec("vllm") is not None


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool in a checkout of its own; it runs nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import test_vllm

    done: list[str] = []
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    monkeypatch.setattr(test_vllm, "ROOT", tmp_path)
    monkeypatch.setattr(test_vllm, "HOME", tmp_path / "venv")
    monkeypatch.setattr(test_vllm, "packages_installed", lambda: done.append("packages") or "")
    monkeypatch.setattr(test_vllm, "halu_installed", lambda: done.append("halu") or "")
    monkeypatch.setattr(test_vllm, "done", done, raising=False)
    (tmp_path / "venv").mkdir()
    return test_vllm


def steps(tool: Any) -> list[str]:
    """What it does to have the environment."""
    tool.done.clear()
    assert tool.made() == ""
    return list(tool.done)


def test_an_environment_is_used_as_long_as_it_is_what_is_wanted(
    tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps(tool) == ["packages", "halu"]
    assert steps(tool) == []
    monkeypatch.setattr(tool, "WANTED", (*tool.WANTED, "another==1"))
    assert steps(tool) == ["packages", "halu"]
    monkeypatch.setattr(tool, "BESIDE", (*tool.BESIDE, "another"))
    assert steps(tool) == ["packages", "halu"]
    (tool.ROOT / "pyproject.toml").write_text("[project]\nname = 'x'\n", encoding="utf-8")
    assert steps(tool) == ["halu"]
    assert steps(tool) == []


def test_one_that_was_not_made_whole_is_made_again(
    tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps(tool) == ["packages", "halu"]
    (tool.HOME / ".made").write_text("")
    assert steps(tool) == ["packages", "halu"]
    monkeypatch.setattr(tool, "WANTED", ("another==1",))
    monkeypatch.setattr(tool, "halu_installed", lambda: "no network")
    assert tool.made() == "no network"
    monkeypatch.setattr(tool, "halu_installed", lambda: tool.done.append("halu") or "")
    assert steps(tool) == ["packages", "halu"]


@pytest.mark.skipif(THERE, reason="vLLM is here")
def test_without_vllm_the_summary_says_why_tests_are_skipped() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    where = "tests/in_vllm/test_counts_engine.py"
    done = subprocess.run([*command, where], cwd=ROOT, capture_output=True, text=True)
    assert "SKIPPED [1] tests/in_vllm/" in done.stdout
    assert "vLLM is not installed; `make test-vllm` runs this" in done.stdout
