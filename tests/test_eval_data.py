"""`halu data check`: what is missing or not as published, per benchmark, and how to get it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from halu.errors import BadInput, Unknown
from halu.eval.data_check import Finding, check, digest, published, whole

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared/data/eval, which may not be redistributed"
)


def told(findings: list[Finding], level: str) -> list[str]:
    return [finding.what for finding in findings if finding.level == level]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One POPE file of a data set of our own, and its pictures."""
    (tmp_path / "val2014").mkdir()
    asked = [
        {"question_id": n, "image": f"{n}.png", "text": "Is there a dog in the image?"}
        | {"label": ("no", "yes")[n % 2]}
        for n in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in asked)
    (tmp_path / "coco_pope_random.json").write_text(text)
    for n in (1, 2, 3):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "val2014" / f"{n}.png")
    return tmp_path


def test_other_questions_and_missing_splits_are_named(folder: Path) -> None:
    found = check(folder, "pope")
    assert not whole(found)
    assert told(found, "missing") == ["coco/popular", "coco/adversarial"]
    assert told(found, "wrong") == [
        "coco/random: coco_pope_random.json, 3 questions, not as published"
    ]
    assert told(found, "fine") == ["coco: 3 pictures"]
    assert any("AoiDragon/POPE" in finding.hint for finding in found)


def test_missing_and_duplicate_pictures_are_counted(folder: Path) -> None:
    pictures = folder / "val2014"
    (pictures / "2.png").write_bytes((pictures / "1.png").read_bytes())
    (pictures / "3.png").unlink()
    found = check(folder, "pope")
    assert "coco: 1 of 3 pictures" in told(found, "missing")
    assert "1.png and 2.png are the same picture" in told(found, "wrong")


def test_misspelt_questions_are_the_first_generation(folder: Path) -> None:
    path = folder / "coco_pope_random.json"
    path.write_text(path.read_text().replace("the image?", "the imange?"))
    assert told(check(folder, "pope"), "note")[0].endswith(
        "first generation: 3 questions ask for an imange"
    )


def test_vcds_copy_has_misspelt_adversarial_questions(folder: Path) -> None:
    asked = [
        {"question_id": n, "image": "1.png", "text": f"Is there an ox {n} in the imange?"}
        | {"label": "no"}
        for n in range(57)
    ]
    text = "\n".join(map(json.dumps, asked))
    (folder / "coco_pope_adversarial.json").write_text(text)
    (note,) = (what for what in told(check(folder, "pope"), "note") if "adversarial" in what)
    assert note.endswith("VCD's copy: 57 questions ask for an imange")


def test_a_malformed_file_is_wrong_and_named(folder: Path) -> None:
    (folder / "coco_pope_popular.json").write_text('{"question_id": 1\n')
    assert any("popular.json:" in what for what in told(check(folder, "pope"), "wrong"))
    (folder / "sub").mkdir()
    (folder / "sub" / "coco_pope_random.json").write_text("")
    assert told(check(folder, "pope"), "wrong")[0].startswith("Two files are coco/random")


@pytest.mark.parametrize("name", ["pope", "mme", "chair", "amber"])
def test_an_empty_folder_says_what_is_needed(tmp_path: Path, name: str) -> None:
    found = check(tmp_path, name)
    assert told(found, "missing")
    assert not told(found, "fine")


@pytest.mark.parametrize(
    ("name", "needed", "source"),
    [
        ("mmhal", ["response_template.json", "eval_gpt4.py"], "Shengcao1006/MMHal-Bench"),
        ("vallu", ["vallu_benchmark.jsonl", "evaluate_gpt.py"], "Sreyan88/VDGD"),
        ("textualhalu", ["Spotting.json", "Understanding.json"], "LinYuanMo/TextHalu-Bench"),
        ("hallusionbench", ["HallusionBench.json"], "tianyi-lab/HallusionBench"),
        ("hallusionbench-official", ["HallusionBench.json"], "tianyi-lab/HallusionBench"),
    ],
)
def test_every_missing_file_is_named_with_its_source(
    tmp_path: Path, name: str, needed: list[str], source: str
) -> None:
    found = check(tmp_path, name)
    assert told(found, "missing") == needed
    assert all(source in finding.hint for finding in found)
    (tmp_path / needed[-1]).write_text("[]" if len(needed) == 1 else "text = 1")
    assert told(check(tmp_path, name), "missing") == needed[:-1]


