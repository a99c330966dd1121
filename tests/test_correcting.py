"""Numbers, colours and places: said otherwise, asked about, and corrected in a finished answer."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from PIL import Image

import halu
from halu.claims import ATTRIBUTES, Claim, claims
from halu.claims.questions import answered, fact, question
from halu.claims.rewording import Edit, changed, reworded
from halu.correcting import Corrector
from halu.detector import Detector, DetectorContext
from halu.scenes import draw
from halu.types import Answer, Finding
from halu.vlm import asking

PROMPT = "Please describe this image in detail."


def claim(text: str) -> Claim:
    """Its only number, colour or place."""
    (one,) = [one for one in claims(text) if one.kind in ATTRIBUTES]
    return one


@pytest.mark.parametrize(
    ("text", "value", "wanted"),
    [
        ("There are two dogs.", "3", "There are three dogs."),
        ("There are 2 dogs.", "13", "There are 13 dogs."),
        ("Two dogs sleep.", "4", "Four dogs sleep."),
        ("There are two dogs.", "1", None),
        ("There is one dog.", "2", None),
        ("There is a red car.", "orange", "There is an orange car."),
        ("An orange car is here.", "blue", "A blue car is here."),
        ("The car is red.", "green", "The car is green."),
        ("A dog is on the left.", "right", "A dog is on the right."),
        ("A dog is on the left.", "middle", "A dog is in the middle."),
        ("A dog is in the middle of the image.", "left", "A dog is on the left of the image."),
        ("On the left, there is a dog.", "right", "On the right, there is a dog."),
        ("A dog is on the left side.", "right", "A dog is on the right side."),
        ("A dog is on the left side.", "middle", None),
        ("A dog is at the top.", "bottom", "A dog is at the bottom."),
        ("A dog is to the left of a cat.", "right", "A dog is to the right of a cat."),
        ("A dog is above a cat.", "bottom", "A dog is below a cat."),
        ("A dog is under a cat.", "top", "A dog is above a cat."),
    ],
)
def test_claims_are_said_otherwise(text: str, value: str, wanted: str | None) -> None:
    one = claim(text)
    edit = reworded(text, one, value)
    new = None if edit is None else changed(text, [edit])
    assert new == wanted
    if new is not None:
        assert claim(new).value == value
        assert (claim(new).subject, claim(new).other) == (one.subject, one.other)


@pytest.mark.parametrize(
    ("text", "asked", "reply", "value", "told"),
    [
        ("Two mice.", "How many mice are there in the image?", "There are three.", "3",
         "The number of mice is 3, not 2."),
        ("Two people.", "How many people are there in the image?", "4", "4",
         "The number of people is 4, not 2."),
        ("A red car.", "What color is the car?", "Blue", "blue", "The car is blue, not red."),
        ("A dog on the left.", "Where is the dog?", "In the middle.", "middle",
         "The dog is in the middle, not on the left."),
        ("A dog is above a cat.", "Is the dog above the cat?", "No", "bottom",
         "The dog is below the cat."),
        ("A dog is above a cat.", "Is the dog above the cat?", "Yes", "top",
         "The dog is above the cat."),
        ("A red car.", "What color is the car?", "I do not know.", None,
         "It is not so that the picture shows red car."),
        ("A red car.", "What color is the car?", "", None,
         "It is not so that the picture shows red car."),
    ],
)  # fmt: skip
def test_claims_become_questions_and_facts(
    text: str, asked: str, reply: str, value: str | None, told: str
) -> None:
    one = claim(text)
    assert question(one) == asked
    assert answered(one, reply) == value
    assert fact(one, value) == told


@pytest.mark.parametrize("second", [Edit(4, 7, "six"), Edit(4, 7, "six!"), Edit(6, 9, "x")])
def test_changes_that_overlap_are_refused(second: Edit) -> None:
    with pytest.raises(AssertionError):
        changed("The two dogs.", [Edit(4, 7, "six"), second])


class Doubts(Detector):
    """Knows that there is no cat, that dogs are three, cars blue, and everything on the right."""

    name = "doubts"
    kind = "picture"

    def judge(self, answer: Answer, images: Any, asked: DetectorContext) -> Iterator[Finding]:
        right = {"count": "3", "color": "blue", "position": "right"}
        for one in claims(answer.text, asked.question):
            wrong = one.subject == "cat" if one.kind == "object" else one.value != right[one.kind]
            yield Finding(
                start=one.start,
                stop=one.stop,
                score=float(wrong),
                reason="because.",
                detector=self.name,
                evidence={"kind": one.kind, "instead": right.get(one.kind)},
            )


def corrector(**changes: Any) -> Corrector:
    request = asking(Image.new("RGB", (40, 40)), PROMPT)
    own = {"using": [Doubts()], "attributes": "detectors", "ask": str, "rewrite": None, **changes}
    return Corrector(request, threshold=0.5, **own)


def test_rules_take_out_objects_and_replace_words() -> None:
    text = "A cat is here. There are two dogs and a red car. A bird is on the left."
    new, changes = corrector()(text)
    assert new == "There are three dogs and a blue car. A bird is on the right."
    assert [one.reason.split(":")[0] for one in changes] == [
        "'cat' was taken out",
        "'two' became 'three'",
        "'red' became 'blue'",
        "'on the left' became 'on the right'",
    ]
    said = [new[one.start : one.stop] for one in changes]
    assert said == ["", "three", "blue", "on the right"]
    assert {one.evidence["by"] for one in changes} == {"doubts"}


def test_what_cannot_be_said_otherwise_is_told_as_still_said() -> None:
    text = "There is one dog and a red car."
    new, changes = corrector()(text)
    assert new == "There is one dog and a blue car."
    assert "is still said" in changes[0].reason
    assert new[changes[0].start : changes[0].stop] == "one"


class Numbers(Detector):
    """Knows how many there are of each."""

    name = "numbers"
    kind = "picture"
    known: ClassVar[dict[str, str]] = {}
    names_subjects: ClassVar[bool] = True

    def judge(self, answer: Answer, images: Any, asked: DetectorContext) -> Iterator[Finding]:
        for one in claims(answer.text, asked.question):
            right = self.known.get(one.subject)
            if one.kind == "count" and right is not None:
                named = {"subject": one.subject} if self.names_subjects else {}
                yield Finding(
                    start=one.start,
                    stop=one.stop,
                    score=float(one.value != right),
                    reason=f"{right} {one.subject}.",
                    detector=self.name,
                    evidence={"kind": one.kind, "instead": right, **named},
                )


SHARED: list[tuple[dict[str, str], str, list[str]]] = [
    ({"dog": "3", "cat": "3"}, "three", [" became 'three': 3 dog.", " became 'three': 3 cat."]),
    ({"dog": "4", "cat": "5"}, "two", [" is still said: 4 dog.", " is still said: 5 cat."]),
    ({"dog": "4", "cat": "2"}, "two", [" is still said: 4 dog."]),
    ({"dog": "2", "cat": "4"}, "two", [" is still said: 4 cat."]),
    ({"dog": "4"}, "two", [" is still said: 4 dog."]),
]


@pytest.mark.parametrize(("known", "number", "reasons"), SHARED)
@pytest.mark.parametrize("by", ["detectors", "model"])
def test_words_of_several_subjects_change_if_all_agree(
    known: dict[str, str], number: str, reasons: list[str], by: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Numbers, "known", known)

    def ask(words: str) -> str:
        return next((n for name, n in known.items() if f"many {name}" in words), "I cannot tell.")

    own = corrector(attributes=by, ask=ask, using=[Numbers()])
    new, changes = own("There are two red dogs and cats.")
    assert new == f"There are {number} red dogs and cats."
    assert [new[one.start : one.stop] for one in changes] == [number] * len(reasons)
    told = [one.reason for one in changes]
    if by == "detectors":
        assert told == [f"'two'{reason}" for reason in reasons]
    else:
        assert [one.split(": ")[0] for one in told] == [f"'two'{r.split(':')[0]}" for r in reasons]


def test_a_finding_that_names_no_subject_changes_no_words_of_several(monkeypatch: Any) -> None:
    monkeypatch.setattr(Numbers, "known", {"dog": "3"})
    monkeypatch.setattr(Numbers, "names_subjects", False)
    own = corrector(using=[Numbers()])
    new, changes = own("Two dogs and cats and two dogs.")
    assert new == "Two dogs and cats and three dogs."
    how = [one.reason.split(":")[0] for one in changes]
    assert how == ["'Two' is still said", "'two' became 'three'"]


def test_colours_of_several_subjects_change_if_all_agree() -> None:
    def ask(words: str) -> str:
        return "Orange." if "color" in words else "I cannot tell."

    own = corrector(attributes="model", ask=ask, using=[])
    new, changes = own("There is a red dog and cat.")
    assert new == "There is an orange dog and cat."
    assert [new[one.start : one.stop] for one in changes] == ["an orange"] * 2


def test_detectors_name_the_subject_of_each_finding(scene: Image.Image) -> None:
    text = "There are nine red dogs and cats."
    for name in ("clip", "objects"):
        found = halu.detect(scene, text, {name: {"threshold": 0.0}})
        said = {(one.start, one.stop, one.evidence["kind"]) for one in found}
        assert said
        for one in found:
            told = [c for c in claims(text) if (c.start, c.stop) == (one.start, one.stop)]
            assert one.evidence["subject"] in {c.subject for c in told}
        if name == "clip":
            red = [one.evidence["subject"] for one in found if one.evidence["kind"] == "color"]
            assert sorted(red) == ["cat", "dog"]


def test_numbers_colours_and_places_may_be_left_alone() -> None:
    text = "There are two dogs and a red car."
    assert corrector(attributes="none")(text) == (text, ())


def test_the_model_may_be_asked() -> None:
    asked: list[str] = []

    def ask(words: str) -> str:
        asked.append(words)
        return {"What color is the car?": "It is green."}.get(words, "I cannot tell.")

    text = "There are two dogs and a red car."
    new, (change,) = corrector(attributes="model", ask=ask)(text)
    assert asked == ["How many dogs are there in the image?", "What color is the car?"]
    assert new == "There are two dogs and a green car."
    assert "asked 'What color is the car?', the model says 'It is green.'" in change.reason


def test_a_corrector_is_told_the_facts() -> None:
    told: list[str] = []

    def rewrite(text: str, facts: Any) -> str:
        told.extend(facts)
        return "There are three dogs and a red car."

    new, changes = corrector(rewrite=rewrite)("A cat, two dogs and a red car.")
    assert told == [
        "There is no cat in the picture.",
        "There is car.",
        "There is dog.",
        "The number of dogs is 3, not 2.",
        "The car is blue, not red.",
    ]
    assert new == "There are three dogs and a red car."
    how = [one.reason.split(":")[0] for one in changes]
    assert how == ["'cat' was taken out", "'two' was set right", "'red' is still said"]


def test_places_are_set_right_in_the_built_in_world() -> None:
    """Captions' own mistakes of place, before and after, against what the scenes show."""
    from halu.calibration.statements import truth

    vlm = halu.load("tiny-llava")
    wrong = {"greedy": 0, "woodpecker": 0}
    for seed in range(12):
        scene = draw(seed, "test", 224)
        known = truth(scene)
        for name in wrong:
            answer = vlm.ask(Image.fromarray(scene.image), PROMPT, strategy=name, max_new_tokens=80)
            told = [one for one in claims(answer.text) if one.kind == "position"]
            wrong[name] += sum(known(one) is True for one in told)
    assert wrong["woodpecker"] < wrong["greedy"]
