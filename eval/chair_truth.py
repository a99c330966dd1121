"""CHAIR's ground truth from COCO's files: annotated categories, and what people's captions name.

The truth of an image is the union of its instance annotations' categories and of the objects that
the same rules find in all its reference captions. Train and val may both be needed.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from halu.errors import BadInput
from halu.eval.coco import Coco, read_coco
from halu.eval.objects import Rules, read_caption


def coco_truth(
    instances: Iterable[Path], captions: Iterable[Path], rules: Rules
) -> dict[int, frozenset[str]]:
    """Map every image of the annotation files to the names of its objects.

    Raises:
        BadInput: if a file is not in COCO's layout, or has a category that the rules do not know.
    """
    coco = read_coco(chain(instances, captions))
    return truth(coco, coco.categories.keys() | coco.captions.keys(), rules)


def truth(coco: Coco, images: Iterable[int], rules: Rules) -> dict[int, frozenset[str]]:
    """Map images to the names of their objects; truth that is finished stays as it is.

    Raises:
        BadInput: for a category that the rules do not know, or a name of finished truth that is
            not what they call an object, which no mention could ever match.
    """
    if coco.ready:
        return {image: _finished(coco.ready[image], rules) for image in images}
    return {
        image: frozenset(
            {_name(category, rules) for category in coco.categories.get(image, ())}
            | {
                mention.name
                for caption in coco.captions.get(image, ())
                for mention in read_caption(caption, rules).mentions
            }
        )
        for image in images
    }


def _finished(names: Iterable[str], rules: Rules) -> frozenset[str]:
    truth = frozenset(names)
    if odd := sorted(truth - set(rules.lexicon.names.values())):
        known = rules.lexicon.names.get(odd[0])
        raise BadInput(
            f"The finished truth names {odd[0]!r}, which is not an object of the rules"
            f" {rules.name!r}.",
            hint=f"They call it {known!r}." if known else "Finished truth holds COCO's 80 names.",
            param="--annotations",
        )
    return truth


def _name(category: str, rules: Rules) -> str:
    if category not in rules.lexicon.names:
        raise BadInput(f"{category!r} is not an object of the rules {rules.name!r}.")
    return rules.lexicon.names[category]
