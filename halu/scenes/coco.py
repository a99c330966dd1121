"""COCO's category ids, 1 to 90 with ten numbers never used."""

from __future__ import annotations

_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
# The 80 names in COCO's order.
_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
_IDS = dict(zip(_NAMES, (i for i in range(1, 91) if i not in _UNUSED), strict=True))


def category_id(name: str) -> int:
    """COCO's id of a name: "person" -> 1, "toothbrush" -> 90. KeyError for no COCO name."""
    return _IDS[name]
