"""A model in the engine of a vLLM server that somebody else runs: branches go in through vLLM's own
client, which lives in the server's event loop; whoever wants answers waits in another thread.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Condition
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError

from halu.errors import BadInput, Failed, HaluError
from halu.types import Sampling
from halu.vllm.asked import KEY
from halu.vllm.model import Heard, InEngine, params
from halu.vllm.submission import Sent, engine_input

PAUSE = 0.01
"""Seconds that a step waits for news at most, so that requests may join and leave."""


class Joined(InEngine):
    """A model in a running server's engine.

    Args:
        name: built-in name, folder, or Hugging Face id, as the server loaded it.
        client: vLLM's `EngineClient`.
        loop: the event loop in which that lives.

    Raises:
        HaluError: if halu does not know the model.
    """

    def __init__(self, name: str, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name, client.model_config, client.renderer.get_mm_processor())
        self.client = client
        self._loop = loop
        self._news = Condition(self._lock)
        self._running: dict[str, Future[None]] = {}

    def submit(self, sent: Sequence[Sent], sampling: Sampling) -> None:
        """Gives branches of one request to the engine, the main one first."""
        for each in sent:
            own = params(sampling, self.adapter.ends)
            own.extra_args = {KEY: each.asked.text()}
            prompt = engine_input(self.processor, self.adapter, each)
            with self._lock:
                self._listen(each)
                hearing = self._hear(each.name, sent[0].name, prompt, own)
                self._running[each.name] = asyncio.run_coroutine_threadsafe(hearing, self._loop)

    def step(self) -> None:
        """Waits for news, for a moment at most.

        Raises:
            Failed: if the engine is down.
        """
        with self._news:
            if not any(self._heard.values()):
                self._news.wait(PAUSE)
        if self.client.errored:
            raise Failed("vLLM's engine is down.")

    def drop(self, names: Sequence[str]) -> None:
        """Ends branches that nobody listens to any more."""
        with self._lock:
            for name in names:
                self._heard.pop(name, None)
                running = self._running.pop(name, None)
                if running is not None:
                    running.cancel()  # vLLM ends a request whose listener is cancelled

    async def _hear(self, name: str, main: str, prompt: Any, own: SamplingParams) -> None:
        """Listens to a branch; if it cannot go on, that is told to its request's main one."""
        try:
            async for found in self.client.generate(prompt, own, name):
                self._tell(name, Heard.of(found))
        except VLLMClientError as error:
            self._tell(main, BadInput(str(error)))
        except Exception as error:
            failed = Failed("vLLM gave the request up.")
            failed.__cause__ = error
            self._tell(main, failed)

    def _tell(self, name: str, news: Heard | HaluError) -> None:
        with self._news:
            if name in self._heard:
                self._heard[name].append(news)
                self._news.notify()
