"""The page: self-contained, safe, and every row of the run can be unpacked from it."""

import base64
import gzip
import hashlib
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from halu.eval import samples as packing
from halu.eval import thumbnails as thumbs
from halu.eval.backends import ready
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import playing
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.store import read_rows
from halu.types import Request


def reply(request: Request) -> str:
    """Greedy says yes to all and invents; others are often right."""
    words = request.messages[-1].content[-1]
    assert words.type == "text"
    if "describe" in words.text:
        made_up = "" if request.strategy == "vcd" else " <b>A fire hydrant</b> 🙂 & some puppies."
        return f"A person and a dog.{made_up}</script>"
    if request.strategy != "vcd":
        return "Yes"
    return random.Random(request.sampling.seed).choice(("Yes", "No", "Perhaps"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "out"
    plan = Plan(
        models=(Source(name="played"), Source(name="other")),
        benchmarks=("pope-scenes", "chair-scenes"),
        strategies=(Arm(strategy="vcd"),),
        limit=12,
        batch_size=4,
        repeats=2,
        command="halu bench </script><x>",
    )
    run(plan, ready(playing(reply)), out)
    report(out)
    return out


class Elements(HTMLParser):
    """Scripts by id, all attributes, and whether tags close in order."""

    VOID = frozenset({"meta", "br", "img", "input", "line", "circle", "polyline", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = dict(attrs).get("id")
            assert self._script not in self.scripts
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] += data


@pytest.fixture(scope="module")
def page(folder: Path) -> Elements:
    found = Elements()
    found.feed((folder / "report.html").read_text("utf-8"))
    assert found.open == []
    return found


def unpack(page: Elements, name: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(page.scripts[name], validate=True)))


def embedded(page: Elements) -> list[dict[str, Any]]:
    chunks = [name for name in page.scripts if name and name.startswith("chunk-")]
    return [sample for name in chunks for sample in unpack(page, name)]


def test_the_page_fetches_nothing(folder: Path, page: Elements) -> None:
    text = (folder / "report.html").read_text("utf-8")
    loads = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "style"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in loads or value.startswith(("#", "data:")), (tag, name, value)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", re.sub(r"<script type=.*?</script>", "", text, flags=re.S))


def test_only_its_own_script_may_run(page: Elements) -> None:
    (policy,) = [v for tag, name, v in page.attributes if (tag, name) == ("meta", "content")
                 and "default-src" in v]  # fmt: skip
    digest = base64.b64encode(hashlib.sha256(page.scripts[None].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "innerHTML" not in page.scripts[None]
    assert "eval(" not in page.scripts[None]


def test_what_models_and_users_write_is_text(folder: Path, page: Elements) -> None:
    text = (folder / "report.html").read_text("utf-8")
    assert "halu bench &lt;/script&gt;&lt;x&gt;" in text
    assert "<b>A fire" not in text
    assert any("<b>A fire hydrant</b>" in s["answers"][0]["text"] for s in embedded(page))


def test_every_row_is_in_the_page(folder: Path, page: Elements) -> None:
    rows = read_rows(folder)
    index, samples = unpack(page, "index"), embedded(page)
    assert sum(group["count"] for group in index["groups"]) == len(samples) == len(rows) / 2
    found, first = {}, 0
    for group in index["groups"]:
        for place in range(group["count"]):
            sample = samples[first + place]
            for n, arm in enumerate(group["arms"]):
                letter = group["states"][place * len(group["arms"]) + n]
                name = (group["model"], group["benchmark"], sample["id"], arm)
                place_of = (*name, sample.get("repeat", 0))
                found[place_of] = (sample["answers"][n], sample, letter)
        first += group["count"]
    assert len(found) == len(rows)
    for row in rows:
        answer, sample, letter = found[row.model, row.benchmark, row.id, row.arm, row.repeat]
        assert (answer["text"], answer["value"]) == (row.answer, row.value)
        assert sample["question"] in row.prompt
        assert (letter in "cfi", letter in "adg") == (row.value is None, row.value == 1)
        assert page.scripts[f"picture-{sample['picture']}"]


def test_marks_are_in_the_units_of_a_browser(page: Elements) -> None:
    sample = next(s for s in embedded(page) if isinstance(s["label"], list))
    answer = sample["answers"][0]
    units = answer["text"].encode("utf-16-le")
    marks = {m[2]: units[2 * m[0] : 2 * m[1]].decode("utf-16-le") for m in answer["marks"]}
    assert marks["fire hydrant"] == "fire hydrant"
    assert marks["dog"] in ("dog", "puppies")
    assert [m[3:] for m in answer["marks"] if m[2] == "fire hydrant"] == [[1, "fire hydrant"]]
    named = {m[2] for m in answer["marks"]}
    assert set(answer["missed"]) == set(sample["label"]) - named


def test_pictures_are_embedded_once_and_are_small(folder: Path, page: Elements) -> None:
    pictures = [text for name, text in page.scripts.items() if name and "picture-" in name]
    assert len(pictures) == len({row.picture for row in read_rows(folder)})
    for text in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        assert image.format == "JPEG"
        assert max(image.size) <= thumbs.SIDE


def test_pictures_are_capped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_rows(folder)
    monkeypatch.setattr(thumbs, "MOST", 3)
    few = thumbs.thumbnails(folder, rows, None)
    assert len(few) == 3
    monkeypatch.setattr(thumbs, "MOST_BYTES", 2 * max(map(len, few.values())))
    assert len(thumbs.thumbnails(folder, rows, None)) == 2


def test_a_picture_that_is_gone_is_left_out(folder: Path, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"image_id": "lost"}) for row in read_rows(folder)[:4]]
    assert thumbs.thumbnails(tmp_path, rows, None) == {}
    assert thumbs.thumbnails(folder, rows, None).keys() == {row.picture for row in rows}


def test_an_unfinished_run_shows_what_there_is(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    (tmp_path / "rows.jsonl").write_bytes(b"".join(lines[:6]))
    report(tmp_path)
    found = Elements()
    found.feed((tmp_path / "report.html").read_text("utf-8"))
    samples = embedded(found)
    assert sum(each is not None for s in samples for each in s["answers"]) == 6
    assert "-" in unpack(found, "index")["groups"][0]["states"]


@pytest.mark.parametrize(
    ("base", "value", "letter"),
    [(1.0, 1.0, "a"), (0.0, 0.0, "b"), (0.0, None, "c"), (0.0, 1.0, "d"), (0.2, 0.5, "e"),
     (1.0, 0.0, "h"), (1.0, None, "i")],
)  # fmt: skip
def test_letters_say_what_an_answer_is(
    folder: Path, base: float, value: float | None, letter: str
) -> None:
    row = read_rows(folder)[0]
    before, after = (row.model_copy(update={"value": each}) for each in (base, value))
    assert packing.state(before, after) == letter
    assert packing.state(before, None) == "-"
