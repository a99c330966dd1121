"""Counters and histograms for Prometheus, under the names that dashboards of such servers use."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from halu.tally import Tally
from halu.types import Answer

LABELS = ("model", "strategy", "backend")
KNOWN_STRATEGIES = 200
"""Most values of the label `strategy`; further combinations count as "other"."""
FIRST = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
EACH = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
WHOLE = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
CACHES = {
    "prefix_cache": (
        "Tokens of the prompts that were read, of each branch.",
        "Of these, tokens taken over from a prompt that begins alike and was read with them.",
    ),
    "mm_cache": (
        "Prompts with pictures whose features were wanted.",
        "Of these, prompts whose features were remembered, or shared with one beside them.",
    ),
}
"""What is told of the caches of this process's own engine: what was wanted, and what was there."""


class Metrics:
    """Everything that is counted; each app has its own."""

    def __init__(self, backend: str = "hf") -> None:
        self.backend = backend
        self.registry = CollectorRegistry()
        self._strategies: set[str] = set()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "halu"}

        def spread(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, LABELS, buckets=buckets, **own)

        def count(name: str, about: str, *labels: str) -> Counter:
            return Counter(name, about, labels, **own)

        self.running = Gauge("num_requests_running", "Being decoded.", **own)
        self.waiting = Gauge("num_requests_waiting", "Waiting for their turn.", **own)
        self.rows = Gauge("num_rows", "Rows that running requests may take.", **own)
        self.full = Gauge(
            "kv_cache_usage_perc",
            "num_rows, of max_rows: from 1 on no further request starts.",
            **own,
        )
        self.first_token = spread("time_to_first_token_seconds", "From arrival.", FIRST)
        self.each_token = spread("time_per_output_token_seconds", "Between tokens.", EACH)
        self.whole = spread("e2e_request_latency_seconds", "From arrival to the end.", WHOLE)
        self.queue = spread("request_queue_time_seconds", "From arrival to the turn.", WHOLE)
        self.prefill = spread("request_prefill_time_seconds", "Planning and prompts.", WHOLE)
        self.decode = spread("request_decode_time_seconds", "From the prompt to the end.", WHOLE)
        self.prompt_tokens = count("prompt_tokens", "Read.", *LABELS)
        self.generation_tokens = count("generation_tokens", "Said.", *LABELS)
        self.extra_forwards = count("extra_forward_passes", "Beyond one a token.", *LABELS)
        self._reused = {
            stem: [
                count(f"{stem}_{what}", about, "model", "backend")
                for what, about in zip(("queries", "hits"), told, strict=True)
            ]
            for stem, told in CACHES.items()
        }
        self.success = count("request_success", "Answers by end.", *LABELS, "finished_reason")
        self.failure = count("request_failure", "Ended without answer.", "reason")
        self.refusals = count("requests_refused", "By status.", "status")
        self.image_rejected = count("image_rejected", "By reason.", "reason")
        self.flagged = count("flagged_claims", "Findings.", "detector")
        self.image_fetch = Histogram("image_fetch_seconds", "Remote pictures.", **own)
        self.detector = Histogram("detector_seconds", "Of detectors.", ("detector",), **own)

    def labels(self, model: str, strategy: str) -> dict[str, str]:
        """The labels of a request; strategies beyond a bound are "other"."""
        if strategy not in self._strategies:
            if len(self._strategies) < KNOWN_STRATEGIES:
                self._strategies.add(strategy)
            else:
                strategy = "other"
        return {"model": model, "strategy": strategy, "backend": self.backend}

    def refused(self, status: int) -> None:
        """A request that was not answered."""
        self.refusals.labels(str(status)).inc()

    def answered(self, model: str, answer: Answer) -> None:
        """What an answer cost."""
        labels = self.labels(model, answer.strategy.name)
        usage = answer.usage
        self.prompt_tokens.labels(**labels).inc(usage.prompt_tokens)
        self.generation_tokens.labels(**labels).inc(usage.completion_tokens)
        self.extra_forwards.labels(**labels).inc(max(0, usage.forwards - usage.completion_tokens))
        self.success.labels(**labels, finished_reason=answer.finish_reason).inc()

    def reused(self, model: str, found: Mapping[str, Tally]) -> None:
        """What a model's caches were asked for, and what they had."""
        for stem, tally in found.items():
            if tally.queries:
                queries, hits = self._reused[stem]
                queries.labels(model, self.backend).inc(tally.queries)
                hits.labels(model, self.backend).inc(tally.hits)

    def page(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
