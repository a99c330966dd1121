"""What weights a model has, as a short fingerprint, without loading them.

A run that is continued, or an answer that is looked up, must know whether the weights are still the
same. The fingerprint covers the configuration, the chat template, and of every weight file its
size and both ends; a file of several gigabytes is not read whole.
"""

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from halu.models import builtin

_END = 1 << 20
_COUNTED = (".json", ".jinja", ".safetensors")


def fingerprint(name: str) -> str | None:
    """Start of SHA-256 over a model's files; None for what is not on this machine.

    Args:
        name: built-in name, folder, or hub id that has been downloaded before.
    """
    folder = builtin().get(name) or _folder(name)
    if folder is None:
        return None
    told = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _COUNTED and p.is_file()):
        size = path.stat().st_size
        told.update(f"{path.relative_to(folder)} {size} ".encode())
        with path.open("rb") as file:
            told.update(file.read(_END))
            if size > _END:
                file.seek(max(_END, size - _END))
                told.update(file.read(_END))
    return told.hexdigest()[:16]


def _folder(name: str) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1:
        return None
    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None
