"""What an answer claims of its picture: objects, counts, colours, positions, quoted words, each
with its place in the text.

English only, by rules; text in another language makes no claims. Knows no model and no picture.
"""

from halu.claims.claim import ATTRIBUTES, Claim, Kind, Vocabulary
from halu.claims.reading import claims
from halu.claims.vocabulary import coco_names

__all__ = ["ATTRIBUTES", "Claim", "Kind", "Vocabulary", "claims", "coco_names"]
