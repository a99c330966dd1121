"""Calls that wait; texts and prompts beside decoding, in the same forwards as the rest."""

import contextvars
import gc
import threading
from typing import Any

import pytest
import torch
from recorder import PARAMS, counted, raise_errors

from halu.adapters.cache import RowCache
from halu.decode import Decoder
from halu.engine import Local
from halu.errors import Unsupported
from halu.job import Job
from halu.task import Task
from halu.types import Answer, Request
from halu.vlm import asking

SAYING = {"vdgd": {"describe_tokens": 6}, "code": {"describe_tokens": 6}, "carve": {"max_steps": 5}}


def ids(answer: Answer | None) -> list[int]:
    assert answer is not None
    return [token.id for token in answer.tokens]


# Calls that wait


def test_a_task_and_its_starter_take_turns() -> None:
    told: list[str] = []

    def call() -> None:
        for word in ("one", "two"):
            told.append(word)
            task.wait()
        told.append("end")

    task = Task(call)
    assert told == []
    task.go()
    told.append("between")
    task.go()
    assert told == ["one", "between", "two"]
    assert not task.over
    task.go()
    assert told[-1] == "end"
    assert task.over


def test_a_task_raises_to_whoever_lets_it_go_on() -> None:
    def call() -> None:
        task.wait()
        raise ValueError("here")

    task = Task(call)
    task.go()
    with pytest.raises(ValueError, match="here"):
        task.go()
    assert task.over


@pytest.mark.parametrize("goes", [0, 1])
def test_a_closed_task_unwinds_and_its_thread_ends(goes: int) -> None:
    unwound = []

    def call() -> None:
        try:
            task.wait()
        finally:
            unwound.append(True)

    before = threading.active_count()
    task = Task(call)
    for _ in range(goes):
        task.go()
    task.close()
    task.close()
    task._thread.join(5)
    assert unwound == [True] * goes
    assert threading.active_count() == before


def test_who_waits_again_while_it_is_closed_is_told_at_once() -> None:
    unwound = []

    def call() -> None:
        try:
            task.wait()
        finally:
            try:
                task.wait()
            finally:
                unwound.append(True)

    task = Task(call)
    task.go()
    task.close()
    task._thread.join(5)
    assert unwound == [True]
    assert not task._thread.is_alive()


def test_a_task_sees_its_callers_context() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    seen: list[Any] = []
    name.set("outside")
    with torch.no_grad():
        task = Task(lambda: seen.extend([name.get(), torch.is_grad_enabled()]))
    task.go()
    assert seen == ["outside", False]


# Texts beside decoding


def wordy(vlm: Local, picture: Any, strategy: str, **own: Any) -> Request:
    params = SAYING.get(strategy, PARAMS.get(strategy))
    own = {"max_new_tokens": 5, **own}
    image = picture(60, 90, own.get("seed", 0))
    return asking(image, "Is it red?", strategy=strategy, params=params, **own)


