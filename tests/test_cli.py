"""The command line as a person meets it: exit codes, one line a mistake, JSON alone on stdout."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from halu.scenes import draw


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "scene.png"
    Image.fromarray(draw(1, "test").image).save(path)
    return path


def test_ask_prints_the_answer_and_nothing_else(halu: Any, scene: Path) -> None:
    code, out, err = halu("ask", scene, "Is there a dog in the image? Please answer yes or no.")
    assert (code, err) == (0, "")
    assert out.strip().rstrip(".") in {"Yes", "No"}


ASK_AND_TELL = """
import gc, json, sys
from halu.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
told = {"code": code, "modules": [*sys.modules], "collected": gc.get_stats()[2]["collections"]}
print(json.dumps({**told, "collects": gc.isenabled()}))
"""
# What no part of answering a question needs, though other commands do.
NEEDLESS = {"matplotlib", "nltk", "open_clip", "rich", "fastapi", "halu.eval", "halu.scenes"}


def asked_alone(*args: object) -> dict[str, Any]:
    """What an interpreter has loaded after `halu ask ARGS`."""
    command = [sys.executable, "-c", ASK_AND_TELL, "ask", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_ask_loads_what_it_needs_and_does_not_search_it_for_garbage(scene: Path) -> None:
    told = asked_alone(scene, "Is there a dog in the image?")
    assert told["code"] == 0
    assert not NEEDLESS.intersection(told["modules"])
    assert told["collects"]
    assert told["collected"] < 10


def test_a_wrong_picture_is_refused_before_torch_is_loaded() -> None:
    told = asked_alone("nowhere.png", "Hi")
    assert told["code"] == 2
    assert "torch" not in told["modules"]


def test_ask_as_json_is_one_document_with_the_strategy_as_resolved(halu: Any, scene: Path) -> None:
    code, out, _ = halu("ask", scene, "Describe it.", "-s", "vcd", "-p", "alpha=0.5", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["strategy"] == {
        "name": "vcd",
        "params": {"alpha": 0.5, "beta": 0.1, "noise": 500},
    }
    assert answer["usage"]["forwards"] == 2 * len(answer["tokens"])


def test_trace_page_holds_every_word_and_fetches_nothing(
    halu: Any, scene: Path, tmp_path: Path
) -> None:
    page = tmp_path / "trace.html"
    code, out, _ = halu("ask", scene, "Please describe this image in detail.", "--trace", page)
    text = page.read_text()
    assert code == 0
    assert text.count('<button type="button"') == len(out.split())
    said = text.partition('id="answer">')[2].partition("</p>")[0]
    assert re.sub("<[^>]*>", "", said) == " ".join(out.split())
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "Missing argument"),
        (("nowhere.png", "Hi"), "no file 'nowhere.png'"),
        (("{scene}", ""), "The question is empty."),
        (("{scene}", " "), "The question is empty."),
        (("{scene}", "Hi", "-s", "vdc"), "Did you mean vcd"),
        (("{scene}", "Hi", "-s", "vcd", "-p", "alhpa=1"), "Did you mean alpha?"),
        (("{scene}", "Hi", "-s", "vcd", "-p", "alpha=9"), "alpha=9"),
        (("{scene}", "Hi", "-s", "vcd", "-p", "alpha"), "not KEY=VALUE. For example -p alpha=1.5."),
        (("{scene}", "Hi", "-p", "alpha=1"), "There are none. Name a strategy that has it (-s"),
        (("{scene}", "Hi", "-s", "greedy", "-p", "alpha=1"), "There are none."),
        (("{scene}", "Hi", "--temperature", "-1"), "temperature=-1"),
        (("{scene}", "Hi", "--max-new-tokens", "0"), "max_new_tokens=0"),
        (("{scene}", "Hi", "-s", "greedy", "--temperature", "1"), "no temperature"),
        (("{scene}", "Hi", "-m", "tiny-lava"), "Did you mean tiny-llava"),
        (("{scene}", "Hi", "-m", "{empty}"), "no config.json"),
        (("{scene}", "Hi", "--device", "cuda:99"), "not available"),
        (("{truncated}", "Hi"), "damaged or truncated"),
        (("{text}", "Hi"), "is not a PNG, JPEG, WEBP, GIF picture"),
        (("{dot}", "Hi"), "1x1"),
        (("{wide}", "Hi"), "30000x"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    halu: Any, scene: Path, tmp_path: Path, args: tuple[str, ...], told: str
) -> None:
    files = {name: tmp_path / name for name in ("truncated", "text", "dot", "wide", "empty")}
    files["truncated"].write_bytes(scene.read_bytes()[:2000])
    files["text"].write_text("This is no picture.")
    Image.new("RGB", (1, 1)).save(files["dot"], "PNG")
    Image.new("1", (30_000, 10)).save(files["wide"], "PNG")
    files["empty"].mkdir()
    code, out, err = halu("ask", *(arg.format(scene=scene, **files) for arg in args))
    assert code == 2
    assert out == ""
    assert err.startswith("halu: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["strategies", "detectors", "benchmarks", "models"])
def test_lists_are_json_objects_with_names(halu: Any, kind: str) -> None:
    code, out, _ = halu("list", kind, "--json")
    entries = json.loads(out)
    assert code == 0
    assert all(entry["name"] for entry in entries)
    if kind == "strategies":
        assert {"kind", "params", "paper"} <= set(entries[0])
    assert halu("list", kind)[0] == 0


def test_the_version_is_told(halu: Any) -> None:
    from halu import __version__

    assert halu("--version") == (0, f"halu {__version__}\n", "")


@pytest.mark.parametrize(
    "args", [("list",), ("list", "strategies"), ("list", "benchmarks"), ("doctor",)]
)
def test_a_pipe_gets_whole_lines_however_narrow_the_terminal(
    halu: Any, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = halu(*args)
    _, told, _ = halu(*args, "--json")
    texts = [entry.get("summary") or entry["found"] for entry in json.loads(told)]
    assert max(map(len, texts)) > 40
    assert all(text in out for text in texts)


def test_a_hub_out_of_reach_is_told_as_such(halu: Any, scene: Path) -> None:
    """The tests run with the hub switched off, which is how a machine without network looks."""
    code, out, err = halu("ask", scene, "Hi", "-m", "nobody/has-this-model")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'nobody/has-this-model' is not on this machine" in err
    assert "could not be reached" in err


def test_doctor_names_what_is_missing_and_how_to_get_it(halu: Any) -> None:
    code, out, _ = halu("doctor", "--json")
    checks = {check["what"]: check for check in json.loads(out)}
    assert code == 0
    assert checks["model tiny-llava"]["works"]
    assert checks["extra vllm"]["works"] or "docs/vllm.md" in checks["extra vllm"]["found"]
    for name in ("eval", "serve"):
        found = checks[f"extra {name}"]
        assert found["works"] or f"pip install '.[{name}]'" in found["found"]


def test_scenes_writes_the_official_files_and_spares_a_full_folder(
    halu: Any, tmp_path: Path
) -> None:
    code, out, _ = halu("scenes", tmp_path / "world", "--n", 3, "--seed", 5)
    assert code == 0
    assert "3 pictures" in out
    assert len(list((tmp_path / "world" / "images").glob("*.png"))) == 3
    before = sorted((tmp_path / "world").rglob("*"))
    code, _, err = halu("scenes", tmp_path / "world", "--n", 3)
    assert code == 2
    assert err.count("\n") == 1
    assert sorted((tmp_path / "world").rglob("*")) == before


def test_bench_reports_and_refuses_a_folder_with_another_run(halu: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = ("bench", "pope-scenes", "-s", "vcd:alpha=0.5", "--limit", 6, "--split", "random")
    assert halu(*args, "-o", run)[0] == 0
    summary = json.loads((run / "summary.json").read_text())
    assert {r["strategy"] for r in summary["results"]} == {"greedy", "vcd"}
    accuracies = [result["metrics"]["accuracy"] for result in summary["results"]]
    assert all(0 <= accuracy["value"] <= 1 and "ci" in accuracy for accuracy in accuracies)
    assert (run / "report.html").is_file()
    rows = (run / "rows.jsonl").read_bytes()
    code, _, err = halu(*args, "-o", run)
    assert code == 2
    assert "--resume" in err
    assert (run / "rows.jsonl").read_bytes() == rows
    assert halu("report", run)[0] == 0


@pytest.mark.slow
def test_a_killed_bench_goes_on_where_it_was(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "halu",
        "bench",
        "pope-scenes",
        "--limit",
        "30",
        "-o",
        str(run),
    ]
    command += ["--split", "random", "--batch-size", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = run / "rows.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (
        rows.exists() and rows.read_bytes().count(b"\n") > 3
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = rows.read_bytes().count(b"\n")
    assert 0 < done < 30
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    ids = [json.loads(line)["id"] for line in rows.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 30


def test_an_interrupted_bench_says_what_is_kept(
    halu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halu.eval import run as runner

    asked = []

    def answered(*args: Any) -> Any:
        asked.append(args)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return real(*args)

    real = runner.answered
    monkeypatch.setattr(runner, "answered", answered)
    out = tmp_path / "run"
    code, _, err = halu("bench", "pope-scenes", "--limit", 4, "--batch-size", 4, "-o", out)
    assert code == 130
    last = err.strip().splitlines()[-1]
    assert last == f"halu: interrupted. 4 of 12 answers are kept in {out}. Go on with --resume."
