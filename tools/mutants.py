"""Mutation test: change rules, policies and scorers in small ways, and see whether a test notices.

    python tools/mutants.py [--jobs N] [--keep FOLDER]

What is changed and which tests run stands under [tool.mutmut] in pyproject.toml. The work is done
on a copy with the packages where they are once installed, so that modules have the names that tests
know. Prints each change that no test noticed, then the counts; `docs/mutants.md` says why those
that are known stay. Needs mutmut, which `make mutants` installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from arrows import PACKAGES, ROOT

SHARED = ROOT.parent / "shared"
UNNOTICED = ("survived", "no tests", "timeout", "suspicious")


def lay_out(folder: Path) -> None:
    """Copies what is changed and what tests it."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc", "in_vllm")
    for source, name in PACKAGES.items():
        target = folder / name.replace(".", "/")
        shutil.copytree(ROOT / source, target, ignore=skip, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=skip)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    if SHARED.is_dir():  # seen from the folder in which mutmut runs the tests
        (folder / "shared").symlink_to(SHARED)


def mutmut(folder: Path, *words: str, quiet: bool = False) -> str:
    """Runs mutmut in the copy and returns what it says, if it is to be quiet."""
    # The copy is to be found before an editable install of the checkout.
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=quiet,
    )
    return done.stdout or ""


def outcomes(folder: Path) -> dict[str, str]:
    """Each mutant's name, and what became of it."""
    found = {}
    for line in mutmut(folder, "results", "--all", "true", quiet=True).splitlines():
        name, colon, outcome = line.strip().rpartition(": ")
        if colon:
            found[name] = outcome
    return found


def tell(folder: Path) -> None:
    """Prints what nobody noticed, and how many there were of each kind."""
    found = outcomes(folder)
    for name, outcome in found.items():
        if outcome in UNNOTICED:
            print(f"\n{outcome}: {name}")
            changes = mutmut(folder, "show", name, quiet=True).splitlines()
            print("\n".join(line for line in changes if line[:1] in "+-" and line[1:2] not in "+-"))
    print(
        "\n" + ", ".join(f"{count} {outcome}" for outcome, count in Counter(found.values()).items())
    )


def main(words: Sequence[str] | None = None) -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(description="Mutation test of rules, policies and scorers.")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--keep", type=Path, help="folder for the copy; else it is temporary")
    parser.add_argument("mutants", nargs="*", help="only these, by name or pattern")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.keep or Path(temporary) / "copy"
        if not folder.exists():
            folder.mkdir(parents=True)
            lay_out(folder)
        mutmut(folder, "run", "--max-children", str(arguments.jobs), *arguments.mutants)
        tell(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
