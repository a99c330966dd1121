"""Write the generated tables of the README.

    python tools/readme_tables.py [--check]

A table stands between `<!-- generated: NAME -->` and `<!-- /generated -->`. With `--check` nothing
is written; the exit status says whether the README is current. What a strategy costs is read off
the plan that it makes for one question about one picture.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halu.adapters import Adapter
    from halu.strategy import ModelFacts, Plan, Strategy

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
KINDS = ("decoding", "image", "prompt", "logits", "attention", "control")


def strategies_table() -> str:
    """Every registered strategy: where it acts, its paper, its price, how it is switched off."""
    from halu.strategy import strategies

    rows = ["| strategy | acts on | paper | forwards a token | extra prompts | off with |"]
    rows += ["|---|---|---|--:|--:|---|"]
    for strategy in sorted(strategies, key=lambda each: (KINDS.index(each.kind), each.name)):
        paper = strategy.paper
        cited = f"[{paper.short}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
        title = ", ".join(part for part in (cited or paper.short, paper.venue) if part)
        rows_a_token, prompts = cost(strategy)
        off = " ".join(f"`{key}={_short(value)}`" for key, value in (strategy.off or {}).items())
        cells = (f"`{strategy.name}`", strategy.kind, title, rows_a_token, prompts, off)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def cost(strategy: type[Strategy]) -> tuple[int, int]:
    """Rows through the language model at each token, and prompts read besides the plain one.

    Planned on a random model; a method that wants facts known for real models only is told that it
    is LLaVA-1.5-7B.
    """
    from halu.errors import Unsupported
    from halu.strategy import ModelFacts

    try:
        return _planned(strategy, None)
    except Unsupported:
        return _planned(strategy, ModelFacts("LLaVA-1.5-7B", "llava", 32, 32, 32, 4096))


@cache
def _adapter() -> Adapter:
    from halu.testing.random_models import random_adapter

    return random_adapter("llava")


def _planned(strategy: type[Strategy], facts: ModelFacts | None) -> tuple[int, int]:
    from PIL import Image

    from halu.planning import RequestContext, choose, steered
    from halu.types import Request, question

    class Context(RequestContext):
        @property
        def model(self) -> ModelFacts:
            return facts or self.adapter.facts

    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    request = Request(messages=words, strategy=strategy.name)
    plan, contexts = choose(request).plan(_adapter(), request, context=Context)
    for branch in (plan.main, *plan.extra):
        steered(plan, branch)()
    extra = len(plan.extra)
    return (1 + extra) * _hypotheses(plan), extra + sum(ctx.forwards for ctx in contexts)


def _hypotheses(plan: Plan) -> int:
    """How many hypotheses go on after the first token of an answer that nothing ends."""
    import torch

    from halu.types import Sampling

    search = plan.search.start(Sampling(), frozenset(), ())
    return len(search.advance(torch.arange(64.0)[None], [[]]))


TABLES: dict[str, Callable[[], str]] = {"strategies": strategies_table}


def filled(text: str) -> str:
    """The README with its generated parts as they should be."""
    missing = TABLES.keys() - {name for _, name, _ in BLOCK.findall(text)}
    if missing:
        raise SystemExit(f"README.md has no <!-- generated: {sorted(missing)[0]} --> block.")
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def main() -> int:
    """Writes the tables, or checks them."""
    parser = argparse.ArgumentParser(description="Write the generated tables of the README.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wanted = filled(text)
    if text == wanted:
        return 0
    if arguments.check:
        print("The generated tables in README.md are not current. Run: make docs", file=sys.stderr)
        return 1
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
