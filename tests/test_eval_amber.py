"""AMBER: the verified figures, its quirks, what counts in a description, and faulty files."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halu.errors import BadInput
from halu.eval.amber import COUNTS, Amber, questions, read_truth, score_answer
from halu.eval.amber_words import Description, Objects, Words, read_words
from halu.eval.benchmark import benchmarks
from halu.eval.objects import Piece
from halu.eval.records import read_entries
from halu.eval.score import Given, score
from halu.eval.wordnet import noun_lemmatizer

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs ../shared/data/eval, whose tables may not be redistributed"
)
TITLES = {
    "discriminative": "Descriminative Task",
    "existence": "Exsitence",
    "attribute": "Attribute",
    "state": "State",
    "number": "Number",
    "action": "Action",
    "relation": "Relation",
}
RELATION = {
    "dog": ["puppy", "animal"],
    "cat": ["kitten", "animal"],
    "sky": [],
    "grass": ["ground"],
    "ground": ["floor"],
    "car": [],
}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog", "cat", "sky"], "hallu": ["car", "grass"]},
    {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 3, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 4, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 5, "type": "relation", "truth": "no"},
]
QUERIES = [{"id": n, "image": "AMBER_1.jpg", "query": f"Question {n}?"} for n in range(1, 6)]


@needs_shared
@pytest.mark.parametrize("part", TITLES)
def test_official_figures_of_the_verified_answers(part: str) -> None:
    known = json.loads((DATA / "expected.json").read_text())["amber_discriminative_synthetic"]
    truth = read_truth(DATA / "amber" / "annotations.json.gz")
    answers = read_entries(DATA / "amber" / "responses_discriminative_synthetic.json")
    responses = {entry.text("id"): entry.fields["response"] for entry in answers}
    benchmark = Amber()
    samples = [
        sample
        for sample in questions(truth.values(), truth, None)
        if part in ("discriminative", sample.split, sample.category)
    ]
    counts = benchmark.tally(benchmark.score(s, responses[s.id]).counts for s in samples)
    found = benchmark.rates(np.array(counts))
    for metric, figure in known[TITLES[part]].items():
        assert round(100 * float(found[metric.lower()]), 1) == figure


@needs_shared
def test_halu_score_gives_the_verified_figures() -> None:
    known = json.loads((DATA / "expected.json").read_text())["amber_discriminative_synthetic"]
    files = Given(
        DATA / "amber" / "responses_discriminative_synthetic.json", annotations=(DATA / "amber",)
    )
    scored = score("amber", files)
    assert scored.n == 14216
    for split in ("existence", "attribute", "relation"):
        metrics = scored.splits[split]["amber-exact"].metrics
        for metric, figure in known[TITLES[split]].items():
            assert round(100 * metrics[metric.lower()], 1) == figure
    pooled = scored.rules["amber-exact"].metrics
    assert round(100 * pooled["f1"], 1) == known[TITLES["discriminative"]]["F1"]
    assert math.isnan(pooled["chair"])


@pytest.mark.parametrize(
    ("text", "parsed", "right", "value"),
    [
        ("Yes", "yes", 1, 1),
        ("No", "no", 0, 0),
        ("Yes.", "neither", 0, 0),
        ("yes", "neither", 0, 0),
        (" Yes", "neither", 0, 0),
        ("Perhaps", "neither", 0, None),
    ],
)
def test_an_answer_is_yes_or_no_to_the_letter(
    text: str, parsed: str, right: int, value: float | None
) -> None:
    found = score_answer(text, "yes", on_existence=False)
    assert (found.parsed, found.counts["right"], found.value) == (parsed, right, value)


def test_denominators_start_at_a_thousandth_and_f1_is_made_of_rounded_figures() -> None:
    counts = dict.fromkeys(COUNTS, 0)
    counts |= {"questions": 3, "right": 2, "label_no": 3, "said_no": 2, "said_no_right": 2}
    found = Amber().rates(np.array([list(counts.values())]))
    assert found["accuracy"] == pytest.approx([2 / 3.001], abs=1e-12)
    assert found["precision"] == pytest.approx([2 / 2.001], abs=1e-12)  # 100.0 when rounded
    assert found["f1"] == pytest.approx([2 * 1 * 0.666 / (1.666 + 0.0001)], abs=1e-12)  # 66.6
    assert np.isnan(found["chair"])
    existence = Amber().rates(np.array(list((counts | {"on_existence": 3}).values())))
    assert float(existence["f1"]) == pytest.approx(2 * 1 * 0.666 / (1.666 + 0.001), abs=1e-12)


def counted(**own: int) -> list[int]:
    return list((dict.fromkeys(COUNTS, 0) | own).values())


def test_what_was_asked_but_never_named_is_zero_and_what_was_not_asked_is_undefined() -> None:
    told = counted(captions=4, captions_wrong=1)
    asked = counted(questions=2, label_no=0)
    found = Amber().rates(np.array([told, asked]))
    assert found["hal"].tolist() == pytest.approx([1 - 3 / 4.001, math.nan], nan_ok=True)
    for metric in ("chair", "cover", "cog"):
        assert found[metric].tolist() == pytest.approx([0, math.nan], nan_ok=True)
    for metric in ("accuracy", "precision", "recall", "f1"):
        assert found[metric].tolist() == pytest.approx([math.nan, 0], nan_ok=True)


def test_counts_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Amber().rates(np.ones(len(COUNTS) + 1))


def words(associates: dict[str, list[str]] = RELATION, safe: str = "light") -> Words:
    def nouns(text: str) -> list[Piece]:
        place, found = 0, []
        for word in text.split():
            found.append(Piece(word, place, place + len(word)))
            place += len(word) + 1
        return found

    table = {word: tuple(row) for word, row in associates.items()}
    known = frozenset(table).union(*table.values(), {safe})
    return Words(table, known, frozenset({safe}), nouns)


def test_objects_of_a_description() -> None:
    there = Description(Objects(("dog", "cat", "sky"), ("car", "grass")), words())
    found = there.score("puppy car ground light spoon floor")
    assert [(m.name, m.wrong) for m in found.marks] == [
        ("puppy", False),
        ("car", True),
        ("ground", True),
        ("light", False),
        ("floor", True),
    ]
    assert found.marks[1].start == 6
    assert found.counts == {
        "captions": 1,
        "captions_wrong": 1,
        "mentions": 5,
        "mentions_wrong": 3,
        "truth": 3,
        "covered": 1,
        "lures": 2,
        "lured": 2,
    }
    assert found.value == 0.4
    assert there.score("").value is None
    assert there.score("Nothing.").value == 1


def test_an_associate_credits_the_first_object_that_has_it() -> None:
    there = Description(Objects(("grass", "ground", "dog", "cat"), ()), words())
    assert there.score("ground").counts["covered"] == 1  # grass, not the ground
    assert there.score("ground grass").counts["covered"] == 1
    assert there.score("animal puppy").counts["covered"] == 1  # both the dog
    assert there.score("floor animal kitten").counts["covered"] == 3


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "wordnet.zip", "w") as archive:
        names = ("dog", "man", "glass", "glasses", "box", "story", "leaf", "mouse", "sky")
        lines = "".join(f"{name} n 1 0 1 0 00000001  \n" for name in names)
        archive.writestr("wordnet/index.noun", f"  1 A licence of dogs\n{lines}")
        archive.writestr("wordnet/noun.exc", "mice mouse\noxen ox\n")
    return tmp_path / "wordnet.zip"


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("dogs", "dog"),
        ("Dogs", "Dogs"),
        ("men", "man"),
        ("glasses", "glass"),
        ("boxes", "box"),
        ("stories", "story"),
        ("leaves", "leaf"),
        ("mice", "mouse"),
        ("oxen", "oxen"),
        ("1", "1"),
    ],
)
def test_lemmas_of_nouns(wordnet: Path, word: str, lemma: str) -> None:
    assert noun_lemmatizer(wordnet)(word) == lemma


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "query").mkdir()
    (tmp_path / "image").mkdir()
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "query" / "query_all.json").write_text(json.dumps(QUERIES, indent=4))
    (tmp_path / "relation.json").write_text(json.dumps(RELATION))
    (tmp_path / "safe_words.txt").write_text("light\nrange")
    Image.new("RGB", (8, 8)).save(tmp_path / "image" / "AMBER_1.jpg")
    return tmp_path


def test_questions_of_the_official_files(folder: Path) -> None:
    samples = benchmarks.get("amber").samples(
        folder, None, 0, ["existence", "attribute", "relation"]
    )
    assert [(s.id, s.split, s.category, s.label) for s in samples] == [
        ("4", "existence", None, "no"),
        ("2", "attribute", "state", "yes"),
        ("3", "attribute", "number", "no"),
        ("5", "relation", None, "no"),
    ]
    assert samples[0].image == "AMBER_1.jpg"
    assert samples[0].prompt == "Question 4? Please answer this question with one word."
    assert benchmarks.get("amber").picture("AMBER_1.jpg", folder).size == (8, 8)
    few = benchmarks.get("amber").samples(folder, 1, 0, ["attribute", "relation"])
    assert [s.id for s in few] == ["2", "5"]


def test_a_description_is_joined_with_its_annotated_words(tmp_path: Path) -> None:
    asked, told = tmp_path / "asked.json", tmp_path / "told.json"
    asked.write_text(json.dumps([{"id": 1, "image": "AMBER_1.jpg"}]))
    told.write_text(json.dumps([{"id": 1, "type": "generative", "truth": ["dog"], "hallu": []}]))
    (sample,) = questions(read_entries(asked), read_truth(told), words())
    assert (sample.image, sample.prompt, sample.label) == ("AMBER_1.jpg", "", ("dog",))
    told.write_text(told.read_text().replace("dog", "unicorn"))
    with pytest.raises(BadInput, match=r"told\.json.*item 1: 'unicorn' is not in relation\.json"):
        questions(read_entries(asked), read_truth(told), words())


def test_a_missing_folder_is_asked_for_by_the_benchmarks_name() -> None:
    for ask in (lambda: Amber().samples(None, None, 0, None), lambda: Amber().picture("a", None)):
        with pytest.raises(BadInput, match="Benchmark 'amber' needs a data folder") as caught:
            ask()
        assert "annotations.json" in str(caught.value.hint)


@needs_shared
def test_descriptions_are_read_with_nltk_from_a_folder(folder: Path, wordnet: Path) -> None:
    archives = DATA / "chair" / "nltk_data"
    for name in ("punkt_tab_english.zip", "averaged_perceptron_tagger_eng.zip"):
        (folder / name).write_bytes((archives / name).read_bytes())
    (sample,) = benchmarks.get("amber").samples(folder, None, 0, ["generative"])
    assert sample.label == ("dog", "cat", "sky")
    assert (sample.image, sample.prompt) == ("AMBER_1.jpg", "Question 1?")
    found = benchmarks.get("amber").score(sample, "Two dogs run. A car is near the dogs.")
    assert [mark.name for mark in found.marks] == ["dog", "car", "dog"]
    assert [mark.start for mark in found.marks] == [4, 16, 32]
    answers = folder / "answers.json"
    answers.write_text(json.dumps([{"id": 1, "response": "The sky. A car."}]))
    scored = score("amber", Given(answers, annotations=(folder,)))
    metrics = scored.rules["amber-exact"].metrics
    assert metrics["chair"] == pytest.approx(1 / 2.001)
    assert metrics["cover"] == pytest.approx(1 / 3.001)
    assert metrics["cog"] == pytest.approx(1 / 2.001)
    assert math.isnan(metrics["accuracy"])
    assert "without word vectors" in scored.warnings[0]
    assert read_words(folder, folder).safe == {"light", "range"}


def _changed(name: str, content: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(content))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no annotations": (lambda f: (f / "annotations.json").unlink(), "no annotations.json or"),
    "ids clash": (_changed("annotations.json", ANNOTATIONS * 2), "item 6: id 1 occurs twice"),
    "odd type": (
        _changed("annotations.json", [ANNOTATIONS[0] | {"type": "x"}]),
        "item 1: type 'x' is not one of AMBER's",
    ),
    "odd truth": (
        _changed("annotations.json", [*ANNOTATIONS[:4], ANNOTATIONS[4] | {"truth": "maybe"}]),
        "item 5: truth 'maybe' is neither",
    ),
    "unknown id": (
        _changed("query/query_all.json", [QUERIES[0] | {"id": 99}]),
        "item 1: id 99 is not in the annotations",
    ),
    "asked twice": (_changed("query/query_all.json", QUERIES * 2), "item 7: id 2 occurs twice"),
    "torn": (
        lambda f: (f / "annotations.json").write_text('[{"id": 1,\n"type"'),
        "annotations.json:2: not JSON",
    ),
    "picture gone": (
        lambda f: (f / "image" / "AMBER_1.jpg").unlink(),
        r"1 of 1 pictures are missing .*AMBER_1\.jpg",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_gets_one_clear_line(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        benchmarks.get("amber").samples(folder, None, 0, ["attribute", "existence", "relation"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([{"id": 9, "response": "Yes"}], "item 1: id 9 is not in the annotations"),
        ([{"id": 4, "response": "No"}] * 2, "item 2: id 4 occurs twice"),
        ([{"id": 2, "response": "Yes"}], "1 of 2 questions have no answer, such as 3"),
        ([{"response": "Yes"}], "item 1: the answer has no id"),
        ([{"id": 4}], "item 1: no answer"),
        ([{"id": 1, "response": "A dog."}], "no punkt_tab_english.zip or punkt_tab.zip in"),
    ],
)
def test_a_faulty_answer_file(folder: Path, answers: list[object], message: str) -> None:
    path = folder / "answers.json"
    path.write_text(json.dumps(answers))
    with pytest.raises(BadInput, match=message):
        score("amber", Given(path, annotations=(folder / "annotations.json",)))
    with pytest.raises(BadInput, match="--annotations with AMBER"):
        score("amber", Given(path))


def _by_lists(named: list[str], shown: Objects, safe: str) -> dict[str, int]:
    """Count as the definition reads, with lists: associates first, then the words themselves."""
    known = {*RELATION, *(word for row in RELATION.values() for word in row), safe}

    def owners(words: tuple[str, ...]) -> list[tuple[str, int]]:
        rows = [(other, at) for at, word in enumerate(words) for other in RELATION[word]]
        return rows + [(word, at) for at, word in enumerate(words)]

    covered, lured, wrong = set(), set(), 0
    kept = [name for name in named if name in known]
    for name in kept:
        there = [at for word, at in owners(shown.truth) if word == name]
        lures = [at for word, at in owners(shown.lures) if word == name]
        if name != safe and there:
            covered.add(there[0])
        elif name != safe:
            lured |= set(lures[:1])
            wrong += 1
    return {
        "captions": 1,
        "captions_wrong": int(wrong > 0),
        "mentions": len(kept),
        "mentions_wrong": wrong,
        "truth": len(shown.truth),
        "covered": len(covered),
        "lures": len(shown.lures),
        "lured": len(lured),
    }


_OBJECTS = st.lists(st.sampled_from(sorted(RELATION)), max_size=4).map(tuple)
_NAMED = st.lists(
    st.sampled_from([*RELATION, "puppy", "kitten", "animal", "floor", "light", "spoon"]), max_size=8
)


@given(_OBJECTS, _OBJECTS, _NAMED)
def test_descriptions_are_counted_as_defined(
    truth: tuple[str, ...], lures: tuple[str, ...], named: list[str]
) -> None:
    shown = Objects(truth, lures)
    found = Description(shown, words()).score(" ".join(named))
    assert found.counts == _by_lists(named, shown, "light")
