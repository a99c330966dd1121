"""Quoted words and numbers that cannot be read in the picture.

rapidocr reads the picture (its models come with the package, nothing is downloaded). Each quoted
text of the answer is compared, without case and marks, with whole words of every line read, and of
all lines one after the other; the score is one minus the best share of matching characters. Numbers
match exactly or not at all.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from halu.claims import claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.errors import Unavailable
from halu.grounding.pixels import Pixels
from halu.types import Answer, Finding

SMALLEST = 480
"""Smaller pictures are enlarged to this side, since the reader was made for larger letters."""


_WORD = re.compile(r"\d+(?:[.:,]\d+)*|[^\W\d_]+")
_CUT = 2
"""A run of words may have as many more than the text: readers put spaces where there are none."""


class Line(NamedTuple):
    """A line read: its words, its box in shares of the picture, how sure the reader is."""

    text: str
    box: list[float]
    score: float


@detectors.register("ocr")
class Ocr(Detector):
    """Whether quoted words and numbers can be read in the picture."""

    name = "ocr"
    kind = "picture"
    judges = "quoted words"

    class Params(DetectorParams):
        """What counts as read."""

        sure: float = Field(
            0.5, ge=0, le=1, description="Lines read with less confidence are not counted."
        )

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each quoted text."""
        quoted = [one for one in claims(answer.text, asked.question) if one.kind == "text"]
        if not quoted:
            return
        lines = [line for image in images for line in _read(Pixels(image))]
        lines = [line for line in lines if line.score >= self.params.sure]
        for claim in quoted:
            share, best = likest(claim.value, lines)
            seen = f"the likest read is {best.text!r}" if best else "nothing was read"
            yield Finding(
                start=claim.start,
                stop=claim.stop,
                score=1 - share,
                reason=f"{claim.value!r} against the picture: {seen} ({share:.0%} the same).",
                detector=self.name,
                evidence={
                    "read": [line.text for line in lines],
                    "similarity": share,
                    "box": list(best.box) if best else None,
                    "kind": claim.kind,
                },
            )


def likest(text: str, lines: list[Line]) -> tuple[float, Line | None]:
    """The largest share of matching characters with words of a line or all lines, and the likest
    line.
    """
    wanted = _words(text)
    if not wanted or not lines:
        return 0.0, None
    read = [_words(line.text) for line in lines]
    shares = [_share(wanted, own, "") for own in read]
    together = _share(wanted, [word for own in read for word in own], " ")
    best = max(range(len(lines)), key=shares.__getitem__)
    return max(shares[best], together), lines[best]


def _share(wanted: Sequence[str], read: Sequence[str], between: str) -> float:
    """Of the likest run of words; 1 where the very words stand there."""
    own = _joined(wanted, between)
    runs = (
        read[first : first + size]
        for size in range(1, len(wanted) + _CUT + 1)
        for first in range(len(read) - size + 1)
    )
    return max((_alike(own, _joined(run, between)) for run in runs), default=0.0)


def _alike(wanted: str, read: str) -> float:
    """Matching characters as a share of the longer text; 0 if their numbers differ."""
    if list(_numbers(wanted)) != list(_numbers(read)):
        return 0.0
    blocks = SequenceMatcher(None, wanted, read, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / max(len(wanted), len(read))


def _joined(words: Sequence[str], between: str) -> str:
    """Words in a row, numbers always apart."""
    return re.sub(r"(?<=\d)\n(?=\d)", " ", "\n".join(words)).replace("\n", between)


def _numbers(text: str) -> Iterator[str]:
    return (word for word in _WORD.findall(text) if word[0].isdigit())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@lru_cache(maxsize=16)
def _read(pixels: Pixels) -> tuple[Line, ...]:
    """Every line in a picture."""
    image = pixels.image.convert("RGB")
    factor = max(1.0, SMALLEST / max(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    found = _reader()(np.asarray(image.resize(size, Image.Resampling.BICUBIC))[..., ::-1])
    if found.txts is None:
        return ()
    corners = np.asarray(found.boxes) / np.asarray(size)
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1).clip(0, 1).round(4).tolist()
    return tuple(map(Line, found.txts, boxes, map(float, found.scores)))


@lru_cache(maxsize=1)
def _reader() -> Any:
    try:
        from rapidocr import RapidOCR
    except ModuleNotFoundError as error:
        raise Unavailable.without(
            "ocr", f"Detector 'ocr' needs {error.name}.", param="detectors"
        ) from error
    return RapidOCR(params={"Global.log_level": "error"})
