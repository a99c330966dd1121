"""Models for commands: the engine is imported when a command needs it, and nothing is printed."""

import gc
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halu.vlm import VLM


def load_quietly(
    model: str, *, device: str | None = None, dtype: str | None = None, backend: str = "hf"
) -> "VLM":
    """`halu.load`, without transformers' own progress bars on the terminal."""
    return _load()(model, device=device, dtype=dtype, backend=backend)


def quiet() -> None:
    """Keeps transformers, which is not loaded yet, from drawing progress bars."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@cache
def _load() -> Callable[..., "VLM"]:
    """`halu.load`, ready to be called.

    What torch and transformers define stays until the process ends. Left alone, the garbage
    collector would go through it hundreds of times while it grows, which takes longer than to load
    a small model and to answer.
    """
    gc.disable()
    try:
        from halu.adapters.loading import without_progress_bars
        from halu.engine import load
    finally:
        gc.enable()
    without_progress_bars()
    return load
