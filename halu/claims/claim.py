"""One claim of an answer."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["object", "count", "color", "position", "text"]
Vocabulary = Literal["coco", "open"]
ATTRIBUTES: frozenset[Kind] = frozenset({"count", "color", "position"})
"""Kinds of claims that say something of an object which another claim names."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that an answer says of its picture.

    Attributes:
        start: where the words that say it begin in the text.
        stop: where they end.
        kind: what is claimed.
        subject: the object's COCO name, or its noun in the singular; empty for quoted words.
        value: the number ("2"), the colour, the place ("left"), the quoted words; empty for an
            object.
        other: what the place is relative to, for "left of the cat".
        listed: whether the subject is one of COCO's 80 objects.
    """

    start: int
    stop: int
    kind: Kind
    subject: str
    value: str = ""
    other: str = ""
    listed: bool = True

    @property
    def said(self) -> str:
        """The claim in words: "2 × dog", "red car", "dog left"."""
        if self.kind == "count":
            return f"{self.value} × {self.subject}"
        if self.kind == "color":
            return f"{self.value} {self.subject}"
        if self.kind == "position":
            return (
                f"{self.subject} {self.value} of {self.other}"
                if self.other
                else (f"{self.subject} {self.value}")
            )
        return self.subject or self.value
