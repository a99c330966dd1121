"""What the documentation shows is true: its Python runs, its commands run or are read by the real
parser, its scripts and targets exist. What is not run says why.

Commands run in one process on the built-in model, made short: benchmarks ask two questions of each
split, `halu serve` only prints its configuration. Python that names a server talks to a live one.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from blocks import LATER, PAGES, ROOT, SHELL, Block, blocks, commands, reason
from PIL import Image

BLOCKS = [block for page in PAGES for block in blocks(page)]
SERVER = "http://127.0.0.1:8000"
REASONS = {*LATER.values()}
SETTINGS = ("toml", "json", "yaml")
TOLD = ("text", "")  # output, forms and diagrams
SHORT = {
    "bench": ("--limit", "2"),
    "tune": ("--limit", "2", "--trials", "2"),
    "calibrate": ("--n", "4"),
    "serve": ("--print-config",),
}


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def why_not(block: Block) -> str:
    """Why a block of Python is not run; empty if it is."""
    return block.why or reason(block.text)


def named(block: Block) -> str:
    return block.place


SHOWN = [(block, line) for block in of(*SHELL) for line in commands(block)]
HALU = [(block, line) for block, line in SHOWN if re.match(r"([A-Z_]+=\S+ |'[^']*' )*halu ", line)]
RUN = [(block, line) for block, line in HALU if not reason(line)]
PYTHON_PAGES = sorted({block.page for block in of("python") if not why_not(block)})
RUN_PAGES = sorted({block.page for block, _ in RUN})


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, as a checkout looks to somebody who reads along."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALU_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies that a page registers go when it ends."""
    from halu.strategy import strategies

    strategies.names()
    monkeypatch.setattr(strategies, "_things", dict(strategies._things))


def test_every_block_is_tested_or_says_why_not() -> None:
    known = {*SHELL, *TOLD, "python", *SETTINGS}
    assert not [block.place for block in BLOCKS if block.language not in known]
    left = Counter(why_not(block) for block in of("python") if why_not(block))
    left += Counter(reason(line) for _, line in HALU if reason(line))
    assert set(left) <= REASONS, f"reasons nobody knows: {set(left) - REASONS}"
    ran = len(RUN) + sum(not why_not(block) for block in of("python"))
    assert ran > 15
    assert left.total() < 1.5 * ran, f"more is shown than runs: {left}"


@pytest.mark.parametrize("block", of("python"), ids=named)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block.page), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("desk", "own_registry")
def test_the_python_of_a_page_runs(page: Path, request: pytest.FixtureRequest) -> None:
    there: dict[str, Any] = {"__name__": "shown"}
    for block in (one for one in of("python") if one.page == page and not why_not(one)):
        text = block.text
        if "langchain" in text:
            pytest.importorskip("langchain_openai")
        if SERVER in text:
            text = text.replace(SERVER, request.getfixturevalue("served").url)
        lines = "\n" * (block.line - 1) + text  # so that a traceback points into the page
        exec(compile(lines, str(page), "exec"), there)


@pytest.mark.parametrize(("block", "line"), HALU, ids=lambda one: getattr(one, "place", ""))
def test_the_commands_are_those_of_the_parser(block: Block, line: str) -> None:
    import typer

    from halu.cli import app

    words = shlex.split(re.sub(r"^([A-Z_]+=('[^']*'|\S+) )*", "", line))
    name, rest = words[1], words[2:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and not name.startswith("-"):
        assert name in command.commands, f"{block.place}: no command {name}"
        command = command.commands[name]
        if hasattr(command, "commands"):
            name, rest = rest[0], rest[1:]
    if "form" in reason(line):
        options = {"-h", "--help"}.union(*(each.opts for each in command.params))
        assert {*re.findall(r"(?<![\w-])--?[a-z][\w-]*", line)} <= options, block.place
    elif not name.startswith("-"):
        command.make_context(name, list(rest))  # raises what a user would be told


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, halu: Any, desk: Path) -> None:
    """Those of one page after the other, since one may read what another wrote."""
    own = [line for block, line in RUN if block.page == page]
    told = " ".join(own)
    if "runs/first/" in told and "-o runs/first" not in told:
        own = ["halu bench pope-scenes -s vcd -o runs/first", *own]
    for line in own:
        words = shlex.split(line)[1:]
        code, _, err = halu(*words, *SHORT.get(words[0], ()))
        assert code == 0, f"{page.name}: {line}: {err}"


@pytest.mark.parametrize("block", of(*SHELL), ids=named)
def test_scripts_and_targets_exist(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands(block):
        words = line.split()
        if words[0] == "make":
            for target in words[1:]:
                known = rf"^{re.escape(target.partition('=')[0])}(:| \?=)"
                assert re.search(known, makefile, re.MULTILINE), f"{block.place}: no {target}"
        if words[0].startswith("python") and words[1:2] and words[1].endswith(".py"):
            script = (ROOT / words[1]).read_text(encoding="utf-8")
            for flag in (word for word in words[2:] if word.startswith("--")):
                assert f'"{flag}"' in script, f"{block.place}: {words[1]} has no {flag}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("block", [b for b in of(*SHELL) if b.text.startswith("curl ")], ids=named)
def test_curl_gets_an_answer(block: Block, served: Any, scene: Image.Image, tmp_path: Path) -> None:
    scene.save(tmp_path / "photo.jpg")
    done = subprocess.run(
        ["bash", "-c", block.text.replace(SERVER, served.url)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("block", of(*SETTINGS), ids=named)
def test_settings_can_be_read(block: Block) -> None:
    if block.language == "json":
        assert json.loads(block.text)
    elif block.language == "yaml":
        assert list(pytest.importorskip("yaml").safe_load_all(block.text))
    else:
        assert pytest.importorskip("tomllib").loads(block.text)


def test_links_lead_somewhere() -> None:
    told = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                told.append(f"{page.relative_to(ROOT)}: {target}")
    assert not told


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(tmp_path)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 40
    fetched = r"""<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//"""
    assert not [page.name for page in pages if re.search(fetched, page.read_text("utf-8"))]
    assert "(1 + alpha) z - alpha" in (tmp_path / "api.html").read_text("utf-8")
