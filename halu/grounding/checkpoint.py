"""Models of other makers, through transformers: whole, from safetensors, or refused in a line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from halu.errors import BadInput, Unavailable
from halu.grounding.squares import place
from halu.hub import reach


def opened(kind: Any, source: str, name: str) -> Any:
    """A model in evaluation mode, where grounding models run.

    Args:
        kind: a model class of transformers.
        source: a folder or hub id.
        name: what the weights are called in messages.

    Raises:
        Unavailable: if they cannot be loaded.
        BadInput: if they lack parts of the model, as a captioning BLIP lacks the matching head.
    """
    with named(source, name):
        model, found = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise BadInput(f"The weights of {source!r} are incomplete.", hint=f"Missing: {missing} ...")
    return model.to(place()).eval()


@contextmanager
def named(source: str, name: str) -> Iterator[None]:
    """Turn what transformers raises while it loads into one line."""
    try:
        reach(source)
        yield
    except (OSError, ValueError, RuntimeError) as error:
        hint = why_not(source, error)
        raise Unavailable(f"{name} weights {source!r} cannot be loaded.", hint=hint) from error


def why_not(source: str, error: Exception) -> str:
    """What to do where a folder or hub id could not be loaded: one line."""
    path_like = source.startswith(("/", ".", "~"))
    if path_like and not Path(source).exists():
        return "There is no such folder."
    if source.count("/") == 1 and not path_like and not Path(source).is_dir():
        return f"They are not here: 'hf download {source}' fetches them, or name a folder instead."
    first = re.split(r"\n|: |(?<=\.) ", str(error).strip())[0]
    return f"{first.removesuffix('.')}."
