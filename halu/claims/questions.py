"""What to ask about a claimed number, colour or place, and what a reply says of it."""

from halu.claims.claim import Claim
from halu.claims.reading import PLACES, RELATIONS
from halu.claims.rewording import PHRASES
from halu.claims.sentences import words
from halu.claims.vocabulary import COLORS, NUMBERS, plural

_BESIDE = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def question(claim: Claim) -> str:
    """One that a short answer answers."""
    if claim.kind == "count":
        return f"How many {plural(claim.subject)} are there in the image?"
    if claim.kind == "color":
        return f"What color is the {claim.subject}?"
    if claim.other:
        beside = _BESIDE.get(claim.value, "in the middle of")
        return f"Is the {claim.subject} {beside} the {claim.other}?"
    return f"Where is the {claim.subject}?"


def answered(claim: Claim, reply: str) -> str | None:
    """The value that a reply to the question gives; none if it gives none."""
    said = [word.text for word in words(reply)]
    if claim.kind == "count":
        numbers = [str(NUMBERS.get(one, one)) for one in said]
        return next((one for one in numbers if one.isdecimal()), None)
    if claim.kind == "color":
        return next((one for one in said if one in COLORS), None)
    if claim.other:
        return {"yes": claim.value, "no": _OPPOSITE.get(claim.value)}.get(said[0] if said else "")
    places = PLACES | RELATIONS
    return next((places[one] for one in said if one in places), None)


def fact(claim: Claim, value: str | None) -> str:
    """A claim that is wrong, set right with a value, or denied."""
    if value is None:
        return f"It is not so that the picture shows {claim.said}."
    if claim.kind == "count":
        return f"The number of {plural(claim.subject)} is {value}, not {claim.value}."
    if claim.kind == "color":
        return f"The {claim.subject} is {value}, not {claim.value}."
    if claim.other:
        return f"The {claim.subject} is {_BESIDE[value]} the {claim.other}."
    return f"The {claim.subject} is {PHRASES[value]}, not {PHRASES[claim.value]}."
