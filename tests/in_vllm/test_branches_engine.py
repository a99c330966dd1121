"""What ends another branch of a request reaches whoever asked, by the main one."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm_requests import request

from halu.errors import BadInput, Failed, HaluError
from halu.vllm.joined import Joined
from halu.vllm.part import INTERRUPTED


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, as a server has one."""
    found = asyncio.new_event_loop()
    thread = threading.Thread(target=found.run_forever)
    thread.start()
    yield found
    found.call_soon_threadsafe(found.stop)
    thread.join()
    found.close()


@pytest.mark.parametrize(
    ("raised", "kind", "word"),
    [
        (VLLMValidationError("too many branches"), BadInput, "too many branches"),
        (RuntimeError("a secret"), Failed, "gave the request up"),
    ],
)
def test_a_refusal_of_another_branch_is_told_to_the_main_one(
    serve: Any, loop: Any, raised: Exception, kind: type[HaluError], word: str
) -> None:
    engine = serve("tiny-llava").engine

    async def generate(prompt: Any, own: Any, name: str) -> AsyncIterator[Any]:
        if name.endswith("-ruined"):
            raise raised
        await asyncio.sleep(600)
        yield

    client = SimpleNamespace(
        model_config=engine.model_config, renderer=engine.renderer, generate=generate, errored=False
    )
    batch = Joined("tiny-llava", client, loop).batch()
    batch.add([request("vcd")])
    told: list[Any] = []
    until = time.monotonic() + 50
    while not told:
        assert time.monotonic() < until
        told += [event for _, event in batch.step()]
    assert isinstance(told[0], kind)
    assert word in str(told[0])
    assert not batch.jobs


def test_who_follows_a_partner_is_told_its_reason(serve: Any, stock: Any) -> None:
    """A request whose other branch was interrupted is made again."""
    vlm = serve("tiny-llava")
    scheduler = vlm.engine.engine_core.engine_core.scheduler
    (expected,) = stock("tiny-llava").generate([request("vcd", tokens=8)])
    batch = vlm.batch()
    batch.add([request("vcd", tokens=8)])
    told = [event for _ in range(3) for _, event in batch.step()]
    (other,) = [name for name in scheduler.requests if "-ruined" in name]
    scheduler.halu_failed[other] = f"{INTERRUPTED}: its memory was given to others."
    until = time.monotonic() + 120
    while batch.jobs:
        assert time.monotonic() < until
        told += [event for _, event in batch.step()]
    assert told[-1].answer.text == expected.text
    assert told[-1].answer.usage.forwards > expected.usage.forwards
