"""Write `docs/results/README.md`: every stored run as one table, and what each strategy changed.

    python tools/results_page.py [--check]

Figures and verdicts are those of `summary.json`; nothing is computed here. With `--check` nothing
is written; the exit status says whether the page is current.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = RESULTS / "README.md"
COLUMNS = (
    ("pope-scenes", "random", "accuracy", "POPE random, accuracy"),
    ("pope-scenes", "popular", "accuracy", "popular"),
    ("pope-scenes", "adversarial", "accuracy", "POPE adversarial"),
    ("chair-scenes", "test", "chair_s", "CHAIR_s, lower is better"),
    ("chair-scenes", "test", "chair_i", "CHAIR_i, lower is better"),
    ("chair-scenes", "test", "recall", "recall"),
    ("chair-scenes", "test", "length", "length"),
    ("mme-scenes", "existence", "score", "MME existence, of 200"),
    ("mme-scenes", "count", "score", "count"),
    ("mme-scenes", "position", "score", "position"),
    ("mme-scenes", "color", "score", "color"),
)
VERDICTS = {"score": "acc"}
"""Where a metric's verdict is that of another, whose test is finer: MME's score adds answers up."""
HEAD = """# Results on the built-in world

Written by `tools/results_page.py` from the stored runs. The models are halu's own small ones and
the pictures are drawn: these figures compare strategies here and say nothing about LLaVA-1.5 or
Qwen2.5-VL. In brackets 95 % intervals from resampling pictures. **better** and **worse** are
differences from greedy on the same samples that remain after Holm's correction over all strategies
of a column (McNemar's exact test by pictures for accuracy, MME's too, which its score is marked by;
paired bootstrap for the rest); all else is no difference that this many samples can show.
Strategies ran with the parameters in the command, none was tuned.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for file in sorted(RESULTS.glob("*/summary.json")):
        found = json.loads(file.read_text("utf-8"))
        parts += [section(found, file.parent.name)]
    return "\n".join(parts)


def section(found: dict[str, Any], folder: str) -> str:
    """One run: command, table, and the strategies by what they changed."""
    by_key = {(row["label"], row["benchmark"], row["split"]): row for row in found["results"]}
    labels = list(dict.fromkeys(row["label"] for row in found["results"]))
    shown = [c for c in COLUMNS if any((name, *c[:2]) in by_key for name in labels)]
    counts = {c[:2]: row["n"] for c in shown if (row := by_key.get((labels[0], *c[:2])))}
    lines = [
        f"## {found['run']['model']}\n",
        f"[Report]({folder}/report.html), [summary]({folder}/summary.json), made by\n",
        f"```sh\n{found['run']['command']}\n```\n",
        "Samples: "
        + ", ".join(f"{name} {split} {n}" for (name, split), n in counts.items())
        + ".\n",
        "| strategy | " + " | ".join(c[3] for c in shown) + " | rows a token of a caption |",
        "|---|" + "---|" * len(shown) + "--:|",
    ]
    for name in labels:
        cells = [cell(by_key.get((name, *c[:2])), c[2]) for c in shown]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {forwards(by_key, name)} |")
    return "\n".join([*lines, "", *changes(by_key, labels, shown)]) + "\n"


def cell(row: dict[str, Any] | None, metric: str) -> str:
    """A value with its interval, and the verdict if there is one."""
    if row is None or row["metrics"][metric]["value"] is None:
        return ""
    figure = row["metrics"][metric]
    scale = 1 if metric in ("score", "length") else 100
    value = f"{figure['value'] * scale:.1f}"
    if figure["ci"]:
        value += f" ({figure['ci'][0] * scale:.1f}–{figure['ci'][1] * scale:.1f})"
    verdict = judged(row, metric)
    return value if verdict in ("", "no difference") else f"{value} **{verdict}**"


def judged(row: dict[str, Any], metric: str) -> str:
    """The verdict on a metric; empty for greedy's own row."""
    found: str = row["vs_greedy"].get(VERDICTS.get(metric, metric), {}).get("verdict", "")
    return found


def forwards(by_key: dict[Any, dict[str, Any]], name: str) -> str:
    """Forwards a token over the captions, where the prompt weighs least."""
    row = by_key.get((name, "chair-scenes", "test"))
    cost = row["cost"]["forwards_per_token"] if row else None
    return "" if cost is None else f"{cost:.2f}"


def brief(found: dict[str, Any]) -> str:
    """Greedy and the strategies that changed something, in few columns; then the others' names."""
    by_key = {(row["label"], row["benchmark"], row["split"]): row for row in found["results"]}
    labels = list(dict.fromkeys(row["label"] for row in found["results"]))
    few = [COLUMNS[i] for i in (2, 3, 4, 5, 7)]
    changed, _ = divided(by_key, labels, few)
    somewhere, silent = divided(by_key, labels, COLUMNS)
    elsewhere = [name for name in somewhere if name not in changed]
    counts = sorted({by_key[labels[0], c[0], c[1]]["n"] for c in few})
    lines = [
        f"{' or '.join(map(str, counts))} samples in each column, by the command in"
        f" [docs/results](docs/results/README.md#{found['run']['model']}):\n",
        "| strategy | " + " | ".join(c[3] for c in few) + " | rows a token of a caption |",
        "|---|" + "---|" * len(few) + "--:|",
    ]
    for name in [labels[0], *changed]:
        cells = [cell(by_key.get((name, *c[:2])), c[2]) for c in few]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {forwards(by_key, name)} |")
    if elsewhere:
        lines += ["", f"Changed only in columns that are not here: {_names(elsewhere)}."]
    return "\n".join([*lines, "", f"No difference that shows in any column: {_names(silent)}."])


def changes(by_key: dict[Any, dict[str, Any]], labels: list[str], shown: list[Any]) -> list[str]:
    """Strategies with a verdict, each with what got better and worse; then the others."""
    changed, silent = divided(by_key, labels, shown)
    told = [f"- `{name}`: {'; '.join(parts)}" for name, parts in changed.items()]
    return [*told, "", f"No difference that shows: {_names(silent)}.\n"]


def divided(
    by_key: dict[Any, dict[str, Any]], labels: list[str], shown: Sequence[Any]
) -> tuple[dict[str, list[str]], list[str]]:
    """Strategies with a verdict, with what got better and what worse; and those without one."""
    changed, silent = {}, []
    for name in labels[1:]:
        verdicts: dict[str, list[str]] = {"better": [], "worse": []}
        for benchmark, split, metric, _ in shown:
            row = by_key.get((name, benchmark, split))
            verdict = judged(row, metric) if row else None
            if verdict in verdicts:
                verdicts[verdict].append(f"{metric} ({benchmark} {split})")
        parts = [f"{verdict} {', '.join(where)}" for verdict, where in verdicts.items() if where]
        if parts:
            changed[name] = parts
        else:
            silent.append(name)
    return changed, silent


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main() -> int:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description="Write the page of results.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    check = parser.parse_args().check
    text = page()
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    if check:
        print("docs/results/README.md is not current. Run: make docs", file=sys.stderr)
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
