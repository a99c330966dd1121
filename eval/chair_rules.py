"""CHAIR's rule sets by name: which words are read in captions, and which in the ground truth.

Published figures of one and the same caption file differ by up to three points with the set, so its
name goes with every score.

| name | words | truth | who |
|---|---|---|---|
| `chair-nltk` | nltk | nltk | less-is-more, CCA-LLaVA, lmms-eval |
| `chair-pattern` | pattern | pattern | the original, the POPE paper, vl-interp |
| `chair-opera` | nltk | pattern | OPERA, whose truth is a cache made by the original |
| `chair-words` | halu's own | halu's own | nobody else; needs no tables |

The option `:whole-sentences` after a name drops what follows a caption's last full stop, as OPERA
did at 64 tokens; a caption without any full stop becomes empty.
"""

from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput, Unknown
from halu.eval.chair_tables import SYNONYMS, TABLES, family_rules
from halu.eval.lexicon import words_rules
from halu.eval.objects import Rules

WHOLE = "whole-sentences"
PUBLISHED = ("chair-nltk", "chair-pattern", "chair-opera")
_SETS = {
    "chair-nltk": ("nltk", "nltk"),
    "chair-pattern": ("pattern", "pattern"),
    "chair-opera": ("nltk", "pattern"),
    "chair-words": ("words", "words"),
}
NAMES = tuple(_SETS)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules for captions, rules for the truth, and whether an unfinished sentence is dropped."""

    name: str
    words: Rules
    truth: Rules
    whole: bool

    def trimmed(self, text: str) -> str:
        """Drop the unfinished last sentence, if that is asked for."""
        return text[: text.rfind(".") + 1] if self.whole else text


def rule_set(name: str, tables: Path | None) -> RuleSet:
    """Build a rule set by its name.

    Args:
        name: one of `NAMES`, perhaps with ":whole-sentences".
        tables: the folder with the word tables, which only `chair-words` does without.

    Raises:
        Unknown: for another name or option.
        BadInput: if the tables are missing.
    """
    base, colon, option = name.partition(":")
    if base not in _SETS:
        raise Unknown("rule", base, NAMES, param="--rules")
    if colon and option != WHOLE:
        raise Unknown("option", option, [WHOLE], param="--rules")
    words, truth = (_family(family, tables, base) for family in _SETS[base])
    return RuleSet(name, words, truth, bool(colon))


def _family(family: str, tables: Path | None, name: str) -> Rules:
    if family == "words":
        return words_rules()
    if tables is None:
        raise BadInput(
            f"The rules {name!r} need CHAIR's word tables: there is no {SYNONYMS}"
            f" ({TABLES[SYNONYMS]}).",
            hint="Name their folder with --tables, or use the rules 'chair-words'.",
            param="--tables",
        )
    return family_rules(family, tables)
