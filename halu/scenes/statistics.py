"""How often objects are seen, and seen together, in the train split.

POPE's popular and adversarial questions, and captions that slip, are made of these numbers. They
ship as `statistics.json`, made by `python -m halu.scenes.statistics`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Literal

from halu.scenes.drawing import draw
from halu.scenes.scene import NAMES

FILE = Path(__file__).resolve().parent / "statistics.json"
SCENES = 5000

Kind = Literal["random", "popular", "adversarial"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Over `scenes` pictures: how many show a name, and how many show two names together."""

    scenes: int
    seen: dict[str, int]
    together: dict[str, dict[str, int]]

    def with_any(self, name: str, present: Collection[str]) -> int:
        """How often `name` is seen with each of `present`, summed."""
        row = self.together[name]
        return sum(row.get(other, 0) for other in present)


@lru_cache(maxsize=1)
def split_statistics() -> Statistics:
    """The numbers of the train split that ship with halu."""
    table = json.loads(FILE.read_text())
    together: dict[str, dict[str, int]] = {name: {} for name in NAMES}
    for name, row in zip(NAMES, table["together"], strict=True):
        for other, count in zip(NAMES, row, strict=False):
            together[name][other] = together[other][name] = count
    return Statistics(table["scenes"], dict(zip(NAMES, table["seen"], strict=True)), together)


def absent(present: Collection[str], kind: Kind, count: int, rng: random.Random) -> list[str]:
    """`count` different names that are not present, the way POPE picks them.

    random: uniform; popular: the most frequent; adversarial: those most often seen with `present`.
    """
    table = split_statistics()
    left = [name for name in NAMES if name not in present]
    if kind == "random":
        return rng.sample(left, count)
    if kind == "popular":
        return sorted(left, key=lambda name: (-table.seen[name], name))[:count]
    return sorted(left, key=lambda name: (-table.with_any(name, present), name))[:count]


def absent_by_chance(present: Collection[str], kind: Kind, rng: random.Random) -> str:
    """One name that is not present: uniform, or with odds by frequency or by co-occurrence."""
    table = split_statistics()
    left = [name for name in NAMES if name not in present]
    if kind == "random":
        return rng.choice(left)
    if kind == "popular":
        return rng.choices(left, [table.seen[name] for name in left])[0]
    return rng.choices(left, [table.with_any(name, present) ** 2 + 1 for name in left])[0]


def measure(scenes: int = SCENES) -> Statistics:
    """Draw the first `scenes` pictures of the train split and count (about 4 ms each)."""
    seen = dict.fromkeys(NAMES, 0)
    together: dict[str, dict[str, int]] = {name: dict.fromkeys(NAMES, 0) for name in NAMES}
    for seed in range(scenes):
        names = sorted(draw(seed, "train", 112).names)
        for name in names:
            seen[name] += 1
        for first, second in combinations(names, 2):
            together[first][second] += 1
            together[second][first] += 1
    return Statistics(scenes, seen, together)


def write(table: Statistics) -> None:
    """Replace `statistics.json`; `together` is the half below the diagonal."""
    rows = [
        [table.together[name][other] for other in NAMES[:place]] for place, name in enumerate(NAMES)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    seen = json.dumps([table.seen[name] for name in NAMES])
    FILE.write_text(f'{{"scenes": {table.scenes},\n"seen": {seen},\n"together": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    write(measure())
