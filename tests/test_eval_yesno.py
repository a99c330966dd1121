"""The six published rules for reading a yes/no answer, pinned by tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from halu.eval.benchmark import Sample
from halu.eval.pope import asked_object, score_answer
from halu.eval.pope_scenes import PopeScenes
from halu.eval.yesno import COUNTS, RULES, YesNo, outcome, rates, readable

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "eval"
BOTH: tuple[YesNo, ...] = ("yes", "no")
ORDER = ("pope", "opera", "vcd", "marine", "lmms", "vlmevalkit")

# design/style.md section 2 item 6 and design/eval.md section 1.2: what each rule makes of an answer
# to a question whose label is "no". A dash is "unreadable".
TABLE = [
    ("Yes, there is another dog.", "yes yes no yes - yes"),
    ("I can't tell.", "yes no yes yes - -"),
    ("Unknown", "yes yes no yes - -"),
    ("NO", "yes no no no no no"),
    ("", "yes yes yes - - -"),
    ("Yes", "yes yes yes yes yes yes"),
    ("No", "no no no no no no"),
    ("no", "no no no no no no"),
    ("No.", "no no no no - no"),
    (" Yes ", "yes yes yes yes yes yes"),
    ("No\nThere is a snowboard", "yes yes no no - no"),
    ("It isn't there", "yes no yes yes - -"),
    ("Yes. It is not red.", "yes no no yes - yes"),
    ("There is not", "no no no no - -"),
    ("A snowboard", "yes yes no yes - -"),
    ("yes and no", "no no no no - -"),
    ("no,thanks", "yes yes no yes - no"),
    ("No, thanks", "no no no no - no"),
]


NAMES = [" ".join(text.split()) or "nothing" for text, _ in TABLE]


@pytest.mark.parametrize(("text", "expected"), TABLE, ids=NAMES)
def test_readers_follow_their_sources(text: str, expected: str) -> None:
    said = [RULES[name].read(text, "no") or "-" for name in ORDER]
    assert dict(zip(ORDER, said, strict=True)) == dict(zip(ORDER, expected.split(), strict=True))


def test_vcd_has_the_label_in_hand() -> None:
    both = "yes, or no"
    assert RULES["vcd"].read(both, "yes") == "yes"
    assert RULES["vcd"].read(both, "no") == "no"
    assert RULES["vcd"].read("Unknown", "yes") == "no"
    assert RULES["vcd"].read("", "no") == "yes"


@pytest.mark.parametrize(
    "text", ["no/thanks / all", "no/thanks/ all", "no/thanks /all", "1,0 no/thanks"]
)
def test_vlmevalkit_lets_a_mark_vanish_that_is_next_to_a_blank_or_near_a_number(text: str) -> None:
    assert RULES["vlmevalkit"].read("no/thanks", "no") == "no"
    assert RULES["vlmevalkit"].read(text, "no") is None


def test_vlmevalkit_removes_at_most_32_full_stops() -> None:
    assert RULES["vlmevalkit"].read("." * 32 + "yes", "yes") == "yes"
    assert RULES["vlmevalkit"].read("." * 33 + "yes", "yes") is None


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("Yes", True),
        ("NO!", True),
        ("It isn’t.", True),
        ("It is not there.", True),
        ("I cannot see one.", True),
        ("Yes, no.", False),
        ("", False),
        ("Unknown", False),
        ("snowboard", False),
    ],
)
def test_readable_asks_what_a_person_finds(text: str, clear: bool) -> None:
    assert readable(text) is clear


def test_unreadable_has_no_value_but_counts_as_the_rule_says() -> None:
    score = score_answer("Unknown", "yes")
    assert (score.parsed, score.value, dict(score.counts)) == ("yes", None, {"tp": 1})
    score = score_answer("Unknown", "yes", "lmms")
    assert (score.parsed, score.value, dict(score.counts)) == ("neither", None, {"none_yes": 1})


@pytest.mark.parametrize(
    ("text", "label", "rule", "parsed", "value", "count"),
    [
        ("Yes.", "yes", "pope", "yes", 1.0, "tp"),
        ("Yes.", "no", "pope", "yes", 0.0, "fp"),
        ("No.", "no", "pope", "no", 1.0, "tn"),
        ("No.", "yes", "pope", "no", 0.0, "fn"),
        ("No, a snowboard", "yes", "vcd", "no", 0.0, "fn"),
        ("No, yes", "yes", "vcd", "yes", None, "tp"),  # this rule is told the label
        ("Yes.", "yes", "lmms", "neither", 0.0, "none_yes"),  # a person can read it, the rule not
        ("Yes.", "no", "lmms", "neither", 0.0, "none_no"),
    ],
)
def test_an_answer_has_a_value_where_a_person_can_read_it(
    text: str, label: YesNo, rule: str, parsed: str, value: float | None, count: str
) -> None:
    found = score_answer(text, label, rule)
    assert (found.parsed, found.value, dict(found.counts)) == (parsed, value, {count: 1})


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("Is there a dog in the image?", "dog"),
        ("Is there an Ice Cream in the imange? Please answer", "ice cream"),
        ("is there a  traffic light  in the image", "traffic light"),
        ("Are there two dogs in the image?", None),
    ],
)
def test_the_object_that_a_question_asks_about(question: str, asked: str | None) -> None:
    assert asked_object(question) == asked


def test_the_benchmark_scores_under_its_own_rule() -> None:
    """A "Yes." is a yes under POPE's rule, and neither yes nor no, but wrong, under lmms-eval's."""
    asked = [Sample(label, "random", None, "Is there a dog in the image?", label) for label in BOTH]
    told = {}
    for rule in ("pope", "lmms"):
        pope = PopeScenes("pope-scenes", "", True, rules=rule)
        scores = [pope.score(sample, "Yes.") for sample in asked]
        assert [dict(pope.score(sample, "no").counts) for sample in asked] == [{"fn": 1}, {"tn": 1}]
        total = pope.tally([score.counts for score in scores])
        told[rule] = (total, pope.rates(np.array(total)))
    assert told["pope"][0] == [1, 1, 0, 0, 0, 0]
    assert told["lmms"][0] == [0, 0, 0, 0, 1, 1]
    assert (told["pope"][1]["accuracy"], told["pope"][1]["yes_ratio"]) == (0.5, 1.0)
    assert (told["lmms"][1]["accuracy"], told["lmms"][1]["yes_ratio"]) == (0.0, 0.5)


def test_undefined_is_nan_and_never_a_crash() -> None:
    nothing = rates(np.zeros(len(COUNTS)), RULES["pope"])
    assert all(np.isnan(value) for value in nothing.values())
    always_no = rates(np.array([0, 0, 5, 5, 0, 0]), RULES["pope"])
    assert np.isnan(always_no["precision"])
    assert np.isnan(always_no["f1"])
    assert always_no["recall"] == 0
    assert always_no["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("rule", "accuracy", "recall", "yes_ratio"),
    [("pope", 0.7, 0.6, 0.4), ("lmms", 0.35, 0.6, 0.5), ("vlmevalkit", 0.35, 0.3, 0.2)],
)
def test_what_cannot_be_read_counts_as_the_rule_says(
    rule: str, accuracy: float, recall: float, yes_ratio: float
) -> None:
    """Ten answers that can be read, ten that cannot: dropped, wrong, or wrong and taken for no."""
    counts = {"tp": 3, "fp": 1, "tn": 4, "fn": 2, "none_yes": 5, "none_no": 5}
    found = rates(np.array([counts[name] for name in COUNTS]), RULES[rule])
    assert found["accuracy"] == pytest.approx(accuracy)
    assert found["precision"] == pytest.approx(0.75)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * 0.75 * recall / (0.75 + recall))
    assert found["yes_ratio"] == pytest.approx(yes_ratio)


def test_rates_keep_leading_axes() -> None:
    found = rates(np.ones((3, 4, len(COUNTS))), RULES["vlmevalkit"])
    assert {value.shape for value in found.values()} == {(3, 4)}


def test_official_figures_of_a_published_answer_file() -> None:
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data/eval, whose answers may not be redistributed")
    questions = _lines(DATA / "pope/coco/coco_pope_random.json")
    answers = {
        line["question_id"]: line["text"]
        for line in _lines(DATA / "pope/answers/clearsight_vaf_llava_coco_random.jsonl")
    }
    known = json.loads((DATA / "expected.json").read_text())["pope"]["clearsight-vaf/random"]
    names = {"pope": "pope_official", "lmms": "lmms_eval"}
    for name, rule in RULES.items():
        counts = dict.fromkeys(COUNTS, 0)
        for line in questions:
            said = rule.read(answers[line["question_id"]], line["label"])
            counts[outcome(said, line["label"])] += 1
        found = rates(np.array(list(counts.values())), rule)
        expected = {key.lower(): value for key, value in known[names.get(name, name)].items()}
        assert {"accuracy", "precision", "recall", "f1"} <= found.keys() & expected.keys()
        for metric in found.keys() & expected.keys():
            digits = 4 if name == "marine" else 15  # MARINE prints four digits
            assert round(float(found[metric]), digits) == pytest.approx(expected[metric], abs=1e-15)
        if name == "pope":
            assert [counts[key] for key in ("tp", "fp", "tn", "fn")] == [1309, 116, 1384, 191]


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
