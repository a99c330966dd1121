"""CHAIR's ground truth from COCO's files: annotated categories, and what people's captions name.

The truth of an image is the union of its instance annotations' categories and of the objects that
the same rules find in all its reference captions. Train and val may both be needed.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from halu.errors import BadInput
from halu.eval.objects import Rules, read_caption


def coco_truth(
    instances: Iterable[Path], captions: Iterable[Path], rules: Rules
) -> dict[int, frozenset[str]]:
    """Map every image of the annotation files to the names of its objects.

    Raises:
        BadInput: if a file is not in COCO's layout, or has a category that the rules do not know.
    """
    found: dict[int, set[str]] = {}
    for image, names in chain(
        chain.from_iterable(_annotated(path, rules) for path in instances),
        chain.from_iterable(_described(path, rules) for path in captions),
    ):
        found.setdefault(image, set()).update(names)
    return {image: frozenset(names) for image, names in found.items()}


def _annotated(path: Path, rules: Rules) -> Iterator[tuple[int, set[str]]]:
    """Yield every image, also one without annotations: it is empty, not unknown."""
    with _layout(path) as table:
        names = {entry["id"]: rules.lexicon.names[entry["name"]] for entry in table["categories"]}
        for image in table["images"]:
            yield int(image["id"]), set()
        for entry in table["annotations"]:
            yield int(entry["image_id"]), {names[entry["category_id"]]}


def _described(path: Path, rules: Rules) -> Iterator[tuple[int, set[str]]]:
    with _layout(path) as table:
        for entry in table["annotations"]:
            mentions = read_caption(entry["caption"], rules).mentions
            yield int(entry["image_id"]), {mention.name for mention in mentions}


@contextmanager
def _layout(path: Path) -> Iterator[Any]:
    """Read a file and report whatever in it is not as COCO has it."""
    try:
        yield json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not in COCO's layout: {error!r}.") from error
