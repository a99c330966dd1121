"""The worker's thread: whose fault an error is, whose turn it is, what is told of it, and what it
does while nothing runs.
"""

import json
import logging
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

pytest.importorskip("prometheus_client")

from live import chat, live, until

from halu.errors import Failed
from halu.service.shelf import Load
from halu.types import Request, question

DESCRIBE = "Please describe this image in detail."
QUESTION = "Is there a dog in the image?"
TWO = ("tiny-llava", "tiny-qwen")
ROOM_FOR_ONE = 0.025


def changed(name: str, call: Callable[..., Any]) -> Load:
    """Loads models whose runner does something first whenever it does `name`."""

    def load(source: str, device: str | None) -> Any:
        import halu

        vlm = halu.load(source, device=device)
        usual = getattr(vlm.adapter.runner, name)

        def first(*args: Any, **kwargs: Any) -> Any:
            call()
            return usual(*args, **kwargs)

        setattr(vlm.adapter.runner, name, first)
        return vlm

    return load


def failing(broken: list[bool]) -> Callable[[], None]:
    def call() -> None:
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access at 0x7f3a2c")

    return call


def about(model: str, *parts: Any, **more: Any) -> dict[str, Any]:
    return {**chat(*parts, **more), "model": model}


def the_worker(server: Any) -> Any:
    (worker,) = server.site.workers.values()
    return worker


# Whose fault an error is


def test_a_device_that_cannot_read_prompts_is_given_up(scene: Any) -> None:
    broken: list[bool] = []
    with live(changed("read", failing(broken))) as server:

        def statuses(count: int) -> list[int]:
            return [server.chat(scene, QUESTION, max_tokens=3).status_code for _ in range(count)]

        for _ in range(2):  # what comes back in time is not given up
            broken.append(True)
            assert statuses(2) == [500, 500]
            broken.clear()
            assert statuses(1) == [200]
        broken.append(True)
        assert statuses(3) == [500] * 3
        until(lambda: server.get("/ready").status_code == 503)
        assert server.get("/ready").json() == {"status": "engine down"}
        assert server.get("/health").status_code == 503


def test_a_strategy_that_fails_gives_no_device_up(scene: Any, monkeypatch: Any) -> None:
    from halu.decoders.vcd import VCD

    def broken(self: Any, ctx: Any) -> Any:
        raise RuntimeError("a bug of its own")

    monkeypatch.setattr(VCD, "plan", broken)
    with live() as server:
        for _ in range(10):
            assert server.chat(scene, QUESTION, halu={"strategy": "vcd"}).status_code == 500
        assert server.get("/ready").json() == {"status": "ok"}
        assert server.chat(scene, QUESTION, max_tokens=3).status_code == 200


def test_a_task_handed_in_while_the_device_is_given_up_is_told() -> None:
    from halu.service.metrics import Metrics
    from halu.service.shelf import Shelf
    from halu.service.tasks import Task
    from halu.service.worker import Worker

    def shelf(ready: Callable[[], None]) -> Shelf:
        return Shelf([], changed("step", lambda: None), None, ready)

    worker = Worker(shelf, Metrics(), max_rows=1, max_rows_per_request=1)
    heard: list[Any] = []
    task = Task(Request(messages=question("Hello?")), "model", "tenant", heard.append)

    def submit() -> None:
        try:
            worker.submit(task)
        except Failed as error:
            heard.append(error)

    thread = threading.Thread(target=submit)
    with worker.waiting._news:
        thread.start()
        time.sleep(0.1)  # it comes as far as the lock
        worker._give_up()
    thread.join()
    assert [str(one) for one in heard] == ["The engine is down."]


# The log


@pytest.mark.parametrize("part", ["read", "step"])
def test_what_fails_is_logged_with_the_requests_id(part: str, scene: Any, caplog: Any) -> None:
    from halu.service.logs import JsonLines

    broken = [True]
    with live(changed(part, failing(broken))) as server:
        httpx2.post(
            f"{server.url}/v1/chat/completions",
            json=chat(scene, QUESTION),
            headers={"x-request-id": "mine-7"},
            timeout=60,
            trust_env=False,
        )
    records = [one for one in caplog.records if one.levelno == logging.ERROR]
    lines = {one["event"]: one for one in map(json.loads, map(JsonLines().format, records))}
    assert lines["request failed"]["request_id"] == "mine-7"
    assert (part == "step") == ("step failed" in lines)
    if part == "step":
        assert lines["step failed"]["request_ids"] == ["mine-7"]


# Whose turn it is


def test_a_model_that_is_always_asked_makes_room_for_another(scene: Any) -> None:
    """No step is taken before all three clients of the first model are in, so that one of them
    always runs when another has ended.
    """
    done = threading.Event()
    servers: list[Any] = []

    def all_in() -> bool:
        worker = the_worker(servers[0])
        wait = [task for task in worker.waiting if task.model == "tiny-llava"]
        lane = worker.lanes.get("tiny-llava")  # none once the model is put away
        return done.is_set() or len(wait) + (len(lane.tasks) if lane else 0) == 3

    held = changed("step", lambda: until(all_in))
    with live(held, models=TWO, memory_gib=ROOM_FOR_ONE, deadline_seconds=50) as server:
        servers.append(server)

        def keep_asking() -> set[int]:
            seen = set()
            while not done.is_set():
                seen.add(server.chat(scene, DESCRIBE, max_tokens=12).status_code)
            return seen

        with ThreadPoolExecutor(3) as pool:
            busy = [pool.submit(keep_asking) for _ in range(3)]
            try:
                until(lambda: the_worker(server).running == 3)
                body = about("tiny-qwen", scene, QUESTION, max_tokens=1)
                reply = server.post("/v1/chat/completions", **body)
            finally:
                done.set()
        assert reply.status_code == 200, reply.text
        assert [one.result() for one in busy] == [{200}] * 3


