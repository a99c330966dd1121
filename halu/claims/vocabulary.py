"""English words for COCO's 80 objects: everyday synonyms, plurals by rule, colours, numbers."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

COLORS = frozenset(
    """
    red orange yellow green blue purple pink brown black white gray grey golden silver beige
    turquoise violet tan
    """.split()
)
NUMBERS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()
    )
}
NUMBERS["twenty"] = 20
_PLURALS = {"person": "people", **{one: one for one in ("sheep", "broccoli", "skis", "scissors")}}


@dataclass(frozen=True, slots=True)
class Words:
    """Which words name an object.

    Attributes:
        names: word or words in the singular -> COCO's name; an empty name is no object.
        singular: plural -> singular of every word in `names`.
        longest: most words in a key of `names`.
    """

    names: Mapping[str, str]
    singular: Mapping[str, str]
    longest: int


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """The shipped word list."""
    found: dict[str, Any] = json.loads(
        files("halu.claims").joinpath("objects.json").read_text("utf-8")
    )
    return found


@lru_cache(maxsize=1)
def coco_names() -> tuple[str, ...]:
    """COCO's 80 names."""
    return tuple(table()["names"])


@lru_cache(maxsize=1)
def words() -> Words:
    """The whole list, ready to look up."""
    raw = table()
    names = {
        word: name
        for part in (raw["names"], raw["also"])
        for name, synonyms in part.items()
        for word in (name, *synonyms)
    }
    names |= {f"{age} {animal}": animal for animal in raw["young"] for age in ("baby", "adult")}
    names |= dict.fromkeys([*raw["not_objects"], *raw["compounds"]], "")
    singular = dict(plurals(set(" ".join(names).split()))) | raw["irregular"]
    return Words(names, singular, max(len(key.split()) for key in names))


def plurals(known: set[str]) -> Iterator[tuple[str, str]]:
    """Plural and singular of each of the `known` words, unless the plural is one itself (skis)."""
    for word in sorted(known):
        if word.endswith("y") and word[-2:-1] not in "aeiou":
            plural = word[:-1] + "ies"
        elif word.endswith(("s", "x", "z", "ch", "sh")):
            plural = word + "es"
        else:
            plural = word + "s"
        if plural not in known:
            yield plural, word


def plural(name: str) -> str:
    """Of one of COCO's names, or of another noun by rule."""
    *before, last = name.split()
    irregular = {one: several for several, one in table()["irregular"].items()} | _PLURALS
    known = irregular.get(last) or next((several for several, _ in plurals({last})), last)
    return " ".join([*before, known])
