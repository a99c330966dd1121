"""open_clip models by name, from safetensors alone: what open_clip loads else are pickles."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError

from halu import models, torchvision_shim
from halu.errors import BadInput, Unavailable
from halu.grounding.checkpoint import why_not
from halu.hub import reach

torchvision_shim.apply()

import open_clip

SAFE = ".safetensors"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
"""What open_clip saves weights as; in a folder it prefers these to all others."""
FORMS = "Give a folder, a hub id, MODEL:TAG or MODEL:FILE."


def loaded(weights: str | None) -> tuple[Any, Any]:
    """A model and its tokenizer.

    Args:
        weights: a folder in open_clip's layout, a hub id, "MODEL:TAG" from open_clip's own list, or
            "MODEL:FILE"; none: the built-in tiny-clip.

    Raises:
        BadInput: a name of no such form, weights that are not safetensors, or a configuration that
            asks for code of its own.
        Unavailable: weights that are not here or cannot be loaded.
    """
    name, tag = _named(weights or str(Path(models.__file__).parent / "tiny-clip"))
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # about activations and tokenizers, not for users
            _check(name, tag)
            model, _, _ = open_clip.create_model_and_transforms(name, tag, require_pretrained=True)
            return model, open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
        hint = why_not(str(weights) if tag is None else "", error)
        raise Unavailable(f"CLIP weights {weights!r} cannot be loaded.", hint=hint) from error


def _named(weights: str) -> tuple[str, str | None]:
    """What open_clip calls the model, and the tag or file of its weights."""
    folder = Path(weights)
    if folder.is_dir():
        return f"local-dir:{folder}", None
    if ":" in weights:
        name, tag = weights.split(":", 1)
        return name, tag
    if weights.count("/") == 1 and not folder.is_absolute() and not folder.is_file():
        return f"hf-hub:{weights}", None
    raise BadInput(f"No open_clip checkpoint {weights!r}.", hint=FORMS)


def _check(name: str, tag: str | None) -> None:
    """Refuse what must not be loaded, before open_clip reads it."""
    kind, _, source = name.partition(":")
    if kind == "local-dir":
        _check_folder(Path(source))
    elif kind == "hf-hub":
        reach(source)
        _refuse_code(Path(hf_hub_download(source, CONFIG)))
        _fetch(source, WEIGHTS[0])
    else:
        _check_file(name, str(tag))


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise BadInput(f"Folder {str(folder)!r} has no {CONFIG}.")
    _refuse_code(folder / CONFIG)
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise _pickled(f"Folder {str(folder)!r} has no {WEIGHTS[0]}.")


def _check_file(name: str, tag: str) -> None:
    """A tag of open_clip's list, else a file; what is neither open_clip refuses itself."""
    listed = open_clip.get_pretrained_cfg(name.replace("/", "-"), tag)
    if not listed:
        if Path(tag).is_file() and Path(tag).suffix != SAFE:
            raise _pickled(f"File {tag!r} is not a {SAFE} file.")
        return
    repository, file = os.path.split(str(listed.get("hf_hub", "")))
    if not repository or Path(file).suffix not in ("", ".bin", ".pth", SAFE):
        raise _pickled(f"open_clip has no {SAFE} file of {name}:{tag}.")
    reach(repository)
    usual = file in ("", "open_clip_pytorch_model.bin")
    _fetch(repository, WEIGHTS[0] if usual else str(Path(file).with_suffix(SAFE)))


def _fetch(repository: str, file: str) -> None:
    """Fetch weights, which open_clip prefers to pickles where they are."""
    try:
        hf_hub_download(repository, file)
    except LocalEntryNotFoundError:  # there may be one, but not here
        raise
    except EntryNotFoundError as error:
        raise _pickled(f"Repository {repository!r} has no {file}.") from error


def _refuse_code(config: Path) -> None:
    """A checkpoint's configuration is passed on to its tokenizer, which must run no code of it."""
    if "trust_remote_code" in config.read_text("utf-8"):
        where = str(config.parent)
        raise BadInput(f"Folder {where!r} asks to run code of its own, which is never done.")


def _pickled(why: str) -> BadInput:
    hint = "Pickles can run code and are never loaded: convert the weights to safetensors."
    return BadInput(why, hint=hint)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip tells the root logger, which is in its exceptions as well."""
    root = logging.getLogger()

    def others(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)
