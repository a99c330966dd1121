"""The runner and its folder: rows, resume after a kill, refusals. A function plays the model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from halu.errors import BadInput, Failed, Unknown
from halu.eval.backends import process_peak, ready
from halu.eval.plan import Arm, Plan, Source, differences
from halu.eval.played import played, playing
from halu.eval.run import Progress, run
from halu.eval.store import read_manifest, read_rows
from halu.types import Answer, Request

CONTRACT = {"id", "benchmark", "strategy", "params", "prompt", "answer", "parsed", "label"} | {
    "value",
    "tokens",
    "seconds",
    "forwards",
}


def plan(**changes: object) -> Plan:
    fields: dict[str, object] = {
        "models": (Source(name="played"),),
        "benchmarks": ("pope-scenes", "chair-scenes"),
        "strategies": (Arm(strategy="vcd", params={"alpha": 0.5}),),
        "limit": 5,
        "batch_size": 2,
    }
    return Plan.model_validate(fields | changes)


def yes(request: Request) -> str:
    return "Yes"


def noting(seen: list[Request]) -> Callable[[Request], str]:
    """Say yes and keep the request."""

    def reply(request: Request) -> str:
        seen.append(request)
        return "Yes"

    return reply


def total(rows: int = 5) -> int:
    return 2 * (3 * rows + rows)


def test_rows_hold_the_contract(tmp_path: Path) -> None:
    seen: list[Request] = []
    told: list[Progress] = []
    run(plan(), played(noting(seen)), tmp_path / "out", progress=told.append)
    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(seen) == total()
    assert all(row.keys() >= CONTRACT for row in rows)
    keys = [(row["benchmark"], row["id"], row["arm"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["arm"] for row in rows} == {"greedy", "vcd(alpha=0.5)"}
    first = rows[0]
    assert first["strategy"] == "greedy"
    assert first["prompt"].endswith("in the image? Please answer this question with one word.")
    assert (first["parsed"], first["label"], first["value"]) == ("yes", "yes", 1.0)
    assert first["counts"] == {"tp": 1}
    assert (first["tokens"], first["forwards"]) == (1, 1)
    assert told[0].done == 0
    assert told[-1] == Progress(total(), total(), "chair-scenes", "vcd(alpha=0.5)", "played")
    record = read_manifest(tmp_path / "out")
    assert [suite.name for suite in record.benchmarks] == ["pope-scenes", "chair-scenes"]
    assert (record.seed, record.limit, record.models[0].name) == (0, 5, "played")
    assert {"python", "halu", "torch"} <= record.versions.keys()


def test_strategies_see_the_same_questions_pictures_and_seeds(tmp_path: Path) -> None:
    seen: list[Request] = []
    run(plan(), played(noting(seen)), tmp_path / "out")
    asked: dict[str, list[tuple[str, int, bytes]]] = {}
    for request in seen:
        words = request.messages[-1].content[-1]
        assert words.type == "text"
        entry = (words.text, request.sampling.seed, request.images[0].tobytes())
        asked.setdefault(request.strategy or "", []).append(entry)
    assert asked["greedy"] == asked["vcd"]
    assert len({seed for _, seed, _ in asked["vcd"]}) == total() // 2


def test_the_baseline_comes_first_and_once() -> None:
    arms = plan(
        strategies=(Arm(strategy="vcd"), Arm(strategy="greedy"), Arm(strategy="vcd"))
    ).arms()
    assert [arm.label for arm in arms] == ["greedy", "vcd"]
    assert [arm.label for arm in plan(strategies=()).arms()] == ["greedy"]


def test_decoding_of_the_plan_reaches_the_requests(tmp_path: Path) -> None:
    seen: list[Request] = []
    changed = plan(temperature=0.7, max_new_tokens=3, suffix="", benchmarks=("pope-scenes",))
    run(changed, played(noting(seen)), tmp_path / "out")
    words = seen[0].messages[-1].content[-1]
    assert words.type == "text"
    assert words.text.endswith("in the image?")
    assert {(r.sampling.temperature, r.sampling.max_new_tokens) for r in seen} == {(0.7, 3)}


class Killed(BaseException):
    """As if by the operating system."""


@pytest.mark.parametrize("torn", [b"", b'{"id":"rand', b'{"id":"random/1","value":1.0}'])
def test_resume_after_a_kill_answers_only_what_is_missing(tmp_path: Path, torn: bytes) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(plan(), played(yes), whole)
    seen: list[Request] = []

    def fragile(request: Request) -> str:
        seen.append(request)
        if len(seen) > 13:
            raise Killed
        return "Yes"

    with pytest.raises(Killed):
        run(plan(), played(fragile), out)
    path = out / "rows.jsonl"
    kept = path.read_bytes()
    assert 0 < kept.count(b"\n") < total()
    path.write_bytes(kept + torn)
    again: list[Request] = []
    run(plan(command="halu bench --resume"), played(noting(again)), out, resume=True)
    assert path.read_bytes().startswith(kept)
    assert len(again) == total() - kept.count(b"\n")
    rows, expected = read_rows(out), read_rows(whole)
    assert [(r.benchmark, r.id, r.arm) for r in rows] == [
        (r.benchmark, r.id, r.arm) for r in expected
    ]
    run(plan(), played(noting(again := [])), out, resume=True)
    assert again == []


def test_a_line_cut_in_the_middle_of_a_finished_run_is_answered_again(tmp_path: Path) -> None:
    run(plan(), played(yes), tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_rows(tmp_path)) == total() - 1
    run(plan(), played(noting(again := [])), tmp_path, resume=True)
    assert len(again) == 1
    assert len(read_rows(tmp_path)) == total()


def test_another_run_in_the_folder_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    run(plan(), played(yes), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(BadInput, match=r"already holds a run .*--resume"):
        run(plan(), played(yes), tmp_path)
    changes = {"seed": 1, "limit": 4, "repeats": 2, "temperature": 0.5, "suffix": " Hm?"}
    for name, value in changes.items():
        with pytest.raises(BadInput, match=rf"cannot be continued: .*{name} was .*, is .*{value}"):
            run(plan(**{name: value}), played(yes), tmp_path, resume=True)
    with pytest.raises(BadInput, match=r"strategies\[vcd\]"):
        run(plan(strategies=(Arm(strategy="var"),)), played(yes), tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(BadInput, match=r"holds other files, such as thesis\.tex"):
            run(plan(), played(yes), tmp_path, resume=resume)
    with pytest.raises(BadInput, match="is not a folder"):
        run(plan(), played(yes), tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is damaged"), ("[]", "is damaged"), ('{"format": 99}', "newer halu")],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        run(plan(), played(yes), tmp_path, resume=True)
    with pytest.raises(BadInput, match=message):
        read_manifest(tmp_path)


def test_a_spoilt_line_is_named(tmp_path: Path) -> None:
    run(plan(), played(yes), tmp_path)
    path = tmp_path / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "oops\n", *lines[3:]]))
    with pytest.raises(BadInput, match=r"rows\.jsonl:3: not a row"):
        run(plan(), played(yes), tmp_path, resume=True)
    with pytest.raises(BadInput, match=r"rows\.jsonl:3: not a row"):
        read_rows(tmp_path)
    path.write_text("".join([*lines, lines[0]]))
    with pytest.raises(BadInput, match=f"rows.jsonl:{len(lines) + 1}: greedy answered random/1"):
        read_rows(tmp_path)


def test_two_processes_cannot_write_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="files are not locked on this system")

    def second(request: Request) -> str:
        if (tmp_path / "rows.jsonl").exists():
            with pytest.raises(BadInput, match="Another process is writing"):
                run(plan(), played(yes), tmp_path, resume=True)
        return "Yes"

    run(plan(), played(second), tmp_path)
    assert len(read_rows(tmp_path)) == total()


def test_mistakes_before_the_first_answer_leave_no_folder(tmp_path: Path) -> None:
    def unknown(request: Request) -> str:
        raise Unknown("strategy", "vdc", ["vcd"])

    with pytest.raises(Unknown):
        run(plan(), played(unknown), tmp_path / "out")
    with pytest.raises(Unknown, match="chair-scenes"):
        run(plan(benchmarks=("chair-scene",)), played(yes), tmp_path / "out")
    with pytest.raises(BadInput, match="data folder"):
        run(plan(benchmarks=("pope",)), played(yes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValidationError):
        plan(limit=0)


def test_answers_that_do_not_match_the_requests(tmp_path: Path) -> None:
    def deaf(requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        yield from list(playing(yes)(requests))[1:]

    with pytest.raises(Failed, match=r"2 requests were sent and answers came to \[1\]"):
        run(plan(), ready(deaf), tmp_path / "out")


def test_answers_may_come_in_any_order(tmp_path: Path) -> None:
    def backwards(requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        yield from reversed(list(playing(lambda request: str(request.sampling.seed))(requests)))

    run(plan(), ready(backwards), tmp_path / "out")
    run(plan(), played(lambda request: str(request.sampling.seed)), tmp_path / "in order")
    found, expected = (
        [(row.id, row.answer) for row in read_rows(tmp_path / name)] for name in ("out", "in order")
    )
    assert found == expected


def test_differences_name_the_field(tmp_path: Path) -> None:
    run(plan(), played(yes), tmp_path)
    record = read_manifest(tmp_path)
    other = record.model_copy(update={"versions": record.versions | {"torch": "0"}, "command": "x"})
    assert differences(record, other) == [
        f'versions.torch was "{record.versions["torch"]}", is "0"'
    ]
    assert differences(record, record) == []


def test_peak_memory_is_known_here() -> None:
    peak = process_peak()
    assert peak is None or peak > 10
