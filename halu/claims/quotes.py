"""Words and numbers that a text says are written in the picture."""

import re
from collections.abc import Iterator

_QUOTED = re.compile(
    r"\"([^\"\n]{1,80})\"|“([^”\n]{1,80})”|(?<!\w)'([^'\n]{2,80})'(?!\w)"
    r"|\b(?:says?|reads?|reading|saying|labell?ed|spelling)\s+(?:the\s+words?\s+)?"
    r"([A-Z0-9][A-Z0-9&'-]*(?:\s+[A-Z0-9][A-Z0-9&'-]*)*)(?![a-z])"
    r"|(?:\bnumber|#)\s*(\d+)|\b(\d{1,2}:\d{2})\b|[$€£]\s?(\d+(?:\.\d+)?)"
)


def quoted(text: str) -> Iterator[tuple[int, int]]:
    """The places of what is quoted, without the marks around it."""
    for match in _QUOTED.finditer(text):
        yield match.span(match.lastindex or 0)
