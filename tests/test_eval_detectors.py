"""Detectors in a run: their findings are in the rows and in the page, and change nothing else."""

import base64
import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from halu.errors import BadInput, Unknown, Unsupported
from halu.eval.backends import ready
from halu.eval.console import show
from halu.eval.examined import findings
from halu.eval.plan import Arm, Plan, Source
from halu.eval.played import playing
from halu.eval.report import report
from halu.eval.run import run
from halu.eval.samples import grouped, packed
from halu.eval.store import Row, read_manifest, read_rows
from halu.types import Request, question

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CAPTION = "🙂 A person, and a fire hydrant."
CLIP: dict[str, dict[str, Any]] = {"clip": {"threshold": 0.0}}


def plan(**changes: Any) -> Plan:
    base = Plan(
        models=(Source(name="played"),),
        benchmarks=("chair-scenes",),
        strategies=(Arm(strategy="vcd"),),
        limit=3,
        detectors=CLIP,
    )
    return base.model_copy(update=changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examined") / "out"
    run(plan(), ready(playing(lambda _: CAPTION)), out)
    report(out)
    return out


def test_rows_hold_what_detectors_find_and_nothing_else_changes(
    folder: Path, tmp_path: Path
) -> None:
    rows = read_rows(folder)
    for row in rows:
        said = [row.answer[one.start : one.stop] for one in row.findings]
        assert said == ["person", "fire hydrant"]
        assert {one.detector for one in row.findings} == {"clip"}
    run(plan(detectors={}), ready(playing(lambda _: CAPTION)), tmp_path / "out")
    for bare, row in zip(read_rows(tmp_path / "out"), rows, strict=True):
        skipped = {"findings", "seconds", "memory_mb"}
        assert bare.findings == ()
        assert bare.model_dump(exclude=skipped) == row.model_dump(exclude=skipped)


def test_findings_are_counted_under_the_tables(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(folder)
    assert found.findings == {"clip": 12}
    show(found)
    assert "Findings in 6 answers: clip 12. " in capsys.readouterr().out
    run(plan(detectors={}), ready(playing(lambda _: CAPTION)), tmp_path / "out")
    bare = report(tmp_path / "out")
    assert bare.findings == {}
    show(bare)
    assert "Findings" not in capsys.readouterr().out


def test_a_run_is_not_continued_with_other_detectors(folder: Path) -> None:
    assert read_manifest(folder).detectors == CLIP
    with pytest.raises(BadInput, match="detectors"):
        run(plan(detectors={}), ready(playing(lambda _: CAPTION)), folder, resume=True)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"detectors": {"attention": {}}, "strategies": (Arm(strategy="beam"),)}, Unsupported),
        ({"detectors": {"clp": {}}}, Unknown),
        ({"detectors": {"clip": {"threshold": 3}}}, BadInput),
        *(
            (
                {
                    "detectors": {"attention": {}},
                    "models": (Source(name="here"), Source(name="played", backend=backend)),
                },
                Unsupported,
            )
            for backend in ("vllm", "http://127.0.0.1:9/v1")
        ),
    ],
)
def test_detectors_that_cannot_serve_leave_no_folder(
    changes: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    asked: list[Request] = []

    def reply(request: Request) -> str:
        asked.append(request)
        return CAPTION

    with pytest.raises(error):
        run(plan(**changes), ready(playing(reply)), tmp_path / "out")
    assert not asked
    assert not (tmp_path / "out").exists()


def test_where_there_is_no_picture_nobody_looks_at_one() -> None:
    asked = Request(messages=question("Is there a dog?"))
    ((_, answer),) = playing(lambda _: "There is a dog.")([asked])
    source = Source(name="played")
    assert findings(asked, answer, plan(), source, lambda _: pytest.fail("asked")) == ()


def test_doubts_are_in_the_units_of_a_browser(folder: Path) -> None:
    groups = grouped(read_manifest(folder), read_rows(folder))
    (chunk,) = packed(groups, {}, {"chair-scenes": ""}).chunks
    for sample in json.loads(gzip.decompress(base64.b64decode(chunk))):
        for answer in sample["answers"]:
            units = answer["text"].encode("utf-16-le")
            words = [units[2 * a : 2 * b].decode("utf-16-le") for a, b, *_ in answer["doubts"]]
            assert words == ["person", "fire hydrant"]
            assert [one[2] for one in answer["doubts"]] == ["clip", "clip"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_the_page_marks_doubts_and_tells_the_reason(folder: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((folder / "report.html").as_uri())
        doubted = page.locator(".said section >> nth=0 >> mark.doubted")
        playwright.expect(doubted).to_have_text(["person", "fire hydrant"])
        why = page.locator(".said section >> nth=0 >> .why")
        doubted.nth(1).focus()
        playwright.expect(why).to_contain_text("'fire hydrant'")
        doubted.nth(0).hover()
        playwright.expect(why).to_contain_text("'person'")
        assert "clip" in (doubted.nth(0).get_attribute("aria-label") or "")
        browser.close()
    assert wrong == []


def test_rows_of_a_run_without_detectors_are_read(folder: Path) -> None:
    told = read_rows(folder)[0].model_dump(mode="json", exclude={"findings"})
    assert Row.model_validate(told).findings == ()
