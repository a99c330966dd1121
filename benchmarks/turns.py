"""What turns in the decoding benchmark say: times relative to each other, as a table and a plot."""

import statistics
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from contestants import BASELINES


class Took(NamedTuple):
    """Seconds to the first token, for each further one, and for the whole answer."""

    first: float
    further: float
    whole: float


class Turn(NamedTuple):
    """What one contestant took, and greedy beside it."""

    own: Took
    beside: Took


Round = dict[str, Turn]
"""One round, by contestant and the floor."""
GREEDY = "greedy"
FLOOR = "floor"


def spread(each: list[float]) -> dict[str, float]:
    """Median, least, largest."""
    kinds = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return {kind: round(value, 3) for kind, value in kinds.items()}


def ratios(rounds: list[Round], name: str, base: str, kind: str) -> dict[str, float]:
    """What one took relative to another, within each round."""

    def relative(one: str) -> list[float]:
        each = [found[one] for found in rounds]
        return [getattr(turn.own, kind) / getattr(turn.beside, kind) for turn in each]

    mine = relative(name)
    if base == GREEDY:
        return spread(mine)
    return spread([a / b for a, b in zip(mine, relative(base), strict=True)])


def table(warm: Round, rounds: list[Round], timed: bool) -> dict[str, Any]:
    """What everyone took who ran in every round, relative to the baselines; on a GPU the times
    themselves, and what the first answer of all took, relative to a later one.
    """
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    rows: dict[str, Any] = {}
    for name in names:
        if name == FLOOR:
            continue
        row: dict[str, Any] = {"further token": {}, "first token": {}}
        for base in (base for base in BASELINES if base in names):
            row["further token"][f"to {base}"] = ratios(rounds, name, base, "further")
            row["first token"][f"to {base}"] = ratios(rounds, name, base, "first")
        row["further token"]["to floor"] = ratios(rounds, name, FLOOR, "further")
        if timed:
            own = [one[name].own for one in rounds]
            row["first token"]["ms"] = round(1e3 * statistics.median(t.first for t in own), 2)
            row["further token"]["ms"] = round(1e3 * statistics.median(t.further for t in own), 3)
            whole = statistics.median(t.whole for t in own)
            row["start-up"] = round(warm[name].own.whole / whole, 2)
        rows[name] = row
    return rows


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """What a further token costs, relative to stock generate."""
    figure, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 9), squeeze=False)
    for axis, one in zip(axes[0], results, strict=True):
        rows = {name: row["further token"] for name, row in one["contestants"].items()}
        found = [row.get("to stock generate", row["to floor"]) for row in rows.values()]
        middle = [each["median"] for each in found]
        sides = [[each["median"] - each["min"] for each in found]]
        sides += [[each["max"] - each["median"] for each in found]]
        axis.errorbar(middle, list(rows), xerr=sides, fmt="o", markersize=4, elinewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.grid(axis="x", linewidth=0.3)
        axis.invert_yaxis()
        axis.margins(y=0.01)
        axis.set_title(f"{one['model']},\nbatch {one['batch']}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("time per further token / stock generate", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
