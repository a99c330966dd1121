"""The built-in benchmark: questions by the definitions, and files in the official formats."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halu.errors import BadInput
from halu.scenes import NAMES, Scene, draw
from halu.scenes.files import Files, write
from halu.scenes.language import exists
from halu.scenes.questions import Task, image_name, mme_items, pope_items, text_items
from halu.scenes.statistics import Kind

N = 12
KINDS: tuple[Kind, ...] = ("random", "popular", "adversarial")
TASKS: tuple[Task, ...] = ("existence", "count", "position", "color")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(seed, "test", 112) for seed in range(60)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    done: list[int] = []
    written = write(tmp_path_factory.mktemp("world"), N, 30, done.append)
    assert done == list(range(1, N + 1))
    return written


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_pope_is_balanced_and_true(scenes: list[Scene], kind: Kind) -> None:
    items = pope_items(scenes, kind, random.Random(0))
    by_image = {image_name(scene): scene for scene in scenes}
    questions = {exists(name): name for name in NAMES}
    assert [item.question_id for item in items] == list(range(1, 6 * len(scenes) + 1))
    assert Counter(item.label for item in items) == {"yes": 180, "no": 180}
    assert len({(item.image, item.text) for item in items}) == len(items)
    for item in items:
        assert (questions[item.text] in by_image[item.image].names) == (item.label == "yes")


def test_pope_kinds_share_the_present_objects(scenes: list[Scene]) -> None:
    asked = [
        [(item.image, item.text) for item in pope_items(scenes, kind, random.Random(n))][::2]
        for n, kind in enumerate(KINDS)
    ]
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize("task", TASKS)
def test_mme_asks_each_image_one_yes_and_one_no(scenes: list[Scene], task: Task) -> None:
    items = mme_items(scenes, task, random.Random(0))
    assert len(items) > len(scenes)
    for first, second in zip(items[::2], items[1::2], strict=True):
        assert first.image == second.image
        assert first.question != second.question
        assert (first.answer, second.answer) == ("Yes", "No")
        assert first.question.endswith("? Please answer yes or no.")


def test_words_are_asked_where_there_is_a_sign(scenes: list[Scene]) -> None:
    items = text_items(scenes)
    assert len(items) == sum(len(scene.prints) for scene in scenes) > 3
    assert {item.real for item in items} == {True, False}


def test_images_are_the_scenes(files: Files) -> None:
    assert len(files.images) == N
    for number, (path, row) in enumerate(zip(files.images, lines(files.truth), strict=True)):
        scene = draw(30 + number, "test", 224)
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), scene.image)
        assert row["image"] == path.name
        assert [thing["name"] for thing in row["things"]] == [t.name for t in scene.things]
        assert [tuple(thing["box"]) for thing in row["things"]] == [t.box for t in scene.things]


def test_questions_read_back(files: Files) -> None:
    names = {path.name for path in files.images}
    assert set(files.pope) == set(KINDS)
    for kind in KINDS:
        rows = lines(files.pope[kind])
        assert len(rows) == 6 * N
        assert set(rows[0]) == {"question_id", "image", "text", "label"}
        assert {row["image"] for row in rows} == names
    for task in TASKS:
        for line in files.mme[task].read_text(encoding="utf-8").splitlines():
            image, _, answer = line.split("\t")
            assert image in names
            assert answer in ("Yes", "No")
    assert all({"image", "text", "answer"} <= set(row) for row in lines(files.text))


def test_chair_truth_has_coco_layout(files: Files) -> None:
    instances = json.loads(files.instances.read_text())
    captions = json.loads(files.captions.read_text())
    ids = {image["id"] for image in instances["images"]}
    categories = {row["id"]: row["name"] for row in instances["categories"]}
    truth = {row["seed"]: row for row in lines(files.truth)}
    assert ids == set(truth) == set(range(30, 30 + N))
    assert (categories[1], categories[90], len(categories)) == ("person", "toothbrush", len(NAMES))
    found: dict[int, list[str]] = {image: [] for image in ids}
    for row in instances["annotations"]:
        x, y, width, height = row["bbox"]
        assert min(x, y) >= 0 < min(width, height)
        assert max(x + width, y + height) <= 224
        found[row["image_id"]].append(categories[row["category_id"]])
    for image, names in found.items():
        assert names == [thing["name"] for thing in truth[image]["things"]]
    assert Counter(row["image_id"] for row in captions["annotations"]) == dict.fromkeys(ids, 5)


def test_refusals(files: Files, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not an empty folder"):
        write(files.folder, 1, 0)
    with pytest.raises(BadInput, match="0 scenes"):
        write(tmp_path / "new", 0, 0)
    with pytest.raises(BadInput, match="-1"):
        write(tmp_path / "new", 1, -1)
    assert not (tmp_path / "new").exists()
