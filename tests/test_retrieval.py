"""Indices of captioned pictures: the built-in one, a user's own, and what is wrong with some."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halu import retrieval
from halu.errors import BadInput, Unavailable
from halu.grounding import open_matcher
from halu.scenes import draw
from halu.scenes.captions import describe

pytest.importorskip("open_clip")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALU_CACHE", str(tmp_path / "cache"))


def written(folder: Path, rows: list[Any]) -> Path:
    """A list of captions beside four scenes, a.png to d.png."""
    for seed, name in enumerate("abcd"):
        Image.fromarray(draw(seed, "test").image).save(folder / f"{name}.png")
    file = folder / "captions.jsonl"
    file.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n\n")
    return file


ROWS = [
    *({"file": f"{name}.png", "caption": f" Scene {name}. "} for name in "abcd"),
    {"file": "a.png", "caption": "Scene a.", "box": [-5, 0, 100, 100]},
    {"file": "b.png", "caption": "a corner", "box": [150, 150, 900, 900]},
]


def test_a_picture_finds_itself(tmp_path: Path) -> None:
    index = retrieval.made(retrieval.listed(written(tmp_path, ROWS)))
    assert index.captions[:4] == tuple(f"Scene {name}." for name in "abcd")
    assert index.regions.tolist() == [False] * 4 + [True] * 2
    assert np.allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-5)
    for name in "abcd":
        found = index.search(Image.open(tmp_path / f"{name}.png").convert("RGB"), 3)
        assert found[0].caption == f"Scene {name}."
        assert found[0].score == pytest.approx(1, abs=1e-5)
        assert len(found) == 3
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
    corner = Image.open(tmp_path / "b.png").convert("RGB").crop((150, 150, 224, 224))
    (best, _) = index.search(corner, 5, regions=True)
    assert best.caption == "a corner"
    assert best.score == pytest.approx(1, abs=1e-5)


def test_equal_captions_count_once() -> None:
    images = [Image.fromarray(draw(seed).image) for seed in range(5)]
    entries = [retrieval.Entry(image, "same" if i else "other") for i, image in enumerate(images)]
    found = retrieval.made(entries).search(images[3], 4)
    assert [each.caption for each in found] == ["same", "other"]
    assert found[0].score == pytest.approx(1, abs=1e-5)


def test_an_index_is_kept_and_read_again(tmp_path: Path) -> None:
    index = retrieval.made(retrieval.listed(written(tmp_path, ROWS)))
    file = retrieval.save(index, "mine")
    assert file == tmp_path / "cache" / "retrieval" / "mine.npz"
    assert [each.name for each in file.parent.iterdir()] == ["mine.npz"]
    again = retrieval.load("mine")
    assert again.captions == index.captions
    assert again.clip is None
    assert np.array_equal(again.vectors, index.vectors)
    assert np.array_equal(again.regions, index.regions)
    assert retrieval.load("mine") is again
    retrieval.save(retrieval.made([retrieval.Entry(Image.new("RGB", (9, 9)), "x")]), "mine")
    assert retrieval.load("mine").captions == ("x",)
    with pytest.raises(BadInput, match="no regions"):
        retrieval.load("mine").search(Image.new("RGB", (9, 9)), 1, regions=True)


def test_the_built_in_index_is_about_the_built_in_world() -> None:
    index = retrieval.load("scenes")
    assert retrieval.load("scenes") is index
    assert (~index.regions).sum() == retrieval.SCENES
    assert index.captions[0] == describe(draw(0), random.Random("halu.retrieval 0"))
    right = []
    for seed in range(12):
        scene = draw(seed, split="test")
        thing = max(scene.things, key=lambda thing: thing.visible)
        crop = Image.fromarray(scene.image).crop(thing.box)
        found = index.search(crop, 3, regions=True)
        right.append(any(thing.name in each.caption for each in found))
    assert np.mean(right) > 0.6


def test_alike_texts() -> None:
    index = retrieval.Index(None, np.zeros((0, 1), np.float32), (), np.zeros(0, bool))
    same, near, far = index.alike("a photo of a dog", ["a photo of a dog", "a dog", "a red truck"])
    assert same == pytest.approx(1, abs=1e-5)
    assert near > far


@pytest.mark.parametrize("name", ["../mine", "a/b", "", ".hidden", "a.b", "-a"])
def test_names_are_no_paths(name: str) -> None:
    with pytest.raises(BadInput, match="no name"):
        retrieval.path(name)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no index 'mine'.*python -m halu.retrieval mine"):
        retrieval.load("mine")
    with pytest.raises(BadInput, match="No open_clip checkpoint 'no-such-model'"):
        retrieval.made([], "no-such-model")


def test_without_open_clip_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    open_matcher.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.delitem(sys.modules, "halu.grounding.clip", raising=False)
    with pytest.raises(Unavailable, match=r"\[clip\]"):
        retrieval.made([])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 2"),
        ("[1]", "line 2"),
        ({"caption": "x"}, "line 2.*'file'"),
        ({"file": "a.png"}, "line 2.*'caption'"),
        ({"file": "a.png", "caption": " "}, "line 2.*no caption"),
        ({"file": "a.png", "caption": 3}, "line 2"),
        ({"file": "z.png", "caption": "x"}, "line 2.*no file"),
        ({"file": "a.png", "caption": "x", "box": [1, 2]}, "line 2"),
        ({"file": "a.png", "caption": "x", "box": [50, 50, 50, 60]}, "line 2"),
        ({"file": "a.png", "caption": "x", "box": [300, 300, 400, 400]}, "line 2"),
    ],
)
def test_a_bad_line_is_named(row: Any, says: str, tmp_path: Path) -> None:
    good = {"file": "b.png", "caption": "fine"}
    with pytest.raises(BadInput, match=says):
        list(retrieval.listed(written(tmp_path, [good, row])))


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no captions"):
        retrieval.made(retrieval.listed(written(tmp_path, [])))


@pytest.mark.slow
def test_the_command_makes_an_index(tmp_path: Path) -> None:
    file = written(tmp_path, ROWS)
    command = [sys.executable, "-m", "halu.retrieval"]
    done = subprocess.run([*command, "mine", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 captions" in done.stdout
    assert len(retrieval.load("mine").captions) == 6
    for arguments in (["scenes", file], ["mine", tmp_path / "no.jsonl"], ["../x", file]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
