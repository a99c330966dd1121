"""Printed words on the built-in world: what does the sign say, and does it say nearly that?

Models take what is printed for what they expect to be printed ("semantic hallucination", Shu et
al., NeurIPS 2025, arXiv:2506.05551), most of all where a word means nothing. So signs with English
words and with made-up ones are splits of their own. Each sign is asked about three times: openly,
by its word, and by a near miss that differs in one letter. The questions and the reading are ours,
not that paper's. Results say how strategies compare here; they are not claims about other models.

An open answer is right if it holds the printed word and no other word that signs bear; any other
such word is a slip. Yes and no are read by POPE's rule.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.eval import world, yesno
from halu.eval.benchmark import (
    Counts,
    Metric,
    Sample,
    Score,
    benchmarks,
    chosen,
    ratio,
    summed,
)
from halu.eval.pope import score_answer
from halu.scenes.themes import NONSENSE_WORDS, REAL_WORDS

SIGNS = 100
"""Signs of each split in a full run."""

QUESTIONS = 3
COUNTS = ("open", "read", "slips", *yesno.COUNTS)
METRICS = (
    Metric("read", "higher", "signs whose word is read exactly", hits=("read",)),
    Metric("accuracy", "higher", "words confirmed, near misses denied", hits=("tp", "tn")),
    Metric("slips", "lower", "signs read as another word that signs bear"),
    Metric("yes_ratio", "neither", "yes/no answers that are yes; half would be right"),
)

_KNOWN = frozenset(REAL_WORDS + NONSENSE_WORDS)
_MOST_SCENES = 50_000  # one in five has a sign
_VOWELS, _CONSONANTS = "AEIOU", "BCDFGHJKLMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class TextScenes:
    """Three questions about each sign; a scene without a sign is left out."""

    name: str = "text-scenes"
    about: str = "Printed words of drawn scenes, English and made up: read, confirmed, denied"
    splits: tuple[str, ...] = ("real", "nonsense")
    version: int = 1
    rules: str = "text-scenes"
    builtin: bool = True
    judged: bool = False
    suffix: str = ""
    max_new_tokens: int = 16
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each split in turn; no scene is in both."""
        signs = SIGNS if limit is None else -(-limit // QUESTIONS)
        found: list[Sample] = []
        for split in chosen(self.splits, splits):
            asked = (
                sample
                for image, word in islice(_signs(split == "real", seed), signs)
                for sample in _questions(split, image, word)
            )
            found += islice(asked, limit)
        return found

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Draw the scene again."""
        return world.picture(image)

    def score(self, sample: Sample, text: str) -> Score:
        """Read an open answer against the printed word, any other as yes or no."""
        if sample.label not in ("yes", "no"):
            return score_reading(text, str(sample.label))
        score = score_answer(text, "yes" if sample.label == "yes" else "no")
        # A model that always says no still has its readings, so this is no constant answer.
        return replace(score, parsed=(str(score.parsed),))

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the three answers about one sign."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the four metrics."""
        asked, read, slips = np.moveaxis(np.asarray(counts, np.float64)[..., :3], -1, 0)
        said = yesno.rates(np.asarray(counts)[..., 3:], yesno.RULES["pope"])
        return {
            "read": ratio(read, asked),
            "accuracy": said["accuracy"],
            "slips": ratio(slips, asked),
            "yes_ratio": said["yes_ratio"],
        }


def score_reading(text: str, printed: str) -> Score:
    """Score what was read off a sign; an answer without a letter has no value."""
    words = re.findall(r"[A-Z]+", text.upper())
    slipped = any(word in _KNOWN and word != printed for word in words)
    right = printed in words and not slipped
    return Score(
        parsed=tuple(word for word in dict.fromkeys(words) if word in {printed, *_KNOWN}),
        value=float(right) if words else None,
        counts={"open": 1, "read": int(right), "slips": int(slipped)},
    )


def near_miss(word: str, rng: random.Random) -> str:
    """Change one letter, a vowel to a vowel; never to a word that other signs bear."""
    while True:
        place = rng.randrange(len(word))
        letters = _VOWELS if word[place] in _VOWELS else _CONSONANTS
        other = word[:place] + rng.choice(letters) + word[place + 1 :]
        if other != word and other not in _KNOWN:
            return other


def _signs(real: bool, seed: int) -> Iterator[tuple[str, str]]:
    """Scenes with a sign of that kind, and its word."""
    for image in world.images(_MOST_SCENES, seed):
        for sign in world.truth(image).prints:
            if sign.real == real:
                yield image, sign.text


def _questions(split: str, image: str, word: str) -> list[Sample]:
    miss = near_miss(word, random.Random(f"near miss {image}"))
    asked = (("What does the sign say?", word), (_confirm(word), "yes"), (_confirm(miss), "no"))
    return [
        Sample(f"{split}/{image}/{number}", split, image, prompt, label, category=word)
        for number, (prompt, label) in enumerate(asked, 1)
    ]


def _confirm(word: str) -> str:
    return f'Does the sign say "{word}"? Please answer yes or no.'


benchmarks.register("text-scenes")(TextScenes())
