"""What belongs together: the themes of the built-in world, their objects, words and colours.

Weights are relative within a theme. Knows nothing of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]

# Orange is left out: CHAIR reads "an orange car" as an orange.
COLORS: dict[str, RGB] = {
    "red": (216, 36, 40),
    "yellow": (250, 206, 30),
    "green": (36, 158, 60),
    "blue": (38, 92, 220),
    "purple": (128, 46, 172),
    "pink": (246, 132, 190),
}
# Always recoloured, so that a question on their colour has one answer.
TINTED = frozenset(
    {
        "car", "bus", "motorcycle", "umbrella", "backpack", "handbag", "suitcase", "bottle", "cup",
        "chair", "couch", "book", "vase", "toothbrush",
    }
)  # fmt: skip
REAL_WORDS = (
    "OPEN", "SALE", "EXIT", "CAFE", "ZOO", "BANK", "HELLO", "SLOW", "SHOP", "FRESH", "HOTEL",
    "MUSIC", "NEWS", "ENTER", "QUIET", "LUCKY",
)  # fmt: skip
NONSENSE_WORDS = (
    "BLIF", "ZORP", "QUAM", "TREV", "NULP", "GRUSK", "VOMP", "DRAX", "FEEB", "KLON", "SPAZU",
    "WIBE", "JORT", "MIPLO", "HUDRA", "YENK",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Theme:
    """A kind of place. `phrase` ends a sentence ("... on a street"); colours are sky and ground."""

    name: str
    phrase: str
    weights: dict[str, float]
    above: RGB
    below: RGB


def _weights(text: str) -> dict[str, float]:
    """Make {"person": 5.0, "car": 6.0} of "person 5, car 6"."""
    pairs = (entry.strip().rpartition(" ") for entry in text.split(","))
    return {name: float(weight) for name, _, weight in pairs}


THEMES: tuple[Theme, ...] = (
    Theme("street", "on a street", _weights(
        "person 5, car 6, bus 3.5, truck 3.5, bicycle 3, motorcycle 3.5, traffic light 4.5, "
        "stop sign 5, umbrella 2, handbag 1.5, dog 1"), (150, 180, 215), (125, 125, 130)),
    Theme("station", "at a railway station", _weights(
        "person 5, train 7, suitcase 4, backpack 3.5, handbag 3, clock 3, cell phone 2, "
        "umbrella 2, tie 2, book 1"), (190, 190, 185), (120, 110, 105)),
    Theme("airport", "at an airport", _weights(
        "airplane 7, person 4, suitcase 4, truck 2, bus 2, backpack 3, handbag 2, tie 3, "
        "cell phone 2, laptop 1"), (140, 190, 235), (165, 170, 170)),
    Theme("meal", "during a meal", _weights(
        "fork 4, spoon 4, knife 3.5, bowl 3.5, wine glass 5, cup 4, pizza 5, sandwich 4, "
        "cake 4, hot dog 3, person 3, bottle 3, donut 2"), (205, 170, 135), (165, 115, 75)),
    Theme("kitchen", "in a kitchen", _weights(
        "bowl 4, knife 4, spoon 4, fork 3, bottle 3, cup 3, apple 4, banana 4, orange 4, "
        "carrot 4, broccoli 5, potted plant 1.5, donut 3, clock 1, cat 1"),
        (225, 220, 200), (185, 195, 200)),
    Theme("farm", "on a farm", _weights(
        "cow 6, sheep 6, horse 6, person 3, dog 3, bird 3, cat 1.5, truck 2, apple 2, "
        "carrot 1.5"), (160, 205, 235), (120, 165, 80)),
    Theme("savanna", "on the savanna", _weights(
        "elephant 6, giraffe 6, zebra 6, bird 3, person 2, bear 2, backpack 1, horse 1, truck 1"),
        (235, 200, 140), (190, 160, 85)),
    Theme("living room", "in a living room", _weights(
        "couch 6, tv 5, chair 4, potted plant 4, book 3, vase 4, cat 3, dog 2.5, person 3, "
        "clock 2, teddy bear 1.5, laptop 1, cup 1"), (215, 190, 175), (150, 105, 80)),
    Theme("office", "in an office", _weights(
        "laptop 5, keyboard 6, mouse 6, chair 3.5, cup 3, cell phone 3.5, book 3, tie 4, "
        "person 3.5, clock 2, scissors 3, potted plant 1.5, bottle 1"),
        (205, 215, 225), (140, 145, 155)),
    Theme("bedroom", "in a bedroom", _weights(
        "bed 8, teddy bear 5, book 3, clock 3, cell phone 2, cat 2, chair 2, person 2, tv 2, "
        "laptop 1.5, vase 1"), (190, 180, 215), (145, 120, 150)),
    Theme("bathroom", "in a bathroom", _weights(
        "toilet 7, toothbrush 6, bottle 4, scissors 3, cup 2.5, vase 2, potted plant 2, cat 1, "
        "person 1"), (195, 225, 230), (160, 190, 205)),
    Theme("park", "in a park", _weights(
        "sports ball 5, kite 3.5, skateboard 6, tennis racket 6, person 5, dog 4, bicycle 4, "
        "bird 3, backpack 1.5, hot dog 2, bottle 1, sandwich 1"), (150, 205, 240), (110, 175, 90)),
    Theme("beach", "on a beach", _weights(
        "boat 7, umbrella 4, kite 4.5, person 4, bird 3, dog 2, sports ball 3, chair 2, "
        "bottle 1.5, book 1, banana 1"), (110, 195, 235), (235, 215, 160)),
    Theme("snow", "in the snow", _weights(
        "skis 9, person 5, bear 5, dog 2.5, backpack 3, cup 1.5, bird 1.5, train 1, "
        "cell phone 1, bicycle 0.5"), (170, 200, 225), (228, 233, 240)),
)  # fmt: skip
