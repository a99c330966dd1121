"""CHAIR: reading captions, with places; the shipped rules; published figures where data is."""

import json
import random
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halu.errors import BadInput, Unknown
from halu.eval.benchmark import benchmarks
from halu.eval.chair import COUNTS, rates, score_caption
from halu.eval.chair_tables import family_rules, read_synonyms
from halu.eval.chair_truth import coco_truth
from halu.eval.lexicon import words_rules
from halu.eval.objects import Lexicon, Rules, read_caption
from halu.eval.own_rows import Chosen
from halu.eval.plan import Plan, Source
from halu.eval.played import played
from halu.eval.run import run
from halu.eval.score import Given, score
from halu.eval.store import ROWS, read_manifest, read_rows
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
        "named": 3,
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


def test_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"lacks synonyms\.txt"):
        family_rules("nltk", tmp_path)


def test_synonyms_are_not_stripped(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("motorcycle, scooter,  motor bike \n")
    assert set(read_synonyms(tmp_path / "synonyms.txt")) == {
        "motorcycle",
        "scooter",
        " motor bike",
    }


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Word tables in the published formats, with a few words of our own."""
    folder = tmp_path / "tables"
    (folder / "nltk_data").mkdir(parents=True)
    (folder / "synonyms.txt").write_text("dog, puppy\ncat\nchair, seat\nbus\ntie\n")
    tables = {
        "double_words.json": {"toilet seat": "toilet"},
        "lemma_table_wordnet.json": {
            "tied": {"n": "tied", "v": "tie", "a": "tied", "r": "tied"},
            "puppies": dict.fromkeys("nvar", "puppy"),
        },
        "singular_table_pattern.json": {"puppies": "puppy", "bus": "bu", "chairs": "chair"},
    }
    for name, table in tables.items():
        (folder / name).write_text(json.dumps(table))
    with zipfile.ZipFile(folder / "nltk_data" / "punkt_tab_english.zip", "w") as punkt:
        for part in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab"):
            punkt.writestr(f"punkt_tab/english/{part}", "")
        punkt.writestr("punkt_tab/english/sent_starters.txt", "")
    name = "averaged_perceptron_tagger_eng"
    with zipfile.ZipFile(folder / "nltk_data" / f"{name}.zip", "w") as tagger:
        parts = {"weights": {}, "tagdict": {"tied": "VBN"}, "classes": ["NN", "VBN"]}
        for part, value in parts.items():
            tagger.writestr(f"{name}/{name}.{part}.json", json.dumps(value))
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Four pictures: a dog and a cat, a chair, nothing, a bus that only people mention."""
    folder = tmp_path / "coco"
    (folder / "val2014").mkdir(parents=True)
    images = [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (1, 2, 3, 4)]
    for image in images:
        Image.new("RGB", (8, 8)).save(folder / "val2014" / str(image["file_name"]))
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 62, "name": "chair"}]
    of = [(1, 17), (1, 18), (1, 18), (2, 62)]
    annotations = [{"image_id": image, "category_id": category} for image, category in of]
    (folder / "instances_val2014.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    said = [(1, "A dog."), (2, "A chair."), (3, "The sky."), (4, "A bus.")]
    captions = [{"image_id": image, "caption": text} for image, text in said]
    (folder / "captions_val2014.json").write_text(
        json.dumps({"images": images, "annotations": captions})
    )
    return folder


CAPTION_FILES = [
    [{"image_id": 1, "caption": "Puppies, tied. A bus"}, {"image_id": 4, "caption": "A bus."}],
    [
        {"image_id": "COCO_val2014_000000000001.jpg", "text": "Puppies, tied. A bus"},
        {"image_id": "000000000004.jpg", "text": "A bus."},
    ],
    [
        {"question_id": 10, "text": "Puppies, tied. A bus", "prompt": "Describe."},
        {"question_id": 11, "text": "A bus.", "prompt": "Describe."},
    ],
]


@pytest.mark.parametrize("entries", CAPTION_FILES)
def test_rule_sets_and_forms_of_caption_files(
    tables: Path, coco: Path, tmp_path: Path, entries: list[dict[str, object]]
) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    asked = [{"question_id": 10, "image": "COCO_val2014_000000000001.jpg"}]
    asked.append({"question_id": 11, "image": "COCO_val2014_000000000004.jpg"})
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    path = tmp_path / "captions.json"
    questions = tmp_path / "asked.jsonl" if "question_id" in entries[0] else None
    for text in (json.dumps(entries), "\n".join(json.dumps(e, indent=2) for e in entries)):
        path.write_text(text)
        found = score("chair", Given(path, questions, (coco,), tables), "all").rules
        # tied -> tie is nobody's; "bus" is never an object of the pattern rules
        assert found["chair-nltk"].counts["mentions"] == 4
        assert found["chair-nltk"].counts["mentions_wrong"] == 2
        assert found["chair-pattern"].counts["mentions"] == 1
        assert found["chair-pattern"].metrics["chair_i"] == 0
        assert found["chair-opera"].counts["mentions"] == 4
        assert found["chair-opera"].counts["mentions_wrong"] == 3
    whole = score("chair", Given(path, questions, (coco,), tables), "chair-nltk:whole-sentences")
    assert whole.rules["chair-nltk:whole-sentences"].counts["mentions"] == 3
    with pytest.raises(Unknown, match="whole-sentences"):
        score("chair", Given(path, questions, (coco,), tables), "chair-nltk:whole-sentence")


def test_the_value_of_a_caption_without_objects_and_of_one_without_words() -> None:
    assert score_caption("It is sunny.", {"dog"}, words_rules()).value == 1
    for silent in ("", " ...", "12!"):
        assert score_caption(silent, {"dog"}, words_rules()).value is None


def test_marks_carry_the_word_that_was_looked_up() -> None:
    marks = score_caption("Two dogs and a kitten.", {"dog"}, words_rules()).marks
    assert [(mark.name, mark.word) for mark in marks] == [("dog", "dog"), ("cat", "kitten")]


def test_counts_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        rates(np.ones(len(COUNTS) + 1))


def test_precision_counts_distinct_objects() -> None:
    counts = score_caption("A cat, a cat, a cat and a dog.", {"dog"}, words_rules()).counts
    found = rates(np.array([counts[name] for name in COUNTS]))
    assert found["chair_i"] == 0.75
    assert found["precision"] == 0.5


def captions(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text("\n".join(map(json.dumps, entries)))
    return path


def test_halu_words_need_no_tables(coco: Path, tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"image_id": 3, "caption": "A dog and a bus."})
    found = score("chair", Given(path, None, (coco,)), "chair-words").rules["chair-words"]
    assert found.metrics["chair_i"] == 1
    with pytest.raises(BadInput, match=r"no synonyms\.txt \(the 80 objects .*--tables"):
        score("chair", Given(path, None, (coco,)))


FAULTS = {
    "unknown image": ([{"image_id": 5, "caption": "A"}], "1 of 1 images .* such as 5"),
    "no image": ([{"question_id": 1, "text": "A"}], "c.jsonl:1: the caption names no image"),
    "odd image": ([{"image_id": "kitchen", "caption": "A"}], "c.jsonl:1: 'kitchen' is not the id"),
    "clash": (
        [{"image_id": 1, "caption": "A"}, {"image_id": "000000000001.jpg", "caption": "B"}],
        "c.jsonl:2: image 1 has a caption already",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_captions_that_do_not_fit_are_named(coco: Path, tmp_path: Path, fault: str) -> None:
    entries, message = FAULTS[fault]
    path = captions(tmp_path / "c.jsonl", *entries)
    with pytest.raises(BadInput, match=message):
        score("chair", Given(path, None, (coco,)), "chair-words")


def test_truth_of_one_half_alone_is_refused(coco: Path, tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"image_id": 1, "caption": "A dog."})
    with pytest.raises(BadInput, match="1 of 1 images have no captions annotations"):
        score("chair", Given(path, None, (coco / "instances_val2014.json",)), "chair-words")
    with pytest.raises(BadInput, match="CHAIR needs the truth"):
        score("chair", Given(path), "chair-words")
    (tmp_path / "chair.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match=r"chair\.pkl is a pickle"):
        score("chair", Given(path, None, (tmp_path / "chair.pkl",)), "chair-words")


def test_image_ids_that_are_texts_are_the_same_images(coco: Path, tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"image_id": 1, "caption": "A dog and a cat."})
    for file in coco.glob("*_val2014.json"):
        table = json.loads(file.read_text())
        for entry in [*table["annotations"], *table["images"]]:
            entry |= {key: str(entry[key]) for key in ("id", "image_id") if key in entry}
        file.write_text(json.dumps(table))
    found = score("chair", Given(path, None, (coco,)), "chair-words").rules["chair-words"]
    assert found.metrics["chair_i"] == 0
    assert found.counts["truth"] == 2


def test_finished_truth_names_what_the_rules_name(tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"image_id": 1, "caption": "A puppy on a sofa."})
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"1": ["dog", "couch"]}))
    found = score("chair", Given(path, None, (truth,)), "chair-words")
    assert found.rules["chair-words"].metrics["chair_i"] == 0
    truth.write_text(json.dumps({"1": ["puppy", "couch"]}))
    with pytest.raises(BadInput, match=r"'puppy', which is not an object .* call it 'dog'"):
        score("chair", Given(path, None, (truth,)), "chair-words")
    truth.write_text(json.dumps({"1": ["dragon"]}))
    with pytest.raises(BadInput, match=r"'dragon', which is not an object .* COCO's 80 names"):
        score("chair", Given(path, None, (truth,)), "chair-words")