@pytest.mark.parametrize("strategy", SAYING)
def test_others_go_on_while_a_text_is_said(strategy: str, adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    asked = [asking(picture(), "a", max_new_tokens=9), wordy(vlm, picture, strategy)]
    alone = [ids(vlm.generate([one])[0]) for one in asked]
    decoder = Decoder(vlm.adapter)
    plain, saying = decoder.add(asked)
    assert plain.planned
    assert not saying.planned
    with counted(vlm.adapter) as count:
        for done in range(1, 4):
            raise_errors(decoder.step())
            assert len(plain.seen[0]) == done
            assert not saying.planned
            assert count.tokens == done
    while decoder.jobs:
        raise_errors(decoder.step())
    assert [ids(plain.answer), ids(saying.answer)] == alone


def test_texts_of_many_requests_share_their_forwards(adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    asked = [wordy(vlm, picture, "vdgd", seed=seed) for seed in range(4)]
    costs, alone = [], []
    for one in asked:
        with counted(vlm.adapter) as cost:
            alone += vlm.generate([one])
        costs.append(cost)
    with counted(vlm.adapter) as count:
        together = vlm.generate(asked)
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
    assert [answer.usage for answer in together] == [answer.usage for answer in alone]
    assert count.tokens == max(cost.tokens for cost in costs)
    assert count.prompts == max(cost.prompts for cost in costs)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_dropping_a_job_that_still_plans_frees_it(steps: int, adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    asked = asking(picture(), "a", max_new_tokens=9)
    threads = threading.active_count()
    decoder = Decoder(vlm.adapter)
    first, saying, last = decoder.add([asked, wordy(vlm, picture, "code"), asked])
    for _ in range(steps):
        raise_errors(decoder.step())
    assert decoder.cache.rows == 3
    assert decoder.width == 3
    decoder.drop(saying)
    assert decoder.jobs == [first, last]
    assert decoder.cache.rows == 2
    while decoder.jobs:
        raise_errors(decoder.step())
    assert ids(first.answer) == ids(last.answer) == ids(vlm.generate([asked])[0])
    assert saying.answer is None
    assert threading.active_count() == threads


def test_a_decoder_that_nobody_closes_leaves_no_thread(adapter: Any, picture: Any) -> None:
    vlm, threads = Local(adapter("llava")), threading.active_count()
    decoder = Decoder(vlm.adapter)
    (job,) = decoder.add([wordy(vlm, picture, "code")])
    thread = job.task._thread
    assert thread.is_alive()
    del decoder, job
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert threading.active_count() == threads


def test_closing_a_stream_that_still_plans_frees_everything(adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))

    def held() -> int:
        gc.collect()
        return sum(type(thing) in (RowCache, Job) for thing in gc.get_objects())

    before, threads = held(), threading.active_count()
    decoder = Decoder(vlm.adapter)
    decoder.add([wordy(vlm, picture, "carve")])
    assert held() > before
    decoder.close()
    decoder.close()
    assert decoder.jobs == []
    del decoder
    assert held() == before
    assert threading.active_count() == threads


def test_a_text_that_fails_ends_its_request_alone(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halu.decoders.vdgd import Nearness

    heard = []

    def hear(self: Any, row: Any) -> None:
        heard.append(row)
        if len(heard) == 3:
            raise ZeroDivisionError("here")

    vlm = Local(adapter("llava"))
    asked = asking(picture(), "a", max_new_tokens=9)
    decoder = Decoder(vlm.adapter)
    with monkeypatch.context() as patch:
        patch.setattr(Nearness, "hear", hear)
        plain, saying = decoder.add([asked, wordy(vlm, picture, "vdgd")])
        told = [decoder.step() for _ in range(3)]
    assert [isinstance(e, Exception) for events in told for _, e in events] == [False] * 3 + [True]
    assert told[-1][-1][0] is saying
    assert isinstance(saying.error, ZeroDivisionError)
    assert decoder.jobs == [plain]
    while decoder.jobs:
        raise_errors(decoder.step())
    assert ids(plain.answer) == ids(vlm.generate([asked])[0])


def test_planning_that_fails_after_a_text_is_told_by_step(adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    params = {**SAYING["vdgd"], "prefix": "<image>"}  # the answer's prompt cannot be encoded
    bad = asking(picture(), "a", strategy="vdgd", params=params)
    good = asking(picture(), "a", max_new_tokens=3)
    decoder = Decoder(vlm.adapter)
    saying, plain = decoder.add([bad, good])
    errors = []
    while decoder.jobs:
        errors += [(job, e) for job, e in decoder.step() if isinstance(e, Exception)]
    ((job, error),) = errors
    assert job is saying
    assert "<image>" in str(error)
    assert ids(plain.answer) == ids(vlm.generate([good])[0])
    with pytest.raises(type(error)):
        vlm.generate([bad])


def test_planning_that_fails_after_a_prompt_is_told_by_add(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halu import job

    def refused(plan: Any, branch: Any) -> Any:
        raise Unsupported("not so")

    vlm = Local(adapter("llava"))
    decoder = Decoder(vlm.adapter)
    (plain,) = decoder.add([asking(picture(), "a", max_new_tokens=3)])
    asked = asking(picture(), "a", strategy="ara", params=PARAMS["ara"])
    monkeypatch.setattr(job, "steered", refused)
    with pytest.raises(Unsupported, match="not so"):
        decoder.add([asking(picture(), "a"), asked])
    assert decoder.jobs == [plain]
    assert decoder.cache.rows == 1
