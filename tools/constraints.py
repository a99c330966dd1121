"""Write `constraints.txt`: one version of every package that `make install` brings, as tested.

    python tools/constraints.py PYTHON... [--upgrade]

Give one interpreter for each supported Python version, e.g. `python3.10 python3.11 python3.12
python3.13`; each needs pip and the package index. Versions in the file stay unless pyproject.toml
no longer allows them, then pip says so and they are to be deleted by hand; `--upgrade` takes the
newest of everything that pyproject.toml allows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "constraints.txt"
HEADER = """\
# The versions that halu is tested with, for `pip install -c constraints.txt`. pyproject.toml says
# what halu works with; this file keeps `make install` the same on every day.
# Written by tools/constraints.py. Where a package has dropped a Python version, its last release
# for that version stands beside the current one.
#
# torch and torchvision move together: each torchvision release wants exactly one torch. Only the
# CUDA build of torchvision is on the package index; beside a CPU torch it serves too, since
# halu/torchvision_shim.py declares the two operators that it would miss. `torch==X` also matches a
# CPU build, whose version is X+cpu. transformers 5.16 to 5.23 work; below 5.20 it also suits vLLM.
# Not listed: the CUDA libraries and triton, which torch pins itself.
"""
OWN = ("halu", "triton")
CUDA = ("nvidia-", "cuda-")

Version = tuple[int, int]


def resolve(python: str, upgrade: bool) -> tuple[Version, dict[str, str]]:
    """Asks pip for one interpreter; its version, and the version of each package."""
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", ".[all,dev]", "pip", "setuptools"]
    if FILE.exists() and not upgrade:
        command += ["-c", str(FILE)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    major, minor = report["environment"]["python_version"].split(".")
    packages = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
        for item in report["install"]
    }
    kept = {
        name: version.partition("+")[0]
        for name, version in packages.items()
        if name not in OWN and not name.startswith(CUDA)
    }
    return (int(major), int(minor)), kept


def lines(found: dict[Version, dict[str, str]]) -> list[str]:
    """The constraints, by name; with a marker where Python versions need different releases."""
    pythons = sorted(found)
    written = []
    for name in sorted({name for packages in found.values() for name in packages}):
        users: dict[str, list[Version]] = {}
        for python in pythons:
            if name in found[python]:
                users.setdefault(found[python][name], []).append(python)
        for version, its in users.items():
            marker = "" if len(users) == 1 else f"; {_marker(its, pythons)}"
            written.append(f"{name}=={version}{marker}")
    return written


def _marker(its: list[Version], pythons: list[Version]) -> str:
    low, high = ('"{}.{}"'.format(*python) for python in (its[0], its[-1]))
    bounds = [] if its[0] == pythons[0] else [f"python_version >= {low}"]
    bounds += [] if its[-1] == pythons[-1] else [f"python_version <= {high}"]
    return " and ".join(bounds)


def main() -> int:
    """Resolves for every interpreter and writes the file."""
    parser = argparse.ArgumentParser(description="Write constraints.txt.")
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    arguments = parser.parse_args()
    found = dict(resolve(python, arguments.upgrade) for python in arguments.pythons)
    FILE.write_text(HEADER + "\n" + "\n".join(lines(found)) + "\n")
    print(f"Wrote {FILE.name}: {', '.join('{}.{}'.format(*python) for python in sorted(found))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
