"""API keys: who calls. A file holds a name and the SHA-256 of each key, never a key.

Keys are 256 random bits, so that a fast hash is safe; comparison takes the same time whatever is
wrong.
"""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
LINE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]{0,63})\s+(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names by digest of their keys; a name may have several keys."""

    digests: tuple[tuple[bytes, str], ...]

    def owner(self, key: str) -> str | None:
        """Whose key this is, or none."""
        digest = _digest(key)
        found = None
        for known, name in self.digests:  # no early end
            if hmac.compare_digest(known, digest):
                found = name
        return found


def read_keys(file: Path) -> Keys:
    """The keys in a file.

    Raises:
        BadInput: a file that cannot be read, no key, or a line that is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadInput(
            f"Keys cannot be read from {str(file)!r}: {why}.", param="api_key_file"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        match = LINE.fullmatch(line)
        if match:
            found.append((bytes.fromhex(match["digest"]), match["name"]))
        elif line:
            raise BadInput(
                f"{str(file)!r}, line {number} is not NAME SHA256.",
                hint="Add keys with `halu serve --new-key NAME`.",
                param="api_key_file",
            )
    if not found:
        raise BadInput(f"{str(file)!r} has no keys.", param="api_key_file")
    return Keys(tuple(found))


def new_key(file: Path, name: str) -> str:
    """Makes a key, keeps its hash in the file (made if needed, for its owner's eyes) and returns
    it.

    Raises:
        BadInput: a name that cannot be one.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is not a name.", hint="Letters, digits, '.', '_' and '-'.")
    key = f"halu-{secrets.token_urlsafe(32)}"
    opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(opened, "ab+") as lines:
        lines.seek(0)
        torn = lines.read()[-1:] not in (b"", b"\n")  # somebody's editor left the end off
        lines.write(b"\n" * torn + f"{name} {_digest(key).hex()}\n".encode())
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
