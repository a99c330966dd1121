"""The six published rules for reading a yes/no answer, pinned by tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from halu.eval.pope import score_answer
from halu.eval.yesno import COUNTS, RULES, outcome, rates, readable

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "eval"
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
]


@pytest.mark.parametrize(("text", "expected"), TABLE, ids=[repr(text) for text, _ in TABLE])
def test_readers_follow_their_sources(text: str, expected: str) -> None:
    said = [RULES[name].read(text, "no") or "-" for name in ORDER]
    assert dict(zip(ORDER, said, strict=True)) == dict(zip(ORDER, expected.split(), strict=True))


def test_vcd_has_the_label_in_hand() -> None:
    both = "yes, or no"
    assert RULES["vcd"].read(both, "yes") == "yes"
    assert RULES["vcd"].read(both, "no") == "no"
    assert RULES["vcd"].read("Unknown", "yes") == "no"
    assert RULES["vcd"].read("", "no") == "yes"


def test_vlmevalkit_removes_at_most_32_full_stops() -> None:
    assert RULES["vlmevalkit"].read("." * 32 + "yes", "yes") == "yes"
    assert RULES["vlmevalkit"].read("." * 33 + "yes", "yes") is None


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("Yes", True),
        ("NO!", True),
        ("It isn’t.", True),
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


def test_undefined_is_nan_and_never_a_crash() -> None:
    nothing = rates(np.zeros(len(COUNTS)), RULES["pope"])
    assert all(np.isnan(value) for value in nothing.values())
    always_no = rates(np.array([0, 0, 5, 5, 0, 0]), RULES["pope"])
    assert np.isnan(always_no["precision"])
    assert np.isnan(always_no["f1"])
    assert always_no["recall"] == 0
    assert always_no["accuracy"] == 0.5


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
