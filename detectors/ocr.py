"""Quoted words and numbers that cannot be read in the picture.

rapidocr reads the picture (its models come with the package, nothing is downloaded). Each quoted
text of the answer is compared, without case and marks, with every line read and with all of them
together; the score is one minus the best share of matching characters.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from halu.claims import claims
from halu.detector import Asked, Detector, DetectorParams, Images, detectors
from halu.errors import Unavailable
from halu.grounding.pixels import Pixels
from halu.types import Answer, Finding

SMALLEST = 480
"""Smaller pictures are enlarged to this side, since the reader was made for larger letters."""


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

    class Params(DetectorParams):
        """What counts as read."""

        sure: float = Field(
            0.5, ge=0, le=1, description="Lines read with less confidence are not counted."
        )

    def judge(self, answer: Answer, images: Images, asked: Asked) -> Iterable[Finding]:
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
                },
            )


def likest(text: str, lines: list[Line]) -> tuple[float, Line | None]:
    """The largest share of matching characters with a line or all lines, and the likest line."""
    wanted = _plain(text)
    if not wanted or not lines:
        return 0.0, None
    shares = [_share(wanted, _plain(line.text)) for line in lines]
    together = _share(wanted, "".join(_plain(line.text) for line in lines))
    best = max(range(len(lines)), key=shares.__getitem__)
    return max(shares[best], together), lines[best]


def _share(wanted: str, read: str) -> float:
    """1 where the text stands in what was read, else the share of matching characters."""
    return 1.0 if wanted in read else SequenceMatcher(None, wanted, read, autojunk=False).ratio()


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


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
        raise Unavailable(
            f"Detector 'ocr' needs {error.name}.", hint="Install halu[ocr].", param="detectors"
        ) from error
    return RapidOCR(params={"Global.log_level": "error"})
