"""halu: decoding that stops vision-language models from saying what is not in the picture.

    vlm = halu.load("tiny-llava")
    vlm.ask("photo.jpg", "Is there a dog in the image?", strategy="vcd").text

Importing this package is cheap; torch and transformers come with the first call that needs them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halu.catalogue import available
    from halu.detector import detect
    from halu.engine import load
    from halu.host import disable, enable
    from halu.vlm import VLM

__version__ = "0.1.0"

__all__ = ["VLM", "__version__", "available", "detect", "disable", "enable", "load"]

_HOMES = {
    "VLM": "halu.vlm",
    "load": "halu.engine",
    "enable": "halu.host",
    "disable": "halu.host",
    "available": "halu.catalogue",
    "detect": "halu.detector",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'halu' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