def test_a_question_file_says_which_captions_are_missing(coco: Path, tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"question_id": 7, "text": "A dog."})
    asked = captions(
        tmp_path / "q.jsonl", {"question_id": 7, "image": "1"}, {"question_id": 8, "image": "2"}
    )
    with pytest.raises(BadInput, match="1 of 2 questions have no answer, such as 2"):
        score("chair", Given(path, asked, (coco,)), "chair-words")
    found = score("chair", Given(path, asked, (coco,), partial=True), "chair-words")
    assert found.rules["chair-words"].metrics["recall"] == 0.5


def test_the_benchmark_reads_a_folder(tables: Path, coco: Path) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    chair = benchmarks.get("chair")
    with pytest.raises(BadInput, match=r"no synonyms\.txt in"):
        chair.samples(coco, None, 0, None)
    tables.rename(coco / "tables")
    samples = chair.samples(coco, None, 0, None)
    assert sorted(sample.label for sample in samples) == [(), ("bus",), ("cat", "dog"), ("chair",)]
    assert chair.samples(coco, 2, 0, None) == samples[:2]
    assert samples[0].prompt == "Please describe this image in detail."
    assert chair.picture(samples[0].image or "", coco).size == (8, 8)
    bus = next(sample for sample in samples if sample.label == ("bus",))
    assert chair.score(bus, "A puppy on a bus.").value == 0.5
    (coco / "image_ids.txt").write_text("4\nCOCO_val2014_000000000002.jpg\n")
    assert [sample.id for sample in chair.samples(coco, None, 0, None)] == ["4", "2"]
    (coco / "image_ids.txt").write_text("9\n")
    with pytest.raises(BadInput, match="such as 9"):
        chair.samples(coco, None, 0, None)
    with pytest.raises(BadInput, match="needs a data folder"):
        chair.samples(None, None, 0, None)


