"""Models for commands: loaded without transformers' own progress bars on the terminal."""

from halu.engine import VLM, load


def load_quietly(model: str, *, device: str | None = None, backend: str = "hf") -> VLM:
    """`halu.load`, with nothing printed."""
    from halu.adapters.loading import without_progress_bars

    without_progress_bars()
    return load(model, device=device, backend=backend)
