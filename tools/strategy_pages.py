"""Write a page for each strategy, and the tables of what runs where and what combines.

    python tools/strategy_pages.py [--check]

Pages lie in `docs/strategies/`. What a method is comes from its module, its parameters from their
declarations, models and pairs from trying them on random models of every family, and figures from
the runs in `docs/results/`. With `--check` nothing is written; the exit status says whether the
pages are current.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tried import cost, refusal

if TYPE_CHECKING:
    from halu.strategy import Strategy

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "strategies"
RESULTS = ROOT / "docs" / "results"
KINDS = ("decoding", "image", "prompt", "logits", "attention", "control")
FAMILIES = {
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
}


def page(strategy: type[Strategy]) -> str:
    """One strategy's page."""
    paper = strategy.paper
    link = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    source = ", ".join(part for part in (paper.short, paper.venue, link) if part)
    parts = [
        f"# `{strategy.name}`\n",
        f"{source}. Acts on: {strategy.kind}.\n",
        described(strategy),
        "## Parameters\n",
        parameters(strategy),
        "## Cost\n",
        price(strategy),
        "## Models\n",
        models(strategy),
        "## On the built-in world\n",
        measured(strategy.name),
    ]
    return "\n".join(parts)


def described(strategy: type[Strategy]) -> str:
    """The module's own words: what it does, equation, modes, what is not reproduced."""
    text = sys.modules[strategy.__module__].__doc__ or ""
    first, _, rest = text.strip().partition("\n\n")
    return f"**{' '.join(first.split())}**\n\n{rest.strip()}\n"


def parameters(strategy: type[Strategy]) -> str:
    """Every parameter with its default and bounds; how to switch the method off."""
    properties = strategy.Params.model_json_schema().get("properties", {})
    if not properties:
        return "None.\n"
    rows = ["| parameter | default | values | meaning |", "|---|---|---|---|"]
    for name, one in properties.items():
        default = json.dumps(one.get("default"))
        rows.append(f"| `{name}` | `{default}` | {bounds(one)} | {one.get('description', '')} |")
    off = " ".join(f"`{key}={value}`" for key, value in (strategy.off or {}).items())
    return "\n".join(rows) + "\n" + (f"\nOff with {off}.\n" if off else "")


