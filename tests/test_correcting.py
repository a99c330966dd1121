"""Numbers, colours and places: said otherwise, asked about, and corrected in a finished answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

import halu
from halu.claims import ATTRIBUTES, Claim, claims
from halu.claims.questions import answered, fact, question
from halu.claims.rewording import changed, reworded
from halu.correcting import Corrector
from halu.detector import Asked, Detector
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


class Doubts(Detector):
    """Knows that there is no cat, that dogs are three, cars blue, and everything on the right."""

    name = "doubts"
    kind = "picture"

    def judge(self, answer: Answer, images: Any, asked: Asked) -> Iterator[Finding]:
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
    own = {"attributes": "detectors", "ask": str, "rewrite": None, **changes}
    return Corrector(request, [Doubts()], 0.5, **own)


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
