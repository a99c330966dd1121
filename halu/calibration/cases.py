"""Answers of which it is known what is made up, to fit detectors' curves on.

A model's own captions of pictures whose objects are known; statements about what built-in scenes
show, half of them false; captions that a user has labelled.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from halu.calibration.labelled import Known, Tell
from halu.calibration.statements import Truth, text, truth
from halu.claims import Claim
from halu.detector import DetectorContext, Images, stated
from halu.errors import BadInput
from halu.images import open_image
from halu.scenes import Scene
from halu.types import Answer
from halu.vlm import VLM, asking

if TYPE_CHECKING:
    from halu.eval.records import Entry

QUESTION = "Please describe this image in detail."
LONGEST = 128
BATCH = 16

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Case:
    """An answer about some pictures, and which of its claims are made up."""

    images: Images
    answer: Answer
    asked: DetectorContext
    made_up: Truth


def captioned(vlm: VLM, known: Sequence[Known], tell: Tell) -> Iterator[Case]:
    """A model's greedy captions of pictures with all that decoding knows of them; CHAIR's rules say
    which named objects are there.
    """
    from halu.eval.chair import score_caption
    from halu.eval.lexicon import words_rules

    for first in range(0, len(known), BATCH):
        tell(first, len(known))
        part = known[first : first + BATCH]
        requests = [
            asking(one.picture, QUESTION, evidence="map", max_new_tokens=LONGEST) for one in part
        ]
        for one, request, answer in zip(part, requests, vlm.generate(requests), strict=True):
            marks = score_caption(answer.text, one.names, words_rules()).marks
            asked = DetectorContext(request, vlm.generate_each, vlm.name)
            named = {(mark.start, mark.stop): mark.wrong for mark in marks}
            yield Case([one.picture], answer, asked, _named(named))
    tell(len(known), len(known))


def claimed(scenes: Iterable[Scene]) -> Iterator[Case]:
    """Statements about the numbers, colours and places in built-in scenes."""
    for scene in scenes:
        said = text(scene, random.Random(scene.seed))
        yield Case([Image.fromarray(scene.image)], stated(said), DetectorContext(), truth(scene))


def written(file: Path, folder: Path | None, n: int) -> list[Case]:
    """The first `n` captions of a JSON-lines file: `image` (a path, from the folder on, else from
    the file's own), `text`, and `made_up`, a list of words of the text. A claim is made up if it
    shares a word with them.

    Raises:
        BadInput: naming the line, if one lacks something or its words are not in its text.
    """
    from halu.eval.records import read_entries

    found = []
    for entry in read_entries(file)[:n]:
        said = entry.text("text")
        picture = open_image((folder or file.parent) / entry.text("image"))
        places = [place for words in _made_up(entry) for place in _places(words, said, entry.where)]
        found.append(Case([picture], stated(said), DetectorContext(), _within(places)))
    if not found:
        raise BadInput(f"{file} holds no captions.", param="captions")
    return found


def _made_up(entry: "Entry") -> list[str]:
    found = entry.fields.get("made_up")
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise BadInput(f"{entry.where}: 'made_up' is missing or not a list of words.")
    return found


def _places(words: str, said: str, where: str) -> list[Place]:
    found = re.finditer(rf"(?<!\w){re.escape(words)}(?!\w)", said, re.IGNORECASE)
    places = [match.span() for match in found]
    if not places:
        raise BadInput(f"{where}: {words!r} is not in the text.")
    return places


def _within(places: Sequence[Place]) -> Truth:
    """Every claim, by the places of what is made up."""
    return lambda claim: any(start < claim.stop and claim.start < stop for start, stop in places)


def _named(places: dict[Place, bool]) -> Truth:
    """Objects, by the places where they are named and whether those are made up."""

    def made_up(claim: Claim) -> bool | None:
        if claim.kind != "object":
            return None
        met = (
            w for (start, stop), w in places.items() if start < claim.stop and claim.start < stop
        )
        return next(met, None)

    return made_up
