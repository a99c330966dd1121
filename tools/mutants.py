"""Mutation test: change rules, policies and scorers in small ways, and see whether a test notices.

    python tools/mutants.py [--jobs N] [--only WORD]

[[tool.halu.mutants]] in pyproject.toml says which files are changed and which tests have to notice.
The work is done on copies with the packages where they are once installed, so that modules have the
names that tests know. Prints each change that no test noticed, then the counts; `docs/mutants.md`
says why those that are known stay. Needs Python 3.11 and mutmut, which `make mutants` installs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomllib
from arrows import PACKAGES, ROOT

SHARED = ROOT.parent / "shared"
UNNOTICED = ("survived", "no tests", "timeout", "suspicious", "not started")
NOT_STARTED = 255
"""mutmut's code for tests that pytest did not start, as when it does not know a name again."""
# torch does not survive a fork once it has run: mutmut forks from a process that only imports.
SETTINGS = """
[tool.mutmut]
source_paths = ["halu"]
process_isolation = "forkserver"
only_mutate = {change}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = {options}
"""


def groups() -> list[dict[str, Any]]:
    """What is changed together, and its tests."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = settings["tool"]["halu"]["mutants"]
    return found


def lay_out(folder: Path, group: Mapping[str, Any]) -> None:
    """Copies halu and its tests into an empty folder, with mutmut's settings for a group."""
    skip = shutil.ignore_patterns("__pycache__", "in_vllm")
    for source, name in PACKAGES.items():
        target = folder / name.replace(".", "/")
        shutil.copytree(ROOT / source, target, ignore=skip, dirs_exist_ok=True)
    for source in ("tests", "tools"):
        shutil.copytree(ROOT / source, folder / source, ignore=skip)
    words = ["-m", "not slow", *(["-k", group["only"]] if "only" in group else [])]
    own = {"change": group["change"], "tests": group["tests"], "options": words}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text += SETTINGS.format(**{key: json.dumps(value) for key, value in own.items()})
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    if SHARED.is_dir():  # beside the folder `mutants`, in which mutmut runs the tests
        (folder / "shared").symlink_to(SHARED)


def mutmut(folder: Path, *words: str) -> str:
    """Runs mutmut in a copy and returns what it says.

    Raises:
        RuntimeError: with its last words, if it fails.
    """
    command = [sys.executable, "-m", "mutmut", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mutmut {words[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def unasked(folder: Path) -> set[str]:
    """Mutants whose tests pytest did not start; mutmut counts them as timeouts."""
    found: set[str] = set()
    for file in sorted((folder / "mutants").rglob("*.meta")):
        codes = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {name for name, code in codes.items() if code == NOT_STARTED}
    return found


def outcomes(folder: Path) -> Iterator[tuple[str, str]]:
    """Each mutant's name, and what became of it."""
    lost = unasked(folder)
    for line in mutmut(folder, "results", "--all", "true").splitlines():
        name, colon, outcome = line.strip().rpartition(": ")
        if colon:
            yield name, "not started" if name in lost else outcome


def told(folder: Path) -> Counter[str]:
    """Prints what nobody noticed; how many there were of each kind."""
    counts: Counter[str] = Counter()
    for name, outcome in outcomes(folder):
        counts[outcome] += 1
        if outcome in UNNOTICED:
            print(f"\n{outcome}: {name}")
            changes = mutmut(folder, "show", name).splitlines()
            print(*(line for line in changes if re.match("[-+](?![-+])", line)), sep="\n")
    return counts


def main(words: Sequence[str] | None = None) -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description="Mutation test of rules, policies and scorers.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="only files with this in their name")
    arguments = parser.parse_args(words)
    if not SHARED.is_dir():
        print(f"{SHARED} is absent: tests that need it are left out, and more may go unnoticed.")
    counts: Counter[str] = Counter()
    for group in groups():
        if not any(arguments.only in name for name in group["change"]):
            continue
        print(f"\n== {', '.join(group['change'])}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            lay_out(Path(temporary), group)
            mutmut(Path(temporary), "run", "--max-children", str(arguments.jobs))
            counts += told(Path(temporary))
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
