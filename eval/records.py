"""Reading other people's JSON: lines, one array, or objects one after another, with line numbers.

Files of one and the same benchmark come in all three forms under the same ending, compressed or
not. Nothing is executed: pickles are refused by name and never loaded.
"""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halu.errors import BadInput

_PICKLES = {".pkl", ".pickle", ".p"}
_PICKLED, _GZIPPED = b"\x80", b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a file and where it begins, for messages."""

    fields: dict[str, Any]
    where: str

    def text(self, key: str) -> str:
        """Return a text or number field as text.

        Raises:
            BadInput: if it is missing or of another type.
        """
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadInput(f"{self.where}: {key!r} is missing or not a text.")
        return str(value)

    def first(self, *keys: str) -> str | None:
        """Return the first of these fields that there is, as text; None if there is none.

        Raises:
            BadInput: if it is of another type.
        """
        found = next((key for key in keys if self.fields.get(key) is not None), None)
        return None if found is None else self.text(found)


def unpacked(path: Path) -> bytes:
    """Read a file's contents, also of one that gzip compressed.

    Raises:
        BadInput: if it cannot be read or is a pickle.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() in _PICKLES or data.startswith(_PICKLED):
            raise BadInput(
                f"{path} is a pickle, and loading one runs what its author wrote.",
                hint="Give the JSON files that it was made from.",
            )
        return gzip.decompress(data) if data.startswith(_GZIPPED) else data
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise BadInput(f"{path} cannot be read: {told}.") from error


def read_text(path: Path) -> str:
    """Read a text file, also one that gzip compressed.

    Raises:
        BadInput: if it cannot be read, is not text, or is a pickle.
    """
    try:
        return unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error


def read_json(path: Path) -> Any:
    """Read a file that holds one JSON value.

    Raises:
        BadInput: naming the line, if it is malformed.
    """
    return _loaded(path, read_text(path))


def read_entries(path: Path) -> list[Entry]:
    """Read every object of a JSON or JSON-lines file.

    Raises:
        BadInput: naming the line in which what is malformed begins; nothing is half-read.
    """
    text = read_text(path).rstrip()  # what breaks off at the end is not noticed behind it
    if text.lstrip().startswith("["):
        items = enumerate(_loaded(path, text), 1)
        return [_entry(item, f"{path}, item {number}") for number, item in items]
    decoder, entries, place, line, counted = json.JSONDecoder(), [], 0, 1, 0
    while (place := _skip_blanks(text, place)) < len(text):
        line, counted = line + text.count("\n", counted, place), place
        try:
            found, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            seen = "" if error.lineno == line else f", noticed in line {error.lineno}"
            raise BadInput(f"{path}:{line}: not JSON: {error.msg}{seen}.") from error
        entries.append(_entry(found, f"{path}:{line}"))
    return entries


def _loaded(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg}.") from error


def _entry(found: object, where: str) -> Entry:
    if not isinstance(found, dict):
        raise BadInput(f"{where}: expected an object, not {type(found).__name__}.")
    return Entry(found, where)


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place
