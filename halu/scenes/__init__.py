"""The built-in world: pictures of everyday objects with exact truth, deterministic by seed."""

from halu.scenes.drawing import draw
from halu.scenes.scene import NAMES, Print, Scene, Thing

__all__ = ["NAMES", "Print", "Scene", "Thing", "draw"]