def test_amber_is_checked_without_what_only_descriptions_need(tmp_path: Path) -> None:
    parts = ("yes/no questions", "descriptions")
    found = told(check(tmp_path, "amber"), "missing")
    assert [what.partition(":")[0] for what in found] == [parts[0]] * 2 + [parts[1]] * 5
    annotated: list[dict[str, Any]] = [{"id": 1, "type": "relation", "truth": "yes"}]
    asked = [{"id": 1, "image": "AMBER_1.jpg", "query": "Is the sky above the sea?"}]
    bare, full = tmp_path / "bare", tmp_path / "full"
    for folder in (bare, full):
        folder.mkdir()
        (folder / "annotations.json").write_text(json.dumps(annotated))
        (folder / "query_all.json").write_text(json.dumps(asked))
    found = check(bare, "amber")
    assert "1 of 1 pictures are missing" in told(found, "missing")[0]
    assert "junyangwang0410/AMBER" in found[0].hint
    Image.new("RGB", (8, 8)).save(full / "AMBER_1.jpg")
    found = check(full, "amber")
    assert told(found, "fine") == ["yes/no questions: 1 samples"]
    assert not whole(found)  # what descriptions need is still missing
    (full / "annotations.json").write_text(json.dumps([annotated[0] | {"truth": "maybe"}]))
    assert "neither yes nor no" in told(check(full, "amber"), "wrong")[0]


def test_built_in_benchmarks_need_nothing_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert whole(check(tmp_path, "pope-scenes"))
    with pytest.raises(Unknown, match="pope"):
        check(tmp_path, "pop")
    with pytest.raises(BadInput, match="not a folder"):
        check(tmp_path / "nowhere", "pope")


def test_mme_tasks_are_compared_with_the_published_questions(tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text("a.jpg\tOne?\tYes\na.jpg\tTwo?\tNo\n")
    found = check(tmp_path, "mme")
    assert "task count: 2 questions, not as published" in told(found, "wrong")
    assert "task existence" in told(found, "missing")
    assert "count: 1 of 1 pictures" in told(found, "missing")


def test_chair_tables_are_checked_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("person, girl\n")
    found = check(tmp_path, "chair")
    assert "synonyms.txt is not as published" in told(found, "wrong")
    assert any("double_words.json" in what for what in told(found, "missing"))
    assert "COCO's instances_val2014.json" in told(found, "missing")


def test_a_digest_does_not_depend_on_layout_but_on_every_word() -> None:
    assert digest([("a", "b"), ("c", "d")]) == digest([["a", "b"], ["c", "d"]])
    assert digest([("a", "b")]) != digest([("ab", "")])


def test_the_facts_cover_every_published_split() -> None:
    facts = published()
    kinds = ("random", "popular", "adversarial")
    assert set(facts["pope"]) == {f"{s}/{k}" for s in ("coco", "aokvqa", "gqa") for k in kinds}
    assert len(facts["mme"]) == 14
    assert set(facts["repope"]) == {f"coco/{kind}" for kind in kinds}


@needs_shared
def test_published_files_are_recognised(tmp_path: Path) -> None:
    fine = told(check(SHARED / "pope", "pope"), "fine")
    assert sum("as published today" in what for what in fine) == 3
    assert sum("in another layout" in what for what in fine) == 6
    assert sum("RePOPE" in what for what in fine) == 3
    mme = told(check(SHARED / "mme" / "questions", "mme"), "fine")
    assert sum("as published" in what for what in mme) == 14
    assert "synonyms.txt as published" in told(check(SHARED / "chair", "chair"), "fine")
    today = (SHARED / "pope" / "coco" / "coco_pope_adversarial.json").read_text()
    (tmp_path / "coco_pope_adversarial.json").write_text(today.replace('"yes"', '"no"', 1))
    assert told(check(tmp_path, "pope"), "wrong")


def test_the_command_exits_with_one_if_something_is_missing(
    halu: Any, folder: Path, tmp_path: Path
) -> None:
    code, out, err = halu("data", "check", folder, "--benchmark", "pope")
    assert (code, err) == (1, "")
    assert "missing coco/popular" in out
    code, out, err = halu("data", "check", folder, "--benchmark", "pope", "--json")
    document = json.loads(out)
    assert (code, document["whole"]) == (1, False)
    assert {"level", "what", "hint"} == set(document["findings"][0])
    assert halu("data", "check", folder, "--benchmark", "mme-scenes")[0] == 0
    assert halu("data", "check", folder, "--benchmark", "nothing")[0] == 2
    assert halu("data", "check", folder / "nowhere", "--benchmark", "pope")[0] == 2