def test_while_models_change_places_the_server_is_ready(scene: Any) -> None:
    import halu

    gate = threading.Event()

    def load(source: str, device: str | None) -> Any:
        if source == "tiny-qwen":
            assert gate.wait(60)
        return halu.load(source, device=device)

    with live(load, models=TWO, memory_gib=ROOM_FOR_ONE) as server, ThreadPoolExecutor(1) as pool:
        body = about("tiny-qwen", scene, QUESTION, max_tokens=2)
        asked = pool.submit(server.post, "/v1/chat/completions", **body)
        until(lambda: the_worker(server).shelf.loading)
        assert not the_worker(server).shelf.loaded
        ready = server.get("/ready")
        gate.set()
        assert ready.json() == {"status": "ok"}
        assert asked.result().status_code == 200


def test_who_waits_for_the_last_row_gets_it(scene: Any) -> None:
    with live(max_rows=1, deadline_seconds=60) as server, ThreadPoolExecutor(4) as pool:
        each = [pool.submit(server.chat, scene, QUESTION, max_tokens=4) for _ in range(4)]
        assert [one.result().status_code for one in each] == [200] * 4


# The gauges


def test_gauges_are_of_all_devices_together(scene: Any) -> None:
    gate = threading.Event()

    def wait() -> None:
        assert gate.wait(60)

    options = {"models": TWO, "device": ("cpu", "cpu:0"), "max_rows": 4}
    with live(changed("step", wait), **options) as server, ThreadPoolExecutor(2) as pool:

        def value(name: str) -> float:
            found = server.site.metrics.registry.get_sample_value(f"halu_{name}")
            assert found is not None
            return float(found)

        body = {"max_tokens": 2, "halu": {"strategy": "vcd"}}
        each = [
            pool.submit(server.post, "/v1/chat/completions", **about(name, scene, QUESTION, **body))
            for name in TWO
        ]
        try:
            until(lambda: value("num_requests_running") == 2)
            assert value("num_rows") == 4
            assert value("kv_cache_usage_perc") == 0.5
            assert value("num_requests_waiting") == 0
        finally:
            gate.set()
        assert [one.result().status_code for one in each] == [200, 200]
        until(lambda: value("kv_cache_usage_perc") == 0)


# Memory


def test_an_idle_device_gives_memory_back_now_and_then(scene: Any, monkeypatch: Any) -> None:
    from halu.service import trim

    monkeypatch.setattr(trim, "PAUSE_SECONDS", 1000.0)
    calls: list[int] = []
    with live() as server:
        worker = the_worker(server)
        worker.trim = trim.Trim(lambda: calls.append(worker.running))
        for _ in range(3):
            assert server.chat(scene, QUESTION, max_tokens=2).status_code == 200
        until(lambda: calls)
        assert calls == [0]
        monkeypatch.setattr(trim, "PAUSE_SECONDS", 0.0)
        worker.trim = trim.Trim(worker.trim._trim)
        assert server.chat(scene, QUESTION, max_tokens=2).status_code == 200
        until(lambda: len(calls) > 1)
        assert set(calls) == {0}


def test_a_device_that_never_rests_gives_memory_back_too(scene: Any, monkeypatch: Any) -> None:
    from halu.service import trim

    monkeypatch.setattr(trim, "PAUSE_SECONDS", 1000.0)
    monkeypatch.setattr(trim, "BUSY_SECONDS", -2000.0)
    calls: list[int] = []
    with live() as server:
        worker = the_worker(server)
        busy = trim.Trim(lambda: calls.append(worker.running))
        busy()  # so that it is not due while nothing runs
        worker.trim = busy
        assert server.chat(scene, QUESTION, max_tokens=4).status_code == 200
        assert 1 in calls


def test_where_memory_cannot_be_given_back_nothing_is_done(monkeypatch: Any) -> None:
    import ctypes

    from halu.service.trim import of_glibc

    if platform.libc_ver()[0] == "glibc":
        assert of_glibc()() in (0, 1)
    for error in (AttributeError, OSError, TypeError):

        def none(name: Any, error: type[Exception] = error) -> Any:
            raise error

        monkeypatch.setattr(ctypes, "CDLL", none)
        assert of_glibc()() is None


@pytest.mark.parametrize(("mib", "most"), [(0, 0), (0.1, 2)])
def test_remembered_pictures_have_a_bound(picture: Any, mib: float, most: int) -> None:
    with live(feature_cache_mib=mib) as server:
        vision = the_worker(server).shelf.loaded["tiny-llava"].adapter.runner.vision
        for seed in (1, 2, 3, 3):
            shown = picture(112, 112, seed)
            assert server.chat(shown, QUESTION, max_tokens=1).status_code == 200
            kept = list(vision._kept.values())
            assert sum(one.size for one in kept) <= mib * 2**20
        assert len(kept) == most
        text = server.get("/metrics").text
    labels = '{backend="hf",model="tiny-llava"}'
    assert f"halu_mm_cache_queries_total{labels} 4.0" in text
    assert f"halu_mm_cache_hits_total{labels} {1.0 if mib else 0.0}" in text


def test_the_usual_bound_is_the_engines() -> None:
    from halu.adapters.vision import KEPT_BYTES
    from halu.service.settings import Settings

    assert Settings.model_fields["feature_cache_mib"].default * 2**20 == KEPT_BYTES
