"""Corrects a finished answer by what detectors say of it, and lists every change.

First its objects: those that are not there are taken out by rules (`halu.claims.editing`), or a
language model writes the answer again by a list of facts. Then, of what is left, numbers, colours
and places. Knows no strategy.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from halu.claims import ATTRIBUTES, Claim, claims
from halu.claims.editing import Place, without
from halu.claims.questions import answered, fact, question
from halu.claims.rewording import Edit, changed, reworded
from halu.detector import Detector, DetectorContext, find, stated
from halu.errors import Failed
from halu.types import Finding, Request

NO = "No."
GONE, RIGHT, STILL = "was taken out", "was set right", "is still said"
_BOX = re.compile(r"\s*\(?\[(?:\s*[01](?:\.\d+)?\s*,){3}\s*[01](?:\.\d+)?\s*\]\)?")
_YES = re.compile(r"\s*yes\b", re.IGNORECASE)

Corrected = tuple[str, tuple[Finding, ...]]
"""A text, and every change that was made to it."""


class Doubt(NamedTuple):
    """A claim that is wrong, who says so, and what is right, if that is known."""

    claim: Claim
    finding: Finding
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Corrector:
    """Corrects one answer.

    Attributes:
        request: what was answered.
        using: detectors that tell whatever they measure.
        threshold: least score of what is corrected.
        attributes: who is asked about numbers, colours and places.
        ask: answers a question about the pictures.
        rewrite: writes an answer again by facts; none: by rules.
    """

    request: Request
    using: Sequence[Detector]
    threshold: float
    attributes: Literal["none", "detectors", "model"]
    ask: Callable[[str], str]
    rewrite: Callable[[str, Sequence[str]], str] | None

    def __call__(self, text: str) -> Corrected:
        """The corrected text, and every change."""
        asked = DetectorContext(self.request).question
        wrong = self._objects(text, asked)
        if self.rewrite is not None:
            return self._rewritten(text, asked, wrong)
        cut, gone = _cut(text, wrong, asked) if wrong else (text, ())
        doubts = self._attributes(cut, asked)
        edits = _agreed(cut, doubts)
        made = [*dict.fromkeys(edit for edit in edits if edit is not None)]
        new = changed(cut, made)
        moved = [_moved_finding(one, made) for one in gone]
        pairs = zip(doubts, edits, strict=True)
        return new, (*moved, *(_reworded(cut, new, one, edit, made) for one, edit in pairs))

    def _objects(self, text: str, asked: str) -> dict[Place, Finding]:
        """What is said not to be there, in order of place."""
        named = _named(text, asked)
        worst: dict[Place, Finding] = {}
        for one in sorted(self._found(text), key=lambda one: one.score):
            if (one.start, one.stop) in named and one.evidence.get("kind") not in ATTRIBUTES:
                worst[one.start, one.stop] = one
        return dict(sorted(worst.items()))

    def _attributes(self, text: str, asked: str) -> list[Doubt]:
        """Wrong numbers, colours and places of a text; nothing is asked about a short answer, which
        says them in answer to such a question.
        """
        if self.attributes == "none":
            return []
        told = [one for one in claims(text) if one.kind in ATTRIBUTES]
        if self.attributes == "model":
            return [doubt for one in told if (doubt := self._asked(one))]
        worst: dict[Claim, Doubt] = {}
        for one in sorted(self._found(text), key=lambda one: one.score):
            if claim := _judged(one, told):
                value = one.evidence.get("instead")
                worst[claim] = Doubt(claim, one, str(value) if value else None)
        return sorted(worst.values(), key=lambda one: one.claim.start)

    def _asked(self, claim: Claim) -> Doubt | None:
        """What the model itself says of a claim, if that is something else."""
        asked = question(claim)
        reply = self.ask(asked).strip()
        value = answered(claim, reply)
        if value is None or value == claim.value:
            return None
        finding = Finding(
            start=claim.start,
            stop=claim.stop,
            score=1.0,
            reason=f"asked {asked!r}, the model says {reply!r}.",
            detector="model",
            evidence={"question": asked, "reply": reply, "kind": claim.kind},
        )
        return Doubt(claim, finding, value)

    def _found(self, text: str) -> list[Finding]:
        found = find(stated(text), self.request.images, self.using, DetectorContext(self.request))
        return [one for one in found if one.score >= self.threshold]

    def _rewritten(self, text: str, asked: str, wrong: Mapping[Place, Finding]) -> Corrected:
        """By facts. The new text is read again: what it goes on saying is said to be said still,
        and it is not taken if it drops an object that is there.
        """
        named = _named(text, asked)
        absent = {named[place] for place in wrong}
        doubts = [one for one in self._attributes(text, asked) if one.claim.subject not in absent]
        if not wrong and not doubts:
            return text, ()
        facts = [f"There is no {name} in the picture." for name in sorted(absent)]
        facts += [f"There is {name}." for name in sorted({*named.values()} - absent)]
        facts += [fact(one.claim, one.value) for one in doubts]
        assert self.rewrite is not None
        new = _BOX.sub("", self.rewrite(text, facts)).strip()
        if not new:
            raise Failed("The corrector wrote nothing.")
        there, said = {*_named(new, asked).values()}, {one.said for one in claims(new)}
        findings = [*wrong.values(), *(one.finding for one in doubts)]
        if lost := sorted({*named.values()} - absent - there):
            told = f"{STILL}, since the corrector dropped {lost[0]!r}, which is there"
            return text, tuple(_change(one, (one.start, one.stop), text, told) for one in findings)
        how = [STILL if named[place] in there else GONE for place in wrong]
        how += [STILL if one.claim.said in said else RIGHT for one in doubts]
        return new, tuple(
            _change(one, (0, len(new)), text, told) for one, told in zip(findings, how, strict=True)
        )


def _named(text: str, asked: str) -> dict[Place, str]:
    """The objects that a text names, by place; "Yes" names those of its question."""
    found = claims(text, asked)
    return {(one.start, one.stop): one.subject for one in found if one.kind == "object"}


def _cut(text: str, wrong: Mapping[Place, Finding], asked: str) -> Corrected:
    """By rules; of a text of which nothing would be left, nothing is taken, but that "Yes" becomes
    "No" if what was asked for is not there.
    """
    if _YES.match(text) and _named("Yes", asked):
        affirmed = {*_named("Yes", asked).values()}
        said = _named(text, asked)
        if affirmed & {said[place] for place in wrong}:
            how = f"is not there, and {text!r} became {NO!r}"
            return NO, tuple(_change(one, (0, len(NO)), text, how) for one in wrong.values())
    edited = without(text, wrong)
    if not edited.text:
        return text, ()
    return edited.text, tuple(
        _change(one, place, text, GONE)
        for one, place in zip(wrong.values(), edited.places, strict=True)
    )


def _judged(finding: Finding, told: Sequence[Claim]) -> Claim | None:
    """The claim that a finding is about; of several in the same words, the one of its subject."""
    where = (finding.start, finding.stop, finding.evidence.get("kind"))
    there = [one for one in told if (one.start, one.stop, one.kind) == where]
    subject = finding.evidence.get("subject")
    return next((one for one in there if one.subject == subject), there[0] if there else None)


def _agreed(text: str, doubts: Sequence[Doubt]) -> list[Edit | None]:
    """The change by each doubt; none where no other words are known, and of words that several
    claims share ("two dogs and cats") none unless all would change them alike.
    """
    edits = {one.claim: reworded(text, one.claim, one.value) for one in doubts if one.value}
    told = [one for one in claims(text) if one.kind in ATTRIBUTES]

    def stands(edit: Edit) -> bool:
        touched = [one for one in told if one.start < edit.stop and edit.start < one.stop]
        return all(edits.get(one) == edit for one in touched)

    found = [edits.get(one.claim) for one in doubts]
    return [edit if edit is not None and stands(edit) else None for edit in found]


def _reworded(text: str, new: str, one: Doubt, edit: Edit | None, edits: Sequence[Edit]) -> Finding:
    """A wrong number, colour or place as a change, at the words as they now stand."""
    if edit is None:
        place = _moved((one.claim.start, one.claim.stop), edits)
        return _change(one.finding, place, text, STILL)
    start = _moved((edit.start, edit.start), edits)[0]
    place = start, start + len(edit.words)
    return _change(one.finding, place, text, f"became {new[place[0] : place[1]]!r}")


def _moved(place: Place, edits: Sequence[Edit]) -> Place:
    """A place that no edit lies across, after the edits."""

    def at(point: int, after: bool) -> int:
        before = [e for e in edits if e.stop < point or (e.stop == point and after)]
        return point + sum(len(e.words) - (e.stop - e.start) for e in before)

    return at(place[0], False), at(place[1], True)


def _moved_finding(one: Finding, edits: Sequence[Edit]) -> Finding:
    start, stop = _moved((one.start, one.stop), edits)
    return one.model_copy(update={"start": start, "stop": stop})


def _change(one: Finding, place: Place, text: str, how: str) -> Finding:
    return Finding(
        start=place[0],
        stop=place[1],
        score=one.score,
        reason=f"{text[one.start : one.stop]!r} {how}: {one.reason}",
        detector="woodpecker",
        evidence={**one.evidence, "before": text, "by": one.detector},
    )
