"""A judge: a model behind any OpenAI-compatible endpoint that rates answers, for some benchmarks.

It is asked at temperature 0, a few questions at a time, and each answer is kept in a folder under
a hash of everything that was sent, so that scoring again costs nothing and gives the same figures.
What is asked, and how a rating is read out of the reply, is up to the benchmark.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from halu.endpoint import Endpoint, data_uri
from halu.errors import BadInput, HaluError
from halu.eval.benchmark import Benchmark, Sample, Score

KEY = "HALU_JUDGE_KEY"
"""Environment variable with the endpoint's key; servers of one's own need none."""

PARALLEL = 8
RETRIES = 5
TIMEOUT = 120.0
MAX_TOKENS = 1024


class Judge:
    """One model of one endpoint. Safe to use from several threads.

    Args:
        url: base URL, such as "http://localhost:8000/v1".
        model: name of the model there.
        cache: folder that keeps answers; None keeps nothing.
        key: environment variable that holds the key.
        parallel: questions on their way at once.
        retries: repeats after a refused, failed or timed-out request, with growing pauses.

    Raises:
        Unavailable: if the extra `eval` is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        cache: Path | None = None,
        key: str = KEY,
        parallel: int = PARALLEL,
        retries: int = RETRIES,
    ) -> None:
        self.endpoint = Endpoint(url, key=key, who="judge", retries=retries, seconds=TIMEOUT)
        self.model = model
        self.cache = cache
        self._free = threading.BoundedSemaphore(parallel)

    def ask(self, prompt: str, picture: Image.Image | None = None) -> str:
        """Return the judge's reply, from the cache if it answered this before.

        Raises:
            Failed: if the endpoint does not answer, or refuses.
        """
        sent = self._request(prompt, picture)
        place = self._place(sent)
        if place is not None and place.exists():
            return _kept(place)
        with self._free:
            reply = self._reply(sent)
        if place is not None and reply:  # an empty one may be a mishap: ask again another time
            _keep(
                place,
                {"url": self.endpoint.url, "model": self.model, "prompt": prompt, "reply": reply},
            )
        return reply

    def _request(self, prompt: str, picture: Image.Image | None) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if picture is not None:
            content.append({"type": "image_url", "image_url": {"url": data_uri(picture)}})
        asked = prompt if picture is None else content
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }

    def _place(self, sent: dict[str, Any]) -> Path | None:
        if self.cache is None:
            return None
        told = json.dumps([self.endpoint.url, sent], sort_keys=True)
        return self.cache / f"{hashlib.sha256(told.encode()).hexdigest()}.json"

    def _reply(self, sent: dict[str, Any]) -> str:
        return str(self.endpoint.complete(**sent).choices[0].message.content or "")


@runtime_checkable
class Judged(Protocol):
    """What a benchmark that is `judged` has besides."""

    def with_judge(self, judge: Judge) -> Benchmark:
        """Return the same benchmark, scored by this judge, whose name joins `rules`."""


def seated(benchmark: Benchmark, judge: Judge | None) -> Benchmark:
    """Give a benchmark its judge if it needs one; others are returned as they are.

    Raises:
        BadInput: if it needs one and there is none.
    """
    if not benchmark.judged:
        return benchmark
    if judge is None or not isinstance(benchmark, Judged):
        raise no_judge(benchmark.name)
    return benchmark.with_judge(judge)


def no_judge(name: str) -> HaluError:
    """Make the error of a benchmark that is asked to score without its judge."""
    return BadInput(
        f"Benchmark {name!r} is scored by a judge model, and none was given.",
        hint=f"Name an OpenAI-compatible endpoint with --judge URL; its key is read from {KEY}.",
        param="judge",
    )


def score_all(benchmark: Benchmark, samples: Sequence[Sample], texts: Sequence[str]) -> list[Score]:
    """Score answers in order; where a judge does it, several at a time."""
    if not benchmark.judged:
        return [benchmark.score(*each) for each in zip(samples, texts, strict=True)]
    with ThreadPoolExecutor(PARALLEL) as pool:  # the judge itself bounds what is on its way
        return list(pool.map(benchmark.score, samples, texts))


def _kept(place: Path) -> str:
    try:
        return str(json.loads(place.read_text("utf-8"))["reply"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place} is not a judge's answer.", hint="Delete it.") from error


def _keep(place: Path, told: dict[str, str]) -> None:
    """Write whole or not at all, whatever other threads do."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    partial.write_text(json.dumps(told), "utf-8")
    os.replace(partial, place)
