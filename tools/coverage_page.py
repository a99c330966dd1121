"""Write `docs/coverage.md` from what coverage.py counted: how much of the code the tests run, and
the lines that none runs.

    python tools/coverage_page.py build/coverage.json

`make coverage` counts and calls this.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"
HEAD = """# Coverage

What `make coverage` counted when it last ran over the whole suite on a CPU, so without the tests
that need a GPU. Lines are those of that day. `[tool.coverage]` in `pyproject.toml` says what is
left out: the kernels' bodies, which Triton compiles from source; what runs inside vLLM, whose tests
have an environment of their own; what trains the built-in models, once; what tests are made with.

"""


def page(counted: Mapping[str, Any]) -> str:
    """The whole page."""
    files: dict[str, Any] = counted["files"]
    rows = ["| | statements | not run | run |", "|---|--:|--:|--:|"]
    folders = groupby(sorted(files), lambda name: name.partition("/")[0])
    rows += [
        _row(f"`{folder}/`", [files[name]["summary"] for name in of]) for folder, of in folders
    ]
    rows.append(_row("all", [counted["totals"]]))
    missed = ["| file | lines that no test runs |", "|---|---|"]
    for name, one in sorted(files.items()):
        if one["missing_lines"]:
            missed.append(f"| `{name}` | {ranges(one['missing_lines'])} |")
    return HEAD + "\n".join([*rows, "", *missed]) + "\n"


def ranges(lines: Iterable[int]) -> str:
    """Line numbers, neighbours joined: 3, 7-9."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][-1] + 1:
            found[-1].append(line)
        else:
            found.append([line])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def _row(name: str, summaries: Iterable[Mapping[str, Any]]) -> str:
    each = list(summaries)
    statements = sum(one["num_statements"] for one in each)
    missing = sum(one["missing_lines"] for one in each)
    share = 1 - missing / statements if statements else 1.0
    return f"| {name} | {statements:,} | {missing:,} | {share:.1%} |"


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description="The page on coverage.")
    parser.add_argument("counted", type=Path)
    counted = json.loads(parser.parse_args().counted.read_text(encoding="utf-8"))
    PAGE.write_text(page(counted), encoding="utf-8")


if __name__ == "__main__":
    main()
