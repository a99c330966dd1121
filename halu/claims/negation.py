"""Which objects a sentence denies: "no dogs, cats or birds", "a dog is not in the picture"."""

import re
from collections.abc import Sequence

from halu.claims.sentences import Word

Span = tuple[int, int]
"""First and last word of a name."""

_NEGATIONS = frozenset({"no", "without", "not", "neither", "nor", "never", "zero", "cannot"})
_WITHIN = 4
_BREAKS = frozenset({"but", "and", "while", "is", "are", "with", "only"})
_OR = frozenset({"or", "nor"})
_BEFORE_ONE = frozenset({"a", "an", "the"})
_LISTED = frozenset({",", "and", "any", "other"}) | _OR | _BEFORE_ONE
_AFTER = 9
"""Most words after a name in which it may be denied."""
_SEEN = r"(?:visible|present|there|here|shown|seen|depicted|pictured|found|part of)"
_PICTURE = r"in (?:the|this) (?:image|picture|photo|photograph|scene|frame)"
_IS_NOT = r"(?:(?P<one>is|was)|are|were) (?:also )?not|(?P<one_>isn't|wasn't)|aren't|weren't"
_CANNOT_BE = r"(?:can not|cannot|can't) be (?:seen|found|made out|identified)"
_ABSENT = (
    r"(?:(?P<one__>is|was)|are|were) (?:absent|missing|nowhere)(?= (?:from|in|here|to)\b| \W|$)"
)
_DENIED = re.compile(rf"(?:(?:{_IS_NOT}) (?:{_SEEN}|{_PICTURE})|{_CANNOT_BE}|{_ABSENT})\b")


def denied(sentence: Sequence[Word], named: Sequence[Span]) -> list[bool]:
    """Of each name of a sentence, in order, whether it is denied: by a negation shortly before it
    or behind it, or by one that a list brings to it.
    """
    texts = [word.text for word in sentence]
    found = [_before(sentence, first) for first, _ in named]
    for run in _runs(texts, named):
        for number in run[1:]:
            found[number] |= found[number - 1] and _carried(texts, named, run, number)
        after = _DENIED.match(" ".join(texts[named[run[-1]][1] + 1 :][:_AFTER]))
        if after:
            several = not any(after.groupdict().values())
            for number in run if several else run[-1:]:
                found[number] = True
    return found


def _before(sentence: Sequence[Word], first: int) -> bool:
    """Whether a negation stands shortly before, with nothing between that ends its reach."""
    for word in reversed(sentence[max(0, first - _WITHIN) : first]):
        if word.text in _NEGATIONS or word.text.endswith("n't"):
            return True
        if word.is_mark or word.text in _BREAKS:
            return False
    return False


def _runs(texts: Sequence[str], named: Sequence[Span]) -> list[list[int]]:
    """Names that stand in one list, by number."""
    runs: list[list[int]] = []
    for number in range(len(named)):
        gap = _gap(texts, named, number) if number else []
        listed = gap and (set(gap) <= _LISTED or (_OR & set(gap) and len(gap) <= _WITHIN))
        if listed and not _BREAKS - {"and"} & set(gap):
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _carried(texts: Sequence[str], named: Sequence[Span], run: Sequence[int], number: int) -> bool:
    """Whether a list goes on denying: "no dog, a cat or a bird", but not "no dog, and a cat"."""
    later = [_OR & set(_gap(texts, named, one)) for one in run if one >= number]
    return any(later) or not _BEFORE_ONE & set(_gap(texts, named, number))


def _gap(texts: Sequence[str], named: Sequence[Span], number: int) -> Sequence[str]:
    """The words between a name and the one before it."""
    return texts[named[number - 1][1] + 1 : named[number][0]]
