"""Every benchmark: oracle, constant and noise; POPE's official files; what eval may import."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halu.errors import BadImage, BadInput, HaluError, Unknown
from halu.eval import world
from halu.eval.benchmark import Benchmark, Sample, benchmarks
from halu.eval.pope_files import PopeFiles
from halu.registry import Registry

BUILT_IN = [benchmark.name for benchmark in benchmarks if benchmark.builtin]
LIMIT = 12


def measure(benchmark: Benchmark, reply: Callable[[Sample], str]) -> dict[str, float]:
    samples = benchmark.samples(None, LIMIT, 0, None)
    counts = benchmark.tally(benchmark.score(s, reply(s)).counts for s in samples)
    return {name: float(value) for name, value in benchmark.rates(np.array(counts)).items()}


def oracle(sample: Sample) -> str:
    return sample.label if isinstance(sample.label, str) else " and ".join(sample.label)


def test_names() -> None:
    assert isinstance(benchmarks, Registry)
    assert {"pope", "pope-scenes", "chair-scenes"} <= set(benchmarks.names())
    with pytest.raises(Unknown, match="pope-scenes"):
        benchmarks.get("pope-scene")


@pytest.mark.parametrize("name", BUILT_IN)
def test_oracle_gets_the_top_score(name: str) -> None:
    benchmark = benchmarks.get(name)
    found = measure(benchmark, oracle)
    top = {metric.name: metric.better == "higher" for metric in benchmark.metrics}
    for metric in benchmark.metrics:
        if metric.better != "neither":
            most = 200 if metric.name == "score" else 1  # MME adds two percentages
            assert found[metric.name] == most * top[metric.name]
    assert found.keys() == top.keys()


@pytest.mark.parametrize("name", BUILT_IN)
def test_noise_is_unreadable_and_not_wrong(name: str) -> None:
    benchmark = benchmarks.get(name)
    for sample in benchmark.samples(None, 2, 0, None):
        assert benchmark.score(sample, "%%#! 123").value is None
        assert benchmark.score(sample, oracle(sample)).value == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_samples_are_stable_and_a_limit_is_a_prefix(name: str) -> None:
    benchmark = benchmarks.get(name)
    samples = benchmark.samples(None, LIMIT, 0, None)
    assert samples == benchmark.samples(None, LIMIT, 0, None)
    assert len({sample.id for sample in samples}) == len(samples)
    splits = dict.fromkeys(sample.split for sample in samples)
    for split in splits:
        own = [sample for sample in samples if sample.split == split]
        assert len(own) == LIMIT
        assert benchmark.samples(None, 6, 0, [split]) == own[:6]
    other = benchmark.samples(None, LIMIT, 1, None)
    assert not {s.image for s in other} & {s.image for s in samples}
    with pytest.raises(Unknown):
        benchmark.samples(None, 1, 0, ["nowhere"])


def test_constant_yes_on_pope_has_known_figures() -> None:
    found = measure(benchmarks.get("pope-scenes"), lambda sample: "Yes")
    assert found == {
        "accuracy": 0.5,
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "yes_ratio": 1.0,
    }


def test_saying_nothing_on_chair_has_known_figures() -> None:
    found = measure(benchmarks.get("chair-scenes"), lambda sample: "A sunny day.")
    assert np.isnan(found.pop("chair_i"))
    assert np.isnan(found.pop("precision"))
    assert found == {"chair_s": 0, "recall": 0, "length": 4}


def test_pictures_of_the_built_in_world_can_be_drawn_again() -> None:
    sample = benchmarks.get("pope-scenes").samples(None, 1, 3, ["random"])[0]
    assert sample.image == "test-300000"
    picture = world.picture(sample.image)
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), world.scene(sample.image, picture.width).image)
    for wrong in ("train-1", "test-", "x"):
        with pytest.raises(BadInput):
            world.truth(wrong)


QUESTIONS = [
    {"question_id": 1, "image": "a.png", "text": "Is there a dog in the image?", "label": "yes"},
    {"question_id": 2, "image": "a.png", "text": "Is there a cat in the image?", "label": "no"},
    {"question_id": 3, "image": "b.png", "text": "Is there a car in the image?", "label": "yes"},
    {"question_id": 4, "image": "b.png", "text": "Is there a bus in the image?", "label": "no"},
    {"question_id": 5, "image": "b.png", "text": "Is there a cup in the image?", "label": "yes"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "questions").mkdir()
    (tmp_path / "val2014").mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in QUESTIONS)
    (tmp_path / "questions" / "coco_pope_random.json").write_text(lines)
    (tmp_path / "questions" / "coco_pope_popular.json").write_text(json.dumps(QUESTIONS, indent=1))
    again = [QUESTIONS[0], QUESTIONS[1] | {"label": "yes"}]  # three were dropped, one turned
    (tmp_path / "questions" / "coco_repope_random.json").write_text(json.dumps(again))
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / "val2014" / name)
    return tmp_path


def pope() -> PopeFiles:
    found = benchmarks.get("pope")
    assert isinstance(found, PopeFiles)
    return found


def test_official_files_are_read_in_both_forms(folder: Path) -> None:
    samples = pope().samples(folder, None, 0, None)
    assert [sample.id for sample in samples][:6] == [
        *(f"coco/random/{number}" for number in range(1, 6)),
        "coco/popular/1",
    ]
    assert [sample.label for sample in samples[:5]] == ["yes", "no", "yes", "no", "yes"]
    assert {sample.image for sample in samples} == {"coco/a.png", "coco/b.png"}
    assert len(pope().samples(folder, 2, 0, ["random"])) == 2
    assert pope().picture("coco/a.png", folder).size == (20, 10)


def test_relabelled_questions_are_a_second_column(folder: Path) -> None:
    samples = pope().samples(folder, None, 0, ["random"])
    assert [sample.detail for sample in samples] == ["yes", "yes", None, None, None]
    assert [sample.category for sample in samples] == ["dog", "cat", "car", "bus", "cup"]
    counts = pope().tally(pope().score(sample, "Yes").counts for sample in samples)
    found = pope().rates(np.array(counts))
    assert found["accuracy"] == 3 / 5
    assert found["repope_accuracy"] == 1
    assert found["repope_f1"] == 1


def test_without_relabelled_questions_their_metrics_are_undefined(folder: Path) -> None:
    samples = pope().samples(folder, None, 0, ["popular"])
    counts = pope().tally(pope().score(sample, "Yes").counts for sample in samples)
    found = pope().rates(np.array(counts))
    assert found["accuracy"] == 3 / 5
    assert np.isnan(found["repope_accuracy"])


def test_built_in_questions_name_their_object() -> None:
    samples = benchmarks.get("pope-scenes").samples(None, 12, 0, ["adversarial"])
    assert all(sample.category and sample.category in sample.prompt for sample in samples)


def test_a_folder_of_halu_scenes_is_read(folder: Path) -> None:
    for kind in ("random", "popular"):
        (folder / "questions" / f"coco_pope_{kind}.json").rename(
            folder / "questions" / f"scenes_pope_{kind}.json"
        )
    (folder / "val2014").rename(folder / "images")
    assert {s.split for s in pope().samples(folder, None, 0, None)} == {
        "scenes/random",
        "scenes/popular",
    }


def _broken(folder: Path, text: str) -> None:
    (folder / "questions" / "coco_pope_random.json").write_text(text)


LINE = json.dumps(QUESTIONS[0]) + "\n"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "picture gone": (
        lambda f: (f / "val2014" / "b.png").unlink(),
        r"1 of 2 pictures are missing from .*b\.png.*Looked in .*val2014",
    ),
    "no questions": (
        lambda f: [p.unlink() for p in (f / "questions").iterdir()],
        "No POPE questions in .*coco_pope_random.json",
    ),
    "torn line": (lambda f: _broken(f, LINE + '{"question_id": 2'), r"random\.json:2: not JSON"),
    "no label": (lambda f: _broken(f, '{"question_id": 1}\n'), "random.json:1: 'label'"),
    "odd label": (lambda f: _broken(f, LINE.replace('"yes"', '"maybe"')), "neither yes nor no"),
    "no object": (lambda f: _broken(f, LINE + "3\n"), "random.json:2: expected an object"),
    "ids clash": (lambda f: _broken(f, LINE + LINE), "random.json:2: question id .* twice"),
    "two files": (
        lambda f: (f / "coco_pope_random.json").write_text(LINE),
        "Two files are coco/random",
    ),
    "not text": (
        lambda f: (f / "questions" / "coco_pope_random.json").write_bytes(b"\xff\xfe\x00"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_gets_one_clear_line(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(BadInput, match=message) as caught:
        pope().samples(folder, None, 0, None)
    assert "\n" not in str(caught.value)


def test_no_data_folder() -> None:
    with pytest.raises(BadInput, match="needs a data folder"):
        pope().samples(None, None, 0, None)
    with pytest.raises(BadInput, match="is not a folder"):
        pope().samples(Path("nowhere"), None, 0, None)


def test_a_truncated_picture_is_named(folder: Path) -> None:
    path = folder / "val2014" / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadImage, match=r"a\.png"):
        pope().picture("coco/a.png", folder)
    with pytest.raises(HaluError, match=r"c\.png"):
        pope().picture("coco/c.png", folder)
