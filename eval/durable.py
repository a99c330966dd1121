"""Files that neither a kill nor a full disk leaves in pieces, and that one process writes."""

import os
from pathlib import Path
from typing import IO, Any

from halu.errors import BadInput

_PARTIAL = ".partial"


def replace_text(path: Path, text: str) -> None:
    """Put a text in a file's place: the old one is there until the new one is whole."""
    partial = path.with_name(path.name + _PARTIAL)
    partial.write_text(text, "utf-8", newline="")
    os.replace(partial, path)


def cut_torn_line(path: Path) -> None:
    """Take away a last line that was not written to its end."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def lock(file: IO[Any], folder: Path) -> None:
    """Keep a second process out; freed when the file is closed, also by a kill.

    Raises:
        BadInput: if another process has it; the file is closed then.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise BadInput(f"Another process is writing to {folder}.", param="out") from error
