"""Reading other people's JSON: lines, one array, or objects one after another, with line numbers.

Files of one and the same benchmark come in all three forms under the same ending. Nothing is
executed: pickles are not read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halu.errors import BadInput


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


def read_entries(path: Path) -> list[Entry]:
    """Read every object of a JSON or JSON-lines file.

    Raises:
        BadInput: naming the line, if any of it is malformed; nothing is half-read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if text.lstrip().startswith("["):
        return _array(path, text)
    decoder, entries, place = json.JSONDecoder(), [], 0
    while (place := _skip_blanks(text, place)) < len(text):
        where = f"{path}:{text.count(chr(10), 0, place) + 1}"
        try:
            found, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg}.") from error
        entries.append(_entry(found, where))
    return entries


def _array(path: Path, text: str) -> list[Entry]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg}.") from error
    return [_entry(item, f"{path}, item {number}") for number, item in enumerate(found, 1)]


def _entry(found: object, where: str) -> Entry:
    if not isinstance(found, dict):
        raise BadInput(f"{where}: expected an object, not {type(found).__name__}.")
    return Entry(found, where)


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place
