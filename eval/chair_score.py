"""CHAIR caption files of other projects, joined with COCO's annotations by image id."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halu.errors import BadInput
from halu.eval.answers import Reply, read_replies, refuse_gaps
from halu.eval.chair_files import ChairFiles
from halu.eval.chair_rules import NAMES, PUBLISHED, WHOLE
from halu.eval.chair_tables import SYNONYMS
from halu.eval.coco import annotation_files, image_id, read_coco
from halu.eval.records import read_entries
from halu.eval.score import Column, Given, Reading, scorers

_NEEDS = "--annotations with COCO's instances_*.json and captions_*.json, and the word tables"


@dataclass(frozen=True, slots=True)
class ChairScorer:
    """Scores captions under any rule set; the tables are looked for near the annotations."""

    rules: tuple[str, ...] = NAMES
    published: tuple[str, ...] = PUBLISHED
    options: tuple[str, ...] = (WHOLE,)
    needs: str = _NEEDS

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read captions and truth; every caption's image must be annotated."""
        if not given.annotations:
            raise BadInput("CHAIR needs the truth.", hint=f"Give {_NEEDS}.", param="--annotations")
        asked = None if given.questions is None else _asked(given.questions)
        captions = _captions(read_replies(given.answers, given.rows), asked)
        if asked is not None:
            missing = [str(image) for image in asked.values() if image not in captions]
            refuse_gaps(missing, len(asked), given.partial)
        coco = read_coco(annotation_files(given.annotations), captions.keys())
        coco.check(captions)
        tables = given.tables or _near(given.annotations)
        columns = {}
        for rule in rules:
            chair = replace(ChairFiles(), rules=rule)
            samples = chair.asked(coco, list(captions), tables)
            columns[rule] = Column(chair, list(zip(samples, captions.values(), strict=True)))
        warnings = ("The truth was given finished: the rules read only the captions.",)
        return Reading(columns, warnings if coco.ready else ())


def _captions(replies: Sequence[Reply], asked: dict[str, int] | None) -> dict[int, str]:
    """Map image to caption, in the order of the file."""
    found: dict[int, str] = {}
    for reply in replies:
        image = _image(reply, asked)
        if image in found:
            raise BadInput(f"{reply.where}: image {image} has a caption already.")
        found[image] = reply.text
    return found


def _image(reply: Reply, asked: dict[str, int] | None) -> int:
    if asked is not None and reply.id is not None:
        if reply.id not in asked:
            raise BadInput(f"{reply.where}: there is no question {reply.id}.")
        return asked[reply.id]
    if reply.image is None:
        raise BadInput(
            f"{reply.where}: the caption names no image.",
            hint="Give the file that says which image question_id means with --questions.",
        )
    return image_id(reply.image, reply.where)


def _asked(path: Path) -> dict[str, int]:
    """Read which image a question shows."""
    found: dict[str, int] = {}
    for entry in read_entries(path):
        name, image = entry.first("question_id", "id"), entry.first("image", "image_id")
        if name is None or image is None:
            raise BadInput(f"{entry.where}: 'question_id' or 'image' is missing.")
        if name in found:
            raise BadInput(f"{entry.where}: question id {name} occurs twice.")
        found[name] = image_id(image, entry.where)
    return found


def _near(annotations: Sequence[Path]) -> Path | None:
    """Find the tables beside an annotation file or one folder above."""
    for path in annotations:
        for folder in (path, path.parent, path.resolve().parent.parent):
            if (folder / SYNONYMS).is_file():
                return folder
    return None


scorers.register("chair")(ChairScorer())
scorers.register("chair-scenes")(ChairScorer(rules=("chair-words",), published=("chair-words",)))
