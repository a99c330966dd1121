"""What the stored runs of `benchmarks/decode.py` say, as text for the READMEs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tried import cost

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "results"
OTHERS = ("stock generate", "two forwards", "mitigv vcd")
FEW = (*OTHERS, "greedy", "vhr", "var", "vcd", "ritual", "m3id")
GOALS = {"attention strategies with one row a token": 1.10, "strategies with two rows": 1.80}
"""Most time of a further token on a CPU, relative to halu's greedy."""


def brief() -> str:
    """Where the figures are from, the main contestants at each batch size, and the goals."""
    parts = []
    for found, one in stored():
        parts += [source(found, one), rows(one, FEW)]
        if one["batch"] == 1:
            parts.append(goals(one))
    return "\n".join(parts)


def whole() -> str:
    """Everyone, at each batch size, and who did not run."""
    parts = []
    for found, one in stored():
        parts += [source(found, one), rows(one, tuple(one["contestants"]))]
        for name, reason in one["refused"].items():
            parts.append(f"- `{name}` did not run: {reason}")
        parts += [""] * bool(one["refused"])
    return "\n".join(parts)


def stored() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run on a CPU with one of its results, small batches first."""
    files = sorted(STORED.glob("decode-cpu*.json"))
    runs = [json.loads(file.read_text("utf-8")) for file in files]
    found = [(run, one) for run in runs for one in run["results"]]
    return sorted(found, key=lambda pair: pair[1]["batch"])


def source(found: dict[str, Any], one: dict[str, Any]) -> str:
    """How a result came about."""
    rounds = f"{one['rounds']} round{'s' * (one['rounds'] > 1)}"
    return (
        f"Batch {one['batch']}, median (least–largest) of {rounds} of {found['tokens']} tokens;"
        f" {one['model']}; {found['device']};\n`{found['command']}`:\n"
    )


def rows(one: dict[str, Any], names: tuple[str, ...]) -> str:
    """A table of some contestants."""
    lines = ["| | further token, to halu's greedy | to stock `generate`, greedy | to the floor |"]
    lines[0] += " first token, to halu's greedy |"
    lines.append("|---|--:|--:|--:|--:|")
    for name in names:
        if name not in one["contestants"]:
            continue
        row = one["contestants"][name]
        further, first = row["further token"], row["first token"]
        cells = [further.get(f"to {base}") for base in ("greedy", "stock generate", "floor")]
        cells.append(first.get("to greedy"))
        lines.append(f"| `{name}` | {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + "\n"


def cell(figure: dict[str, float] | None) -> str:
    """A ratio with its extremes, if it was measured."""
    if figure is None:
        return ""
    if figure["min"] == figure["max"]:
        return f"{figure['median']:.2f}"
    return f"{figure['median']:.2f} ({figure['min']:.2f}–{figure['max']:.2f})"


def goals(one: dict[str, Any]) -> str:
    """Which measured strategies meet their goal."""
    told = []
    for kind, own in by_goal(one).items():
        most = GOALS[kind]
        missed = [f"`{name}` ({ratio:.2f})" for name, ratio in own.items() if ratio > most]
        met = f"{len(own) - len(missed)} of {len(own)} measured meet it"
        last = f", not {', '.join(missed)}" if missed else ""
        told.append(f"The goal for {kind} is at most {most:.2f} times greedy: {met}{last}.")
    return "\n".join(told) + "\n"


def by_goal(one: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The measured strategies that have a goal, with their ratios to greedy."""
    from halu.strategy import strategies

    single, double = GOALS
    found: dict[str, dict[str, float]] = {single: {}, double: {}}
    for strategy in strategies:
        if row := one["contestants"].get(strategy.name):
            ratio = row["further token"]["to greedy"]["median"]
            width = cost(strategy).rows
            if width == 2:
                found[double][strategy.name] = ratio
            elif width == 1 and strategy.kind == "attention":
                found[single][strategy.name] = ratio
    return found
