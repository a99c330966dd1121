"""CHAIR: reading captions, with places; the shipped rules; published figures where data is."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halu.errors import BadInput
from halu.eval.chair import COUNTS, rates, score_caption, score_captions
from halu.eval.chair_tables import nltk_rules, read_synonyms
from halu.eval.chair_truth import coco_truth
from halu.eval.lexicon import words_rules
from halu.eval.objects import Lexicon, Rules, read_caption
from halu.scenes import NAMES, draw
from halu.scenes.captions import describe
from halu.scenes.grammar import one, plural

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "eval" / "chair"

CAPTIONS = [
    ("A hot dog and two teddy bears.", "hot dog, teddy bear"),
    ("People sit on chairs; a teddy-bear lies there.", "person, chair, teddy bear"),
    ("Two men, three women and children", "person, person, person"),
    ("A pair of skis, a pair of scissors, knives and mice.", "skis, scissors, knife, mouse"),
    ("A potted plant by the wine glasses.", "potted plant, wine glass"),
    ("A baby elephant and an adult zebra.", "elephant, zebra"),
    ("An orange car and an orange.", "car, orange"),
    ("The bus stop near the train station.", ""),
    ("BUSES and Sandwiches, toothbrushes, couches.", "bus, sandwich, toothbrush, couch"),
    ("Glasses, a top hat and a light bulb.", ""),
    ("His bow tie, and a doggy.", "tie"),
    ("A dining table, not a table.", "dining table, dining table"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "names"), CAPTIONS)
def test_shipped_rules(text: str, names: str) -> None:
    mentions = read_caption(text, words_rules()).mentions
    assert ", ".join(mention.name for mention in mentions) == names


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_world_is_read_in_all_its_forms(name: str) -> None:
    for words in (one(name), f"Two {plural(name)}.", f"A {one(name, 'red')}"):
        found = [mention.name for mention in read_caption(words, words_rules()).mentions]
        assert found == [name], words


def test_honest_captions_of_the_world_have_no_hallucination() -> None:
    for seed in range(40):
        scene = draw(seed, "test", 112)
        score = score_caption(describe(scene, random.Random(seed)), scene.names, words_rules())
        assert score.value == 1
        assert score.counts["found"] >= score.counts["truth"] - 1


def test_mentions_carry_their_place_in_the_original_text() -> None:
    text = "İn front: a Hot Dog, “Wine Glasses”."
    places = [(text[m.start : m.stop], m.name) for m in read_caption(text, words_rules()).mentions]
    assert places == [("Hot Dog", "hot dog"), ("Wine Glasses", "wine glass")]


def test_counts_and_marks() -> None:
    score = score_caption("A dog, a cat, a dog and a chair.", {"dog", "bed"}, words_rules())
    assert score.counts == {
        "captions": 1,
        "captions_wrong": 1,
        "mentions": 4,
        "mentions_wrong": 2,
        "truth": 2,
        "found": 1,
        "pieces": 12,
    }
    assert score.value == 0.5
    assert score.parsed == ("dog", "cat", "chair")
    assert [(mark.name, mark.wrong) for mark in score.marks] == [
        ("dog", False),
        ("cat", True),
        ("dog", False),
        ("chair", True),
    ]


def test_published_steps_after_reducing() -> None:
    lexicon = Lexicon(
        {"toilet": "toilet", "seat": "chair", "tie": "tie"},
        {"bow tie": "tie", "toilet seat": "toilet", "home plate": "home plate"},
    )
    rules = Rules("test", lexicon, words_rules().split, lambda words: words)

    def names(text: str) -> list[str]:
        return [mention.name for mention in read_caption(text, rules).mentions]

    assert names("a bow tie on a seat") == ["tie", "chair"]
    assert names("the seat of the toilet, a seat") == ["toilet"]
    assert names("toilet seat") == ["toilet"]


def test_an_unknown_image_is_an_error_not_an_empty_picture() -> None:
    with pytest.raises(BadInput, match="7"):
        score_captions({7: "A dog."}, {8: ["dog"]}, words_rules())


def test_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"lacks synonyms\.txt"):
        nltk_rules(tmp_path)


def test_synonyms_are_not_stripped(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("motorcycle, scooter,  motor bike \n")
    assert set(read_synonyms(tmp_path / "synonyms.txt")) == {
        "motorcycle",
        "scooter",
        " motor bike",
    }


@pytest.fixture(scope="module")
def official() -> Rules:
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data/eval, whose tables and captions may not be redistributed")
    pytest.importorskip("nltk", reason="the rules 'chair-nltk' need the extra 'eval'")
    rules = nltk_rules(DATA)
    known: dict[tuple[str, ...], list[str]] = {}

    def remembered(words: list[str]) -> list[str]:
        if tuple(words) not in known:
            known[tuple(words)] = rules.reduce(words)
        return known[tuple(words)]

    return replace(rules, reduce=remembered)  # tagging takes most of the time


@pytest.mark.parametrize(
    "name",
    [
        "llava-v1.5-7b_coco_chair_long_ans",
        "llava-v1.5-7b_coco_chair_short_ans",
        "cca-llava-1.5-7b_coco_chair_short_ans",
    ],
)
def test_published_figures(official: Rules, name: str) -> None:
    captions = {line["image_id"]: line["caption"] for line in _lines(f"cca-llava/{name}.jsonl")}
    known = json.loads((DATA.parent / "expected.json").read_text())["chair"]
    for source in ("nltk", "pattern"):
        table = json.loads((DATA / "cca-llava" / f"gt_objects_{source}.json").read_text())
        truth = {int(image): names for image, names in table.items()}
        scores = score_captions(captions, truth, official).values()
        total = {key: sum(score.counts[key] for score in scores) for key in COUNTS}
        expected = known[f"cca-llava/{name}|nltk_words+{source}_gt"]
        assert total["mentions"] == expected["object_mentions"]
        assert total["mentions_wrong"] == expected["hallucinated_mentions"]
        assert total["captions_wrong"] == expected["hallucinated_captions"]
        assert total["truth"] == expected["gt_objects"]
        found = rates(np.array(list(total.values())))
        assert found["chair_s"] == expected["CHAIRs"]
        assert found["chair_i"] == expected["CHAIRi"]
        assert found["recall"] == expected["Recall"]
        assert found["length"] == pytest.approx(100 * expected["Len"])


def test_published_mentions_word_by_word(official: Rules) -> None:
    captions = {
        line["image_id"]: line["caption"]
        for line in _lines("cca-llava/llava-v1.5-7b_coco_chair_long_ans.jsonl")
    }
    for line in _lines("cca-llava/word_level_llava_long.nltk_words+nltk_gt.jsonl")[:150]:
        mentions = read_caption(captions[line["image_id"]], official).mentions
        assert [[m.word, m.name] for m in mentions] == line["mentions"]


def test_published_truth_from_annotation_files(official: Rules) -> None:
    folder = DATA / "coco80"
    truth = coco_truth(
        [folder / "instances_val2014.json"], [folder / "captions_val2014.json"], official
    )
    expected = json.loads((folder / "expected_gt_objects.json").read_text())
    assert {image: set(names["nltk"]) for image, names in expected.items()} == {
        str(image): set(names) for image, names in truth.items()
    }
    with pytest.raises(BadInput, match="COCO's layout"):
        coco_truth([folder / "expected_gt_objects.json"], [], official)


def _lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / path).read_text().splitlines()]
