"""English for object names: articles, plurals, numbers, lists."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "broccoli": "broccoli",
    "knife": "knives",
    "mouse": "mice",
    "bus": "buses",
    "sandwich": "sandwiches",
    "toothbrush": "toothbrushes",
    "couch": "couches",
    "wine glass": "wine glasses",
}
# One of these is "a pair of".
PAIRS = frozenset({"skis", "scissors"})


def plural(name: str) -> str:
    """Make "dogs" of "dog", "knives" of "knife", "pairs of skis" of "skis"."""
    if name in PAIRS:
        return f"pairs of {name}"
    return PLURALS.get(name, name + "s")


def article(words: str) -> str:
    """Make "an apple" of "apple", "a red car" of "red car", by the first letter."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def noun(name: str) -> str:
    """Return what an article or "no" can stand before: "dog", "pair of scissors"."""
    return f"pair of {name}" if name in PAIRS else name


def be(name: str) -> str:
    """Return "is", but "are" for scissors."""
    return "are" if name in PAIRS else "is"


def one(name: str, color: str | None = None) -> str:
    """Name one: "a red car", "a pair of scissors"."""
    return article(f"{color} {noun(name)}" if color else noun(name))


def some(count: int, name: str, color: str | None = None) -> str:
    """Name several or one: "a dog", "two red cars"."""
    if count == 1:
        return one(name, color)
    return f"{NUMBERS[count]} {color + ' ' if color else ''}{plural(name)}"


def there_are(count: int, name: str, single: str | None = None) -> str:
    """Say "there is a dog", "there are two dogs"; `single` ("one") replaces the article."""
    if count == 1 and single is not None:
        return f"there is {single} {noun(name)}"
    return f"there {'is' if count == 1 else 'are'} {some(count, name)}"


def listed(phrases: Sequence[str]) -> str:
    """Join to "a dog, a cat and two cars"."""
    if len(phrases) < 2:
        return "".join(phrases)
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def sentence(words: str) -> str:
    """With a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:]}."