def test_a_run_on_a_folder_is_read_by_the_rules_that_it_names(tables: Path, coco: Path) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    tables.rename(coco / "tables")
    out = coco.parent / "run"
    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("chair",),
        data=coco,
        rules="chair-words",
        batch_size=4,
    )
    run(plan, played(lambda request: "A truck on a road."), out, keep_going=True)
    assert read_manifest(out).benchmarks[0].rules == "chair-words"
    assert {row.parsed for row in read_rows(out)} == {("truck",)}
    given = Given(out / ROWS, None, (coco,), coco / "tables", rows=Chosen("chair"))
    again = score("chair", given, "chair-nltk,chair-words")
    assert again.rules["chair-words"].counts["mentions_wrong"] == 4
    assert again.rules["chair-nltk"].counts["mentions"] == 0  # no truck in these tables


def test_damaged_tables_are_named(tables: Path) -> None:
    (tables / "nltk_data" / "punkt_tab_english.zip").write_bytes(b"PK")
    with pytest.raises(BadInput, match="not the archive it should be"):
        family_rules("pattern", tables)
    (tables / "singular_table_pattern.json").unlink()
    with pytest.raises(BadInput, match=r"lacks singular_table_pattern\.json: word to its singular"):
        family_rules("pattern", tables)


needs_shared = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="needs ../shared/data/eval, whose tables and captions may not be redistributed",
)
SETS = [
    f"{model}_coco_chair_{length}_ans"
    for model in ("llava-v1.5-7b", "cca-llava-1.5-7b")
    for length in ("long", "short")
]


