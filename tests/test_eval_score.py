"""Answer files of other projects: what is read, how it is joined, what is refused."""

import gzip
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from halu.errors import BadInput, Unknown
from halu.eval.fitting import needed
from halu.eval.score import Given, score
from halu.eval.score_table import tables

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(),
    reason="needs ../shared/data/eval, which may not be redistributed",
)
OBJECTS = ("dog", "cat", "car", "umbrella")


def question(number: int, image: str, name: str, label: str) -> dict[str, Any]:
    article = "an" if name[0] in "aeiou" else "a"
    return {
        "question_id": number,
        "image": image,
        "text": f"Is there {article} {name} in the image?",
        "label": label,
    }


QUESTIONS = [
    question(
        number, f"{'ab'[number > 4]}.jpg", OBJECTS[(number - 1) % 4], ("no", "yes")[number % 2]
    )
    for number in range(1, 9)
]


def lines(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return lines(tmp_path / "coco_pope_random.json", QUESTIONS)


def answers(path: Path, texts: list[str], **more: Any) -> Path:
    """LLaVA's form."""
    entries = [
        {"question_id": asked["question_id"], "prompt": asked["text"] + "\nOne word.", "text": text}
        for asked, text in zip(QUESTIONS, texts, strict=True)
    ]
    return lines(path, [entry | more for entry in entries])


RIGHT = [entry["label"].capitalize() for entry in QUESTIONS]


def test_contract_of_the_document(asked: Path, tmp_path: Path) -> None:
    given = Given(answers(tmp_path / "a.jsonl", ["Unknown", *RIGHT[1:]]), asked)
    document = score("pope", given).document()
    assert document["benchmark"] == "pope"
    assert (document["n"], document["unreadable"]) == (8, 1)
    figures = document["rules"]["pope"]
    assert figures["metrics"]["accuracy"] == 1  # POPE takes what it cannot read for a yes
    assert figures["metrics"]["repope_f1"] is None
    assert {key: figures["counts"][key] for key in ("tp", "fp", "tn", "fn")} == {
        "tp": 4,
        "fp": 0,
        "tn": 4,
        "fn": 0,
    }
    assert json.loads(json.dumps(document)) == document


def test_rules_side_by_side_disagree_about_capitals_and_snowboards(
    asked: Path, tmp_path: Path
) -> None:
    texts = ["Yes", "NO", "Yes", "A snowboard.", "Yes", "no", "Yes, no", "No."]
    found = score("pope", Given(answers(tmp_path / "a.jsonl", texts), asked), "all")
    assert list(found.rules) == ["pope", "opera", "vcd", "marine", "lmms", "vlmevalkit"]
    assert found.rules["pope"].counts["fp"] == 2  # NO and the snowboard
    assert found.rules["opera"].counts["fp"] == 1
    assert found.rules["vcd"].metrics["accuracy"] == 1  # a snowboard holds a no
    assert found.rules["lmms"].counts["none_no"] == 2
    assert any("differently" in warning for warning in found.warnings)
    two = score("pope", Given(answers(tmp_path / "a.jsonl", texts), asked), "vcd,opera")
    assert list(two.rules) == ["vcd", "opera"]
    mixed = score("pope", Given(answers(tmp_path / "a.jsonl", texts), asked), "vcd,all")
    assert list(mixed.rules) == ["vcd", "pope", "opera", "marine", "lmms", "vlmevalkit"]
    for wrong in ("vlmeval", "vcd,mine", "pope:whole-sentences", "all:mine", "all,mine", ""):
        with pytest.raises(Unknown):
            score("pope", Given(tmp_path / "a.jsonl", asked), wrong)


def test_unreadable_is_what_a_person_cannot_read_under_every_rule(
    asked: Path, tmp_path: Path
) -> None:
    texts = ["Yes.", "No.", "Yes.", "Perhaps", "", *RIGHT[5:]]
    found = score("pope", Given(answers(tmp_path / "a.jsonl", texts), asked), "all")
    assert found.unreadable == 2
    assert {figures.unreadable for figures in found.rules.values()} == {2}
    counts = {rule: f.counts["none_yes"] + f.counts["none_no"] for rule, f in found.rules.items()}
    assert counts == {"pope": 0, "opera": 0, "vcd": 0, "marine": 1, "lmms": 5, "vlmevalkit": 2}


def test_annotations_that_are_of_no_use_are_refused(
    halu: Any, asked: Path, two_splits: Path, tmp_path: Path
) -> None:
    path = answers(tmp_path / "a.jsonl", RIGHT)
    readme, empty = tmp_path / "README.md", tmp_path / "empty"
    readme.write_text("# Labels\n")
    empty.mkdir()
    (tmp_path / "truth.pkl").write_bytes(b"\x80\x04.")
    lines(tmp_path / "coco_repope_random.json", QUESTIONS[:6])
    popular = lines(tmp_path / "coco_repope_popular.json", QUESTIONS)
    other = [question(n, "z.jpg", "bus", "no") for n in range(1, 4)]
    strange = lines(empty.parent / "gqa_repope_random.json", other)
    cases = {
        tmp_path / "none.json": "none.json cannot be read: there is nothing there",
        tmp_path / "truth.pkl": "is a pickle",
        readme: "README.md:1: not JSON",
        empty: "No label files of POPE",
        popular: "labels no question that was answered (coco/random)",
        strange: "labels no question that was answered",
    }
    for wrong, message in cases.items():
        code, out, err = halu("score", "pope", path, "--questions", asked, "--annotations", wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    with pytest.raises(BadInput, match="labels no question that was answered"):
        score("pope", Given(path, two_splits, (popular,)))
    fine = tmp_path / "coco_repope_random.json"
    found = score("pope", Given(path, asked, (fine,)))
    assert found.rules["pope"].metrics["repope_accuracy"] == 1
    assert found.rules["pope"].counts["re_tp"] == 3


def test_a_narrow_terminal_gets_every_column_whole(two_splits: Path, tmp_path: Path) -> None:
    kinds = {"random": "Yes", "popular": "No"}
    said = [a | {"category": list(kinds)[n >= 8]} for n, a in enumerate(pooled(two_splits, kinds))]
    found = score("pope", Given(lines(tmp_path / "a.jsonl", said), two_splits), "all")
    (wide,) = tables(found, None)
    names = [str(column.header) for column in wide.columns]
    assert names[:3] == ["split", "rule", "n"]
    assert not any("repope" in name for name in names)
    parts = tables(found, 60)
    assert len(parts) > 1
    assert all(needed(part) <= 60 for part in parts)
    console = Console(width=60, file=io.StringIO(), record=True)
    for part in parts:
        console.print(part)
        assert [str(column.header) for column in part.columns[:2]] == ["split", "rule"]
    text = console.export_text()
    assert "…" not in text
    assert all(name in text for name in (*names, "coco/random", "vlmevalkit", "50.0"))
    assert "all " in text  # both splits together


def test_answers_are_joined_by_id_and_not_by_order(asked: Path, tmp_path: Path) -> None:
    path = answers(tmp_path / "a.jsonl", RIGHT)
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert score("pope", Given(path, asked)).rules["pope"].metrics["accuracy"] == 1


def test_a_missing_answer_is_refused_unless_asked_for(asked: Path, tmp_path: Path) -> None:
    path = answers(tmp_path / "a.jsonl", RIGHT)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(BadInput, match=r"1 of 8 questions have no answer.*--allow-partial"):
        score("pope", Given(path, asked))
    found = score("pope", Given(path, asked, partial=True))
    assert found.n == 7
    assert found.rules["pope"].metrics["accuracy"] == 1
    assert found.warnings == ("1 questions have no answer.",)


def test_files_without_ids_go_by_order_if_everything_agrees(asked: Path, tmp_path: Path) -> None:
    pope = [
        {"question": q["text"].lower(), "answer": a} for q, a in zip(QUESTIONS, RIGHT, strict=True)
    ]
    path = lines(tmp_path / "a.json", pope)
    assert score("pope", Given(path, asked)).rules["pope"].metrics["f1"] == 1
    lines(path, [pope[1], pope[0], *pope[2:]])
    with pytest.raises(BadInput, match=r"a\.json:1: answers .*cat.* where the question is .*dog"):
        score("pope", Given(path, asked))
    lines(path, pope[1:])
    with pytest.raises(BadInput, match=r"7 answers without ids .* 8 questions"):
        score("pope", Given(path, asked, partial=True))


def test_pai_files_carry_their_labels(asked: Path, tmp_path: Path) -> None:
    pai = [
        {"query": q["text"], "label": int(q["label"] == "yes"), "ans": a, "question": "USER: ..."}
        for q, a in zip(QUESTIONS, RIGHT, strict=True)
    ]
    path = lines(tmp_path / "a.jsonl", pai)
    assert score("pope", Given(path)).rules["pope"].metrics["accuracy"] == 1
    assert score("pope", Given(path, asked)).rules["pope"].metrics["accuracy"] == 1
    lines(path, [pai[0] | {"label": 0}, *pai[1:]])
    with pytest.raises(BadInput, match=r"a\.jsonl:1"):
        score("pope", Given(path, asked))
    lines(path, [{"ans": "Yes"}])
    with pytest.raises(BadInput, match="no label"):
        score("pope", Given(path))


def test_clashing_ids_are_settled_by_picture_and_object(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    lines(folder / "coco_pope_random.json", QUESTIONS)
    other = [q | {"text": q["text"].replace("dog", "bus")} for q in QUESTIONS]
    lines(folder / "coco_pope_popular.json", other)
    both = [
        {"question_id": q["question_id"], "image": q["image"], "prompt": q["text"], "text": a}
        for questions in (other, QUESTIONS)
        for q, a in zip(questions, RIGHT, strict=True)
    ]
    found = score("pope", Given(lines(tmp_path / "a.jsonl", both), folder))
    assert found.n == 16
    assert list(found.splits) == ["coco/random", "coco/popular"]
    assert found.rules["pope"].metrics["accuracy"] == 1
    for entry in both:
        del entry["image"]
    with pytest.raises(BadInput, match=r"a\.jsonl:1: id 1 could be several questions"):
        score("pope", Given(lines(tmp_path / "a.jsonl", both), folder))


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    """Random and popular files that share every question but the dogs."""
    folder = tmp_path / "coco"
    folder.mkdir()
    lines(folder / "coco_pope_random.json", QUESTIONS)
    other = [q | {"text": q["text"].replace("dog", "bus")} for q in QUESTIONS]
    lines(folder / "coco_pope_popular.json", other)
    return folder


def pooled(folder: Path, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Answers to both files in that order, with the ids of each; one text throughout a split."""
    return [
        {"question_id": q["question_id"], "image": q["image"], "prompt": q["text"], "text": text}
        for kind, text in kinds.items()
        for q in map(json.loads, (folder / f"coco_pope_{kind}.json").read_text().splitlines())
    ]


def test_pooled_splits_are_never_swapped(two_splits: Path, tmp_path: Path) -> None:
    said = pooled(two_splits, {"popular": "Yes", "random": "No"})
    with pytest.raises(BadInput, match=r"a\.jsonl:2: 2 questions ask for 'cat' in a\.jpg, .*split"):
        score("pope", Given(lines(tmp_path / "a.jsonl", said), two_splits))
    told = [a | {"category": ("popular", "random")[n >= 8]} for n, a in enumerate(said)]
    for entry in told:
        entry["question_id"] += 900  # of another generation: only picture and object lead on
    found = score("pope", Given(lines(tmp_path / "a.jsonl", told), two_splits)).splits
    ratios = {split: figures["pope"].metrics["yes_ratio"] for split, figures in found.items()}
    assert ratios == {"coco/random": 0, "coco/popular": 1}
    lines(tmp_path / "a.jsonl", [*told, told[0]])
    with pytest.raises(BadInput, match=r"a\.jsonl:17: no question, or none left, asks for 'bus'"):
        score("pope", Given(tmp_path / "a.jsonl", two_splits))
    del told[3]["category"]
    with pytest.raises(BadInput, match=r"a\.jsonl:4: 2 questions ask for 'umbrella'"):
        score("pope", Given(lines(tmp_path / "a.jsonl", told), two_splits))


def test_one_answer_to_a_question_of_two_splits_is_not_given_to_either(
    two_splits: Path, tmp_path: Path
) -> None:
    said = pooled(two_splits, {"popular": "Yes", "random": "Yes"})
    assert score("pope", Given(lines(tmp_path / "a.jsonl", said), two_splits)).n == 16
    said = [said[0], *said[2:]]
    with pytest.raises(BadInput, match="2 questions ask for 'cat'"):
        score("pope", Given(lines(tmp_path / "a.jsonl", said), two_splits, partial=True))


@pytest.mark.parametrize(("number", "told"), [("0", "0"), ("²", "²"), ("-1", "-1")])
def test_ids_that_no_file_has_get_one_clear_line(
    asked: Path, tmp_path: Path, number: str, told: str
) -> None:
    entries = [{"question_id": q["question_id"] - 1, "text": "Yes"} for q in QUESTIONS]
    entries[0]["question_id"] = number
    with pytest.raises(BadInput, match=f"a.jsonl:1: there is no question {told}"):
        score("pope", Given(lines(tmp_path / "a.jsonl", entries), asked))


def test_questions_are_not_taken_for_answers(asked: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"random\.json holds questions and no answers.*--questions"):
        score("pope", Given(asked, asked))
    llava = [{key: q[key] for key in ("question_id", "image", "text")} for q in QUESTIONS]
    path = lines(tmp_path / "llava_pope_test.jsonl", llava)
    with pytest.raises(BadInput, match="holds questions and no answers"):
        score("pope", Given(path, asked))
    asking = [{"question_id": q["question_id"], "text": "Yes. Is it?"} for q in QUESTIONS]
    asking[-1]["text"] = "No"
    assert score("pope", Given(lines(tmp_path / "a.jsonl", asking), asked)).n == 8
    path = answers(tmp_path / "a.jsonl", ["No, is it?"] * 8)  # beside the question it is an answer
    assert score("pope", Given(path, asked)).n == 8


def test_a_folder_is_narrowed_to_the_one_split_that_was_answered(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    lines(folder / "coco_pope_random.json", QUESTIONS)
    other = [q | {"text": q["text"].replace("cat", "bus")} for q in QUESTIONS]
    lines(folder / "coco_pope_popular.json", other)
    path = answers(tmp_path / "a.jsonl", RIGHT)
    assert list(score("pope", Given(path, folder)).splits) == ["coco/random"]
    entries = [{"question_id": q["question_id"], "text": "Yes"} for q in QUESTIONS]
    with pytest.raises(BadInput, match="could be several questions"):
        score("pope", Given(lines(path, entries), folder))


def test_llavas_combined_file(tmp_path: Path) -> None:
    """Ids of three ranges; its question file has no labels, and other positions than ours."""
    folder = tmp_path / "coco"
    folder.mkdir()
    kinds = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
    for kind in kinds:
        lines(folder / f"coco_pope_{kind}.json", QUESTIONS)
    given = [
        {"question_id": start + q["question_id"], "prompt": q["text"], "text": a}
        for kind, start in kinds.items()
        for q, a in zip(QUESTIONS, RIGHT, strict=True)
    ]
    path = lines(tmp_path / "a.jsonl", given)
    found = score("pope", Given(path, folder))
    assert {name: f["pope"].n for name, f in found.splits.items()} == {
        f"coco/{kind}": 8 for kind in ("random", "popular", "adversarial")
    }
    assert found.rules["pope"].metrics["mean_f1"] == 1
    assert math.isnan(found.rules["pope"].metrics["mean_repope_f1"])
    old = [
        {"question_id": start + place, "image": q["image"], "category": kind}
        | {"text": q["text"].replace("image", "imange") + "\nAnswer with one word."}
        for kind, start in kinds.items()
        for place, q in enumerate(reversed(QUESTIONS[2:]), 1)
    ]
    own = lines(tmp_path / "llava_pope_test.jsonl", old)
    lines(path, [{"question_id": q["question_id"], "text": "Yes"} for q in old])
    found = score("pope", Given(path, own, (folder,)))
    assert found.n == 18
    assert found.rules["pope"].metrics["accuracy"] == 0.5
    with pytest.raises(BadInput, match=r"test\.jsonl:1: the question has no label.*--annotations"):
        score("pope", Given(path, own))


def test_another_generation_of_the_questions_is_noticed(asked: Path, tmp_path: Path) -> None:
    moved = [question(q["question_id"], q["image"], "bus", "no") for q in QUESTIONS]
    other = lines(tmp_path / "other_pope_random.json", moved)
    with pytest.raises(BadInput, match=r"is 'Is there a bus in the image.' in the question file"):
        score("pope", Given(answers(tmp_path / "a.jsonl", RIGHT), other))
    misspelt = [q | {"text": q["text"].replace("the image", "the imange")} for q in QUESTIONS]
    lines(asked, misspelt)
    found = score("pope", Given(answers(tmp_path / "a.jsonl", RIGHT), asked))
    assert any("first generation: 8 questions" in warning for warning in found.warnings)


def test_answers_to_the_older_random_file_are_never_joined_with_the_newer(tmp_path: Path) -> None:
    asked = [question(n, "a.jpg", f"thing {n}", ("no", "yes")[n % 2]) for n in range(1, 3001)]
    path = lines(tmp_path / "coco_pope_random.json", asked)
    said = [{"question_id": n, "text": "Yes"} for n in range(1, 2911)]
    with pytest.raises(BadInput, match="first generation"):
        score("pope", Given(lines(tmp_path / "a.jsonl", said), path, partial=True))


def test_a_constant_answer_is_noticed(asked: Path, tmp_path: Path) -> None:
    found = score("pope", Given(answers(tmp_path / "a.jsonl", ["Yes"] * 8), asked))
    assert found.warnings == ("Every answer is read as 'yes' by the rule 'pope'.",)


FAULTS = {
    "torn": ('{"question_id": 1, "text": "Yes"}\n{"question', r"a\.jsonl:2: not JSON"),
    "torn at the end of a line": (
        '{"question_id": 1, "text": "Yes"}\n{"question_id": 2,\n',
        r"a\.jsonl:2: not JSON: [^,]*$",
    ),
    "torn within": (
        '{"question_id": 1, "text": "Yes"}\n{"question_id": 2,\n\n{"question_id": 3}',
        r"a\.jsonl:2: not JSON: .*, noticed in line 4",
    ),
    "twice": (
        '{"question_id": 2, "text": "Yes"}\n{"question_id": 1, "text": "No"}\n'
        '{"question_id": 2, "text": "Yes"}',
        r"Question 2 is answered twice: .*a\.jsonl:1 and .*a\.jsonl:3\.",
    ),
    "no answer": ('\n{"question_id": 1, "reply": "Yes"}', r"a\.jsonl:2: no answer"),
    "no object": ('{"question_id": 1, "text": "Yes"}\n7', r"a\.jsonl:2: expected an object"),
    "odd answer": ('{"question_id": 1, "text": ["Yes"]}', r"a\.jsonl:1: 'text'"),
    "unknown id": ('{"question_id": 99, "text": "Yes"}', r"a\.jsonl:1: there is no question 99"),
    "empty": ("", "holds no answers"),
    "array": ('[{"question_id": 1, "text": "Yes"}, 3]', r"a\.jsonl, item 2: expected an object"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_file_gets_one_clear_line(asked: Path, tmp_path: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        score("pope", Given(tmp_path / "a.jsonl", asked, partial=True))
    assert "\n" not in str(caught.value)


def test_pickles_are_refused_and_never_loaded(asked: Path, tmp_path: Path) -> None:
    fire = b"\x80\x04cbuiltins\nexec\n(S'raise SystemExit'\ntR."
    for name in ("chair.pkl", "answers.json"):
        (tmp_path / name).write_bytes(fire)
        with pytest.raises(BadInput, match="is a pickle"):
            score("pope", Given(tmp_path / name, asked))


def test_compressed_and_indented_files_are_read(asked: Path, tmp_path: Path) -> None:
    path = answers(tmp_path / "a.jsonl", RIGHT)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    (tmp_path / "b.json").write_text("\n".join(json.dumps(entry, indent=4) for entry in entries))
    assert score("pope", Given(tmp_path / "b.json", asked)).rules["pope"].metrics["f1"] == 1
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(entries).encode()))
    assert score("pope", Given(tmp_path / "c.json.gz", asked)).rules["pope"].metrics["f1"] == 1
    (tmp_path / "d.json.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    with pytest.raises(BadInput, match="cannot be read"):
        score("pope", Given(tmp_path / "d.json.gz", asked))


@needs_shared
def test_published_pope_figures_under_every_rule() -> None:
    folder = SHARED / "pope"
    given = Given(
        folder / "answers" / "clearsight_vaf_llava_coco_random.jsonl",
        folder / "coco" / "coco_pope_random.json",
        (folder / "repope" / "coco_repope_random.json.gz",),
    )
    found = score("pope", given, "all")
    expected = json.loads((SHARED / "expected.json").read_text())
    known = expected["pope"]["clearsight-vaf/random"]
    for rule, figures in found.rules.items():
        name = {"pope": "pope_official", "lmms": "lmms_eval"}.get(rule, rule)
        own = {key.lower(): value for key, value in known[name].items()}
        digits = 4 if rule == "marine" else 15  # MARINE prints four
        for metric in figures.metrics.keys() & own.keys():
            assert round(figures.metrics[metric], digits) == pytest.approx(own[metric], abs=1e-15)
        assert {"accuracy", "precision", "recall", "f1"} <= figures.metrics.keys() & own.keys()
        for count in {"tp", "fp", "tn", "fn"} & own.keys():
            assert figures.counts[count] == own[count]
    (again,) = (value for key, value in expected.items() if key.startswith("pope_with_repope"))
    again = again["clearsight-vaf/random"]
    figures = found.rules["pope"]
    assert figures.metrics["repope_accuracy"] == again["accuracy"]
    assert figures.metrics["repope_f1"] == again["f1"]
    assert {n: figures.counts[f"re_{n.lower()}"] for n in ("TP", "FP", "TN", "FN")} == {
        n: again[n] for n in ("TP", "FP", "TN", "FN")
    }


def test_nine_thousand_answers_under_all_rules_in_five_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    folder.mkdir()
    given: list[dict[str, Any]] = []
    for kind in ("random", "popular", "adversarial"):
        asked = [
            question(number, f"{number // 6}.jpg", f"thing {number}", ("no", "yes")[number % 2])
            for number in range(1, 3001)
        ]
        lines(folder / f"coco_pope_{kind}.json", asked)
        given += [
            {"question_id": q["question_id"], "category": kind, "prompt": q["text"]}
            | {"text": f"{q['label'].capitalize()}, the {q['image']} shows that it is so."}
            for q in asked
        ]
    path = lines(tmp_path / "a.jsonl", given)
    started = time.process_time()
    found = score("pope", Given(path, folder), "all")
    assert time.process_time() - started < 5
    assert found.n == 9000
    assert found.rules["pope"].metrics["mean_accuracy"] == 1


def test_the_command_prints_a_table_or_a_document(halu: Any, asked: Path, tmp_path: Path) -> None:
    path = answers(tmp_path / "a.jsonl", RIGHT)
    args = ("score", "pope", path, "--questions", asked)
    code, out, err = halu(*args, "--rules", "all")
    assert code == 0
    assert "vlmevalkit" in out
    assert "8 answers, 0 unreadable" in out
    assert "100.0" in out
    assert "repope" not in out
    code, out, err = halu(*args, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rules"]["pope"]["metrics"]["accuracy"] == 1
    for wrong in (("--rules", "mine"), ("--questions", tmp_path / "none.json")):
        code, out, err = halu(*args, *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert halu("score", "poppe", path)[0] == 2


def test_scenes_that_halu_writes_are_scored_by_name(halu: Any, tmp_path: Path) -> None:
    world = tmp_path / "world"
    assert halu("scenes", world, "--n", 4, "--seed", 2)[0] == 0
    path = world / "pope" / "scenes_pope_random.json"
    asked = [json.loads(line) for line in path.read_text().splitlines()]
    said = [{"question_id": q["question_id"], "text": q["label"]} for q in asked]
    found = score("pope-scenes", Given(lines(tmp_path / "a.jsonl", said), path))
    assert found.rules["pope"].metrics["accuracy"] == 1
    images = json.loads((world / "chair" / "captions.json").read_text())["annotations"]
    captions = [{"image_id": c["image_id"], "caption": c["caption"]} for c in images]
    first = {caption["image_id"]: caption for caption in captions}
    path = lines(tmp_path / "c.jsonl", list(first.values()))
    found = score("chair-scenes", Given(path, None, (world / "chair",)))
    assert found.rules["chair-words"].metrics["chair_i"] == 0
