"""What an answer claims, word by word; other languages claim nothing."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from halu.claims import claims, coco_names
from halu.eval.chair_tables import family_rules
from halu.eval.objects import read_caption

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
CHAIR = SHARED / "data" / "eval" / "chair" / "cca-llava"


def told(text: str, question: str = "", vocabulary: str = "coco") -> list[tuple[str, str, str]]:
    """Kind, claim, and the words that make it."""
    found = claims(text, question, vocabulary)
    return [(one.kind, one.said, text[one.start : one.stop]) for one in found]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A dog.", [("object", "dog", "dog")]),
        ("two big red cars", [("count", "2 × car", "two"), ("color", "red car", "red")]),
        ("3 pairs of skis", [("count", "3 × skis", "3"), ("object", "skis", "skis")]),
        ("The car is blue.", [("color", "blue car", "blue")]),
        ("An orange umbrella.", [("color", "orange umbrella", "orange")]),
        ("An orange.", [("object", "orange", "orange")]),
        ("a red and white bus", [("color", "red bus", "red"), ("color", "white bus", "white")]),
        ("A cat is on the left.", [("position", "cat left", "on the left")]),
        ("On the right side, there is a cat.", [("position", "cat right", "On the right")]),
        (
            "A cat to the left of a dog.",
            [("position", "cat left of dog", "to the left")],
        ),
        ("In the middle of the image is a bed.", [("position", "bed middle", "In the middle")]),
        ('A sign says "NO ENTRY".', [("text", "NO ENTRY", "NO ENTRY")]),
        ("A sign reads OPEN.", [("text", "OPEN", "OPEN")]),
        ("The player wears number 23.", [("text", "23", "23")]),
        ("A man in a hat.", [("object", "person", "man")]),
        ("A hot dog.", [("object", "hot dog", "hot dog")]),
        ("A baby elephant.", [("object", "elephant", "baby elephant")]),
    ],
)
def test_claims_of_one_sentence(text: str, wanted: list[tuple[str, str, str]]) -> None:
    found = told(text)
    assert [one for one in found if one in wanted] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "Yes.",
        "There is no dog.",
        "It is without a cat.",
        "The train station is empty.",
        "Ein Laptop liegt auf dem Tisch.",
        "Une pizza est sur la table.",
        "一只狗在沙发上。",
        "На столе лежит ноутбук.",
        "It is a sunny day.",
        "There are no dogs, cats, or birds.",
        "There are no dogs, cats and birds.",
        "I do not see a dog, a cat or a bird.",
        "It doesn't show a dog.",
        "The image does not contain any dogs or cats.",
        "You cannot see a dog.",
        "I can't see a dog.",
        "There are zero dogs.",
        "A dog is not in the picture.",
        "The dog is absent.",
        "The dog isn't visible here.",
        "A dog and a cat are missing from the scene.",
        "Dogs cannot be seen.",
        "There is no dog in the image, nor a cat.",
    ],
)
def test_no_claims(text: str) -> None:
    assert told(text) == []


def test_a_negation_reaches_no_further_than_its_object() -> None:
    assert told("There is no dog, and a cat sleeps.") == [("object", "cat", "cat")]
    assert told("Not a dog but a cat.") == [("object", "cat", "cat")]
    assert told("There is a dog and the cat is absent.") == [("object", "dog", "dog")]
    assert told("The dog is not on a bed.") == [("object", "dog", "dog")]
    assert told("The dog is missing a leg.") == [("object", "dog", "dog")]
    assert told("There are no dogs, but cats.") == [("object", "cat", "cats")]
    assert told("No dog, and there is a cat.") == [("object", "cat", "cat")]


def test_quoted_words_name_no_objects() -> None:
    assert told('A sign says "beware of the dog".') == [
        ("text", "beware of the dog", "beware of the dog")
    ]
    assert told("A cat by a sign that reads “DOG”.") == [
        ("object", "cat", "cat"),
        ("text", "DOG", "DOG"),
    ]


def test_a_short_answer_is_read_with_its_question() -> None:
    question = "Is there a red car in the image? Please answer yes or no."
    assert told("Yes", question) == [("color", "red car", "Yes"), ("object", "car", "Yes")]
    assert told("No", question) == []
    assert told("2", "How many dogs are there?") == [("count", "2 × dog", "2")]
    assert told("Three.", "How many dogs are there?") == [("count", "3 × dog", "Three")]
    assert told("Green", "What color is the car?") == [("color", "green car", "Green")]
    assert told("OPEN", "What word is written on the sign?") == [("text", "OPEN", "OPEN")]
    assert told("Yes", "Gibt es einen Laptop und ein Sofa?") == []


def test_open_vocabulary_adds_nouns_that_name_things() -> None:
    text = "A lantern and a wooden fence stand in the foreground of the scene."
    assert told(text) == []
    assert [said for _, said, _ in told(text, vocabulary="open")] == ["lantern", "fence"]
    assert all(not one.listed for one in claims(text, "", "open"))


def test_spans_hold_their_words_in_any_text() -> None:
    text = "\n\n Ünïcode “SALE” — a dog’s bowl; İ two cats… naïve\tteddy-bear."
    for one in claims(text, "", "open"):
        assert text[one.start : one.stop].strip()
    assert ("count", "2 × cat", "two") in told(text)
    assert ("object", "teddy bear", "teddy-bear") in told(text)


def test_ten_thousand_words_take_well_under_a_second() -> None:
    text = "A red dog is near two cars on the left side, and a lantern. " * 770
    start = time.perf_counter()
    found = claims(text, "", "open")
    assert time.perf_counter() - start < 3  # other work may share the core
    assert len(found) == 770 * 6


def test_the_list_has_cocos_names() -> None:
    assert len(coco_names()) == 80
    assert all(told(f"A {name}.") for name in coco_names())


REAL = [
    f"{model}_coco_chair_{length}_ans.jsonl"
    for model in ("llava-v1.5-7b", "cca-llava-1.5-7b")
    for length in ("long", "short")
]
needs_captions = pytest.mark.skipif(not CHAIR.is_dir(), reason="the captions are not here")


@needs_captions
def test_it_reads_real_captions_as_chair_does() -> None:
    """LLaVA-1.5's 500 long captions, against the original evaluator's word-level reading."""
    truth = CHAIR / "word_level_llava_long.nltk_words+nltk_gt.jsonl"
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    agreed(REAL[0], {row["image_id"]: [name for _, name in row["mentions"]] for row in rows})


@needs_captions
@pytest.mark.parametrize("name", REAL[1:])
def test_it_reads_other_real_captions_as_chair_does(name: str) -> None:
    """Against halu's evaluator under the published rules, which reads the first file word by word
    as the original does.
    """
    pytest.importorskip("nltk", reason="the rules 'chair-nltk' need the extra 'eval'")
    rules = family_rules("nltk", CHAIR.parent)
    read = {image: read_caption(text, rules).mentions for image, text in captions(name).items()}
    agreed(name, {image: [one.name for one in mentions] for image, mentions in read.items()})


def agreed(name: str, theirs: dict[int, list[str]]) -> None:
    """Holds the objects claimed in 500 captions against another reading of them."""
    both = mine_alone = theirs_alone = 0
    texts = captions(name)
    assert len(texts) == len(theirs) == 500
    for image, text in texts.items():
        found = claims(text)
        assert all(text[one.start : one.stop].strip() for one in found)
        own = Counter(one.subject for one in found if one.kind == "object")
        other = Counter(theirs[image])
        both += sum((own & other).values())
        mine_alone += sum((own - other).values())
        theirs_alone += sum((other - own).values())
    assert both / (both + mine_alone) > 0.95
    assert both / (both + theirs_alone) > 0.93


def captions(name: str) -> dict[int, str]:
    """The captions of one file, by picture."""
    rows = map(json.loads, (CHAIR / name).read_text().splitlines())
    return {row["image_id"]: row["caption"] for row in rows}


def test_colours_in_a_row_are_no_thing_and_end() -> None:
    for text, named in (
        ("A red orange car.", ["car"]),
        ("An orange orange.", ["orange"]),
        ("Oranges, red apples.", ["orange", "apple"]),
    ):
        assert [one.subject for one in claims(text) if one.kind == "object"] == named
    assert claims("red " * 5000) == ()