def bounds(schema: dict[str, Any]) -> str:
    """What a parameter may be, in a word or two."""
    if "anyOf" in schema:
        return " or ".join(bounds(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    ends = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    kind = {"null": "none", "array": "list", "integer": "whole number"}.get(
        schema.get("type", ""), schema.get("type", schema.get("const", ""))
    )
    return ", ".join([str(kind), *ends])


def price(strategy: type[Strategy]) -> str:
    """What it costs, in a sentence."""
    found = cost(strategy)
    rows = "one row" if found.rows == 1 else f"{found.rows} rows"
    more = [f"{found.prompts} prompts" if found.prompts > 1 else "one prompt"] * bool(found.prompts)
    more += [f"{found.texts} texts that the model writes first"] * bool(found.texts)
    besides = f", and besides the plain prompt {' and '.join(more)}" if more else ""
    return f"At each token {rows} in one forward{besides}.\n"


def models(strategy: type[Strategy]) -> str:
    """The families, each with yes or the reason why not."""
    reasons = {shown: refusal(family, strategy.name) for family, shown in FAMILIES.items()}
    works = [shown for shown, reason in reasons.items() if not reason]
    lines = [f"Runs on {', '.join(works)}." if works else "Runs on none of the families."]
    lines += [f"Refused on {shown}: {reason}" for shown, reason in reasons.items() if reason]
    return "\n".join(lines) + "\n"


def measured(name: str) -> str:
    """Its rows in the stored runs, each against greedy."""
    blocks = []
    for file in sorted(RESULTS.glob("*/summary.json")):
        found = json.loads(file.read_text("utf-8"))
        rows = [row for row in found["results"] if row["strategy"] == name]
        if rows:
            blocks.append(_block(found["run"]["model"], rows, file.parent.name))
    return "\n".join(blocks) or "Not measured.\n"


def _block(model: str, rows: list[dict[str, Any]], folder: str) -> str:
    lines = [
        f"`{rows[0]['label']}` on `{model}`, intervals by resampling pictures, verdicts against"
        f" greedy after Holm ([report](../results/{folder}/report.html)):\n",
        "| benchmark | metric | value | against greedy | verdict | rows a token |",
        "|---|---|---|---|---|--:|",
    ]
    for row in rows:
        cost = row["cost"]["forwards_per_token"]
        for metric, figure in row["metrics"].items():
            delta = row["vs_greedy"].get(metric, {})
            lines.append(
                f"| {row['benchmark']} {row['split']} (n={row['n']}) | {metric} |"
                f" {_value(figure['value'], figure['ci'])} |"
                f" {_value(delta.get('delta'), delta.get('ci'), True)} |"
                f" {delta.get('verdict', '')} | {'' if cost is None else f'{cost:.2f}'} |"
            )
    return "\n".join(lines) + "\n"


def _value(value: float | None, ends: list[float] | None, sign: bool = False) -> str:
    if value is None:
        return ""
    plus = "+" if sign else ""
    spread = f" ({ends[0]:{plus}.3f} to {ends[1]:{plus}.3f})" if ends else ""
    return f"{value:{plus}.3f}{spread}"


def index(known: list[type[Strategy]]) -> str:
    """The table of strategies by family, and the table of pairs."""
    lines = [
        "# Strategies\n",
        "Written by `tools/strategy_pages.py`; what runs and what combines was tried on random",
        "models of every family, so each mark stands for a run.\n",
        "## Families\n",
        "| strategy | acts on | " + " | ".join(FAMILIES.values()) + " |",
        "|---|---|" + ":-:|" * len(FAMILIES),
    ]
    for one in known:
        marks = " | ".join("–" if refusal(f, one.name) else "✓" for f in FAMILIES)
        lines.append(f"| [`{one.name}`]({one.name}.md) | {one.kind} | {marks} |")
    lines += ["", "The page of a strategy has the reason of each –.\n", "## Pairs\n", *pairs(known)]
    return "\n".join(lines) + "\n"


def pairs(known: list[type[Strategy]]) -> list[str]:
    """Which two can be joined with `+`, and why the others cannot."""
    reasons: dict[str, list[str]] = {}
    allowed: dict[str, list[str]] = {one.name: [] for one in known}
    for a, b in itertools.combinations(known, 2):
        reason = refusal("llava", f"{a.name}+{b.name}")
        if not reason:
            allowed[a.name].append(b.name)
            allowed[b.name].append(a.name)
        else:
            short = re.sub(r"^[a-z0-9]+\+[a-z0-9]+: ", "", reason)
            reasons.setdefault(short, []).append(f"{a.name}+{b.name}")
    lines = ["Tried on LLaVA-1.5's architecture.\n", "| strategy | joins with |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(others) or 'none'} |" for name, others in allowed.items()]
    lines += ["", "Refused, with the reason:\n"]
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines.append(f"- {reason} ({', '.join(names)})")
    return lines


def wanted() -> dict[Path, str]:
    """Every page by its path."""
    from halu.strategy import strategies

    known = sorted(strategies, key=lambda each: (KINDS.index(each.kind), each.name))
    found = {PAGES / f"{one.name}.md": page(one) for one in known}
    return found | {PAGES / "README.md": index(known)}


def main() -> int:
    """Writes the pages, or checks them."""
    parser = argparse.ArgumentParser(description="Write the strategies' pages.")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    check = parser.parse_args().check
    pages = wanted()
    there = {path: path.read_text("utf-8") for path in PAGES.glob("*.md")}
    if there == pages:
        return 0
    if check:
        print("docs/strategies is not current. Run: make docs", file=sys.stderr)
        return 1
    PAGES.mkdir(parents=True, exist_ok=True)
    for path in there.keys() - pages.keys():
        path.unlink()
    for path, text in pages.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
