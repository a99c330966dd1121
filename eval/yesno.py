"""How an answer becomes yes or no, under each rule in use, and what each rule then counts.

Six projects read POPE answers in six ways and their figures are not comparable: "Yes, there is
another dog." is a no for one of them. Each rule here follows its source to the letter and has three
outcomes; None is "unreadable". Whether a person could read the answer is a separate question
(`readable`), asked whatever the rule.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halu.eval.benchmark import Counts, ratio

YesNo = Literal["yes", "no"]
Reader = Callable[[str, YesNo], YesNo | None]
"""Reads an answer; the label is passed because one published rule looks at it."""

COUNTS = ("tp", "fp", "tn", "fn", "none_yes", "none_no")
"""Yes is the positive class; `none_*` are answers the rule cannot read, by label."""

_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_WORD = re.compile(r"[a-z']+")


def read_pope(text: str, label: YesNo) -> YesNo | None:
    """POPE's own script and LLaVA's: first sentence, exact tokens, anything else is a yes.

    The tokens are case-sensitive, so `NO` is a yes, and so are an empty answer and a "No" that a
    newline glues to the next word.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def read_opera(text: str, label: YesNo) -> YesNo | None:
    """OPERA, PAI, SID, RITUAL, VISTA: the whole text, so a later "not" turns a yes around."""
    words = text.replace(".", "").replace(",", "").split(" ")
    negative = any(word in {"No", "no", "not", "NO"} or word.endswith("n't") for word in words)
    return "no" if negative else "yes"


def read_vcd(text: str, label: YesNo) -> YesNo | None:
    """VCD, AGLA: right if the label occurs anywhere, so "snowboard" holds a no."""
    if label in text.lower():
        return label
    return "no" if label == "yes" else "yes"


def read_marine(text: str, label: YesNo) -> YesNo | None:
    """MARINE: first sentence in lower case; empty answers are dropped."""
    if not text.strip():
        return None
    words = text.split(".")[0].replace(",", "").lower().split()
    return "no" if {"no", "not"} & set(words) else "yes"


def read_lmms(text: str, label: YesNo) -> YesNo | None:
    """lmms-eval: the answer must equal yes or no; "Yes." is neither."""
    said = text.strip().lower()
    return "yes" if said == "yes" else "no" if said == "no" else None


def read_vlmevalkit(text: str, label: YesNo) -> YesNo | None:
    """VLMEvalKit without a judge: one of the two words and not the other, punctuation removed."""
    words = set(_without_punctuation(text.lower()).split())
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def _without_punctuation(text: str) -> str:
    """Apply the VQA rule: a mark next to a blank vanishes everywhere, any other becomes a blank."""
    all_vanish = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _VQA_PUNCTUATION:
        vanishes = all_vanish or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if vanishes else " ")
    # The original passes a flag worth 32 where the number of replacements is expected.
    return re.sub(r"\.(?!\d)", "", cleaned, count=32)


@dataclass(frozen=True, slots=True)
class Rule:
    """A published rule: its reader, and what an unreadable answer does to the figures.

    `unreadable`: "dropped" leaves it out of every denominator; "wrong" counts it in the accuracy
    only; "wrong_no" counts it wrong in the accuracy and as a no elsewhere.
    """

    read: Reader
    unreadable: Literal["dropped", "wrong", "wrong_no"]
    yes_ratio: Literal["said", "label"] = "said"


RULES: dict[str, Rule] = {
    "pope": Rule(read_pope, "dropped"),
    "opera": Rule(read_opera, "dropped"),
    "vcd": Rule(read_vcd, "dropped"),
    "marine": Rule(read_marine, "dropped"),
    "lmms": Rule(read_lmms, "wrong", yes_ratio="label"),
    "vlmevalkit": Rule(read_vlmevalkit, "wrong_no"),
}


def readable(text: str) -> bool:
    """Whether a person finds a yes or a no in it, and not both.

    No published rule asks this; it is what the "unreadable" column counts.
    """
    words = _WORD.findall(text.lower().replace("’", "'"))
    yes = "yes" in words
    no = any(word in {"no", "not", "cannot"} or word.endswith("n't") for word in words)
    return yes != no


def outcome(said: YesNo | None, label: YesNo) -> str:
    """Name the one count of `COUNTS` that an answer adds to."""
    if said is None:
        return f"none_{label}"
    if label == "yes":
        return "tp" if said == "yes" else "fn"
    return "fp" if said == "yes" else "tn"


def rates(counts: Counts, rule: Rule) -> dict[str, NDArray[np.float64]]:
    """Compute accuracy, precision, recall, F1 and yes ratio; NaN where a denominator is zero.

    precision = TP/(TP+FP), recall = TP/(TP+FN), F1 their harmonic mean, yes ratio = said yes / all.
    F1 is undefined where precision is (nothing called yes), and where both are zero.
    """
    tp, fp, tn, fn, none_yes, none_no = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    if rule.unreadable == "dropped":
        none_yes, none_no = np.zeros_like(none_yes), np.zeros_like(none_no)
    everything = tp + fp + tn + fn + none_yes + none_no
    missed = fn + none_yes if rule.unreadable == "wrong_no" else fn
    positive = tp + fn + none_yes if rule.yes_ratio == "label" else tp + fp
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + missed)
    return {
        "accuracy": ratio(tp + tn, everything),
        "precision": precision,
        "recall": recall,
        "f1": ratio(2 * precision * recall, precision + recall),
        "yes_ratio": ratio(positive, everything),
    }
