"""The mutation test's copies: what they hold, and what is said where data of tests is absent."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tomllib", reason="the tool needs Python 3.11")

import mutants


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Mutmut's runs by its command and whether the copy has shared data, instead of mutmut."""
    ran: list[tuple[str, bool]] = []

    def mutmut(folder: Path, *words: str) -> str:
        ran.append((words[0], (folder / "shared").exists()))
        return ""

    monkeypatch.setattr(mutants, "mutmut", mutmut)
    return ran


@pytest.mark.parametrize("there", [True, False])
def test_it_runs_with_and_without_shared_data(
    there: bool, quick: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    shared = tmp_path / "shared"
    if there:
        shared.mkdir()
    monkeypatch.setattr(mutants, "SHARED", shared)
    assert mutants.main(["--only", "yesno"]) == 0
    assert quick == [("run", there), ("results", there)]
    said = capsys.readouterr().out
    assert "halu/eval/yesno.py" in said
    assert ("tests that need it are left out" in said) is not there


def test_a_copy_holds_the_packages_where_they_are_once_installed(tmp_path: Path) -> None:
    group = next(one for one in mutants.groups() if "halu/eval/pope.py" in one["change"])
    mutants.lay_out(tmp_path, group)
    assert all((tmp_path / name).is_file() for name in [*group["change"], *group["tests"]])
    assert str(group["tests"][0]) in (tmp_path / "pyproject.toml").read_text("utf-8")


def test_what_nobody_noticed_is_told(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    said = {"results": "  a__1: survived\n  b__2: killed\n", "show": "--- a\n-x = 1\n+x = 2\n"}
    monkeypatch.setattr(mutants, "mutmut", lambda folder, word, *rest: said[word])
    assert mutants.told(tmp_path) == Counter(survived=1, killed=1)
    assert capsys.readouterr().out == "\nsurvived: a__1\n-x = 1\n+x = 2\n"


def test_tests_that_were_not_started_are_no_timeout(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "mutants/halu").mkdir(parents=True)
    codes = {"exit_code_by_key": {"a__1": 255, "b__2": 24}}
    (tmp_path / "mutants/halu/a.py.meta").write_text(json.dumps(codes), encoding="utf-8")
    said = {"results": "  a__1: timeout\n  b__2: timeout\n", "show": ""}
    monkeypatch.setattr(mutants, "mutmut", lambda folder, word, *rest: said[word])
    assert mutants.told(tmp_path) == Counter({"not started": 1, "timeout": 1})
    assert "not started: a__1" in capsys.readouterr().out
