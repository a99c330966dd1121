"""Write the generated tables of the README and of the benchmarks' README.

    python tools/readme_tables.py [--check]

A table stands between `<!-- generated: NAME -->` and `<!-- /generated -->`. With `--check` nothing
is written; the exit status says whether both are current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import speed_tables
from results_page import RESULTS, brief
from strategy_pages import KINDS
from tried import cost

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def strategies_table() -> str:
    """Every registered strategy: where it acts, its paper, its price, how it is switched off."""
    from halu.strategy import strategies

    rows = ["| strategy | acts on | paper | rows a token | extra prompts | off with |"]
    rows += ["|---|---|---|--:|--:|---|"]
    for strategy in sorted(strategies, key=lambda each: (KINDS.index(each.kind), each.name)):
        paper = strategy.paper
        cited = f"[{paper.short}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
        title = ", ".join(part for part in (cited or paper.short, paper.venue) if part)
        price = cost(strategy)
        off = " ".join(f"`{key}={_short(value)}`" for key, value in (strategy.off or {}).items())
        page = f"[`{strategy.name}`](docs/strategies/{strategy.name}.md)"
        cells = (page, strategy.kind, title, price.rows, price.beside, off)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def results_tables() -> str:
    """What the stored runs show, in short."""
    parts = []
    for file in sorted(RESULTS.glob("*/summary.json")):
        found = json.loads(file.read_text("utf-8"))
        parts.append(f"`{found['run']['model']}`:\n\n{brief(found)}\n")
    return "\n".join(parts)


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "strategies": strategies_table,
        "results": results_tables,
        "speed": speed_tables.brief,
    },
    "benchmarks/README.md": {"speed": speed_tables.whole},
}


def filled(text: str, tables: Mapping[str, Callable[[], str]], page: str) -> str:
    """A page with its generated parts as they should be."""
    missing = tables.keys() - {name for _, name, _ in BLOCK.findall(text)}
    if missing:
        raise SystemExit(f"{page} has no <!-- generated: {sorted(missing)[0]} --> block.")
    return BLOCK.sub(lambda block: block[1] + tables[block[2]]() + block[3], text)


def main() -> int:
    """Writes the tables, or checks them."""
    parser = argparse.ArgumentParser(description="Write the generated tables of the READMEs.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check = parser.parse_args().check
    for page, tables in TABLES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        wanted = filled(text, tables, page)
        if text == wanted:
            continue
        if check:
            print(
                f"The generated tables in {page} are not current. Run: make docs", file=sys.stderr
            )
            return 1
        (ROOT / page).write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