@needs_shared
@pytest.mark.parametrize("name", SETS)
def test_published_figures(name: str) -> None:
    pytest.importorskip("nltk", reason="the rules 'chair-nltk' need the extra 'eval'")
    known = json.loads((DATA.parent / "expected.json").read_text())["chair"]
    folder = DATA / "cca-llava"
    for rule, source, truth in (
        ("chair-nltk", "nltk", folder / "coco-format-nltk-gt"),
        ("chair-nltk", "nltk", folder / "gt_objects_nltk.json"),
        ("chair-opera", "pattern", folder / "gt_objects_pattern.json"),
    ):
        found = score("chair", Given(folder / f"{name}.jsonl", None, (truth,)), rule).rules[rule]
        expected = known[f"cca-llava/{name}|nltk_words+{source}_gt"]
        assert found.n == expected["n"]
        assert found.counts["mentions"] == expected["object_mentions"]
        assert found.counts["mentions_wrong"] == expected["hallucinated_mentions"]
        assert found.counts["captions_wrong"] == expected["hallucinated_captions"]
        assert found.counts["truth"] == expected["gt_objects"]
        assert found.metrics["chair_s"] == expected["CHAIRs"]
        assert found.metrics["chair_i"] == expected["CHAIRi"]
        assert found.metrics["recall"] == expected["Recall"]
        assert found.metrics["length"] == pytest.approx(100 * expected["Len"])


@needs_shared
def test_published_mentions_word_by_word() -> None:
    pytest.importorskip("nltk", reason="the rules 'chair-nltk' need the extra 'eval'")
    official = family_rules("nltk", DATA)
    captions = {
        line["image_id"]: line["caption"]
        for line in _lines("cca-llava/llava-v1.5-7b_coco_chair_long_ans.jsonl")
    }
    for line in _lines("cca-llava/word_level_llava_long.nltk_words+nltk_gt.jsonl"):
        mentions = read_caption(str(captions[line["image_id"]]), official).mentions
        assert [[m.word, m.name] for m in mentions] == line["mentions"]


@needs_shared
@pytest.mark.parametrize("family", ["nltk", "pattern"])
def test_published_truth_from_annotation_files(family: str) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    official, folder = family_rules(family, DATA), DATA / "coco80"
    truth = coco_truth(
        [folder / "instances_val2014.json"], [folder / "captions_val2014.json"], official
    )
    expected = json.loads((folder / "expected_gt_objects.json").read_text())
    assert {image: set(names[family]) for image, names in expected.items()} == {
        str(image): set(names) for image, names in truth.items()
    }
    with pytest.raises(BadInput, match="COCO's layout"):
        coco_truth([folder / "expected_gt_objects.json"], [], official)


@needs_shared
def test_the_original_evaluators_own_example(tmp_path: Path) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    official = json.loads((DATA / "example" / "official_outputs.json").read_text())
    truth = {str(s["image_id"]): s["mscoco_gt_words"] for s in official["sentences"]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    given = Given(DATA / "example" / "inputs.jsonl", None, (tmp_path / "truth.json",), DATA)
    found = score("chair", given, "chair-pattern").rules["chair-pattern"]
    assert found.metrics["chair_s"] == official["overall_metrics"]["CHAIRs"]
    assert found.metrics["chair_i"] == official["overall_metrics"]["CHAIRi"]
    assert found.metrics["recall"] == official["overall_metrics"]["Recall"]
    rules = family_rules("pattern", DATA)
    for sentence in official["sentences"]:
        mentions = read_caption(sentence["caption"], rules).mentions
        assert [mention.name for mention in mentions] == sentence["mscoco_generated_words"]


@needs_shared
@pytest.mark.slow
@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody counts lines, which takes time")
def test_a_thousand_captions_in_twelve_seconds(tmp_path: Path) -> None:
    pytest.importorskip("nltk", reason="the published rules need the extra 'eval'")
    lines = _lines("cca-llava/llava-v1.5-7b_coco_chair_long_ans.jsonl")
    names = json.loads((DATA / "cca-llava" / "gt_objects_nltk.json").read_text())
    truth, entries = {}, []
    for turn in range(2):
        for line in lines:
            image = int(str(line["image_id"])) * 2 + turn
            truth[str(image)] = names[str(line["image_id"])]
            entries.append({"image_id": image, "caption": f"{turn}. {line['caption']}"})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    path = captions(tmp_path / "c.jsonl", *entries)
    started = time.process_time()
    found = score("chair", Given(path, None, (tmp_path / "truth.json",), DATA), "all")
    assert time.process_time() - started < 12
    assert found.n == 1000


def _lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / path).read_text().splitlines()]
