"""What is written KEY=VALUE: on the command line, and where a name brings its parameters along."""

import json
import re
from collections.abc import Sequence
from typing import Any

from halu.errors import BadInput


def parameters(pairs: Sequence[str], hint: str = "For example -p alpha=1.5.") -> dict[str, Any]:
    """`["alpha=1.5", "layers=2,3", "mode=paper"]` as values; numbers, true/false, lists, else text.

    Args:
        pairs: as typed.
        hint: how a pair is written where these stand.

    Raises:
        BadInput: for anything that is not KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"{pair!r} is not KEY=VALUE.", hint=hint)
        found[key] = value(text)
    return found


def value(text: str) -> Any:
    """One value: JSON or JSON values with commas between (a list), else the text itself."""
    for form in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(form)
        except (ValueError, RecursionError):
            continue
    return text


def with_parameters(text: str) -> tuple[str, dict[str, Any]]:
    """`"vcd"` or `"vcd:alpha=0.5:beta=0.2"`; a colon that no KEY= follows belongs to a value.

    Raises:
        BadInput: for what follows the name and is not KEY=VALUE.
    """
    name, colon, rest = text.partition(":")
    pairs = re.split(r":(?=\w+=)", rest) if colon else ()
    return name, parameters(pairs, f"Write {name}:KEY=VALUE.")
