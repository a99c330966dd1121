"""What a run is to do (`Plan`), and the record of what it did it with (`Manifest`).

The manifest is written beside the rows. Two runs may be continued one by the other only if
everything in it that can change an answer is the same; `differences` names what is not.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from halu.eval.benchmark import Benchmark, Sample, doubts_of
from halu.types import Record, Sampling

FORMAT = 2
"""Of the files in a run's folder; raised when another halu could not read them."""

GREEDY, SAMPLE = "greedy", "sample"
Half = Literal["tuning", "held-out"]

_DISTRIBUTIONS = ("halu", "torch", "transformers", "tokenizers", "numpy", "pillow")
_FREE = frozenset({"command", "data", "batch_size", "workers"})
"""Fields of a manifest that cannot change an answer, but for rounding: who runs out of memory must
be able to go on with smaller batches."""


class Source(Record):
    """A model and how it is reached. What is not known of it stays None."""

    name: str
    backend: str = Field("hf", description="hf, vllm, or the URL of an OpenAI-compatible server.")
    device: str | None = None
    dtype: str | None = None
    weights: str | None = Field(None, description="Fingerprint of the weights; see `halu.weights`.")

    @property
    def tells_evidence(self) -> bool:
        """Whether answers can carry what was known when each token was chosen."""
        return self.backend == "hf"

    @property
    def label(self) -> str:
        """Name it apart from the other models of a run."""
        return self.name if self.backend == "hf" else f"{self.name} over {self.backend}"


class Arm(Record):
    """A strategy with the parameters that were asked for."""

    strategy: str
    params: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name it apart from the other arms of a run: "vcd", or "vcd(alpha=0.5)"."""
        asked = ", ".join(f"{key}={self.params[key]}" for key in sorted(self.params))
        return f"{self.strategy}({asked})" if asked else self.strategy


class Plan(Record):
    """A run: every strategy answers every sample of every benchmark, plain decoding first."""

    models: tuple[Source, ...] = Field(min_length=1)
    benchmarks: tuple[str, ...] = Field(min_length=1)
    strategies: tuple[Arm, ...] = ()
    detectors: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Who checks every answer: names with parameters."
    )
    data: Path | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = Field(None, ge=1, description="Samples of each split; none means all.")
    seed: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1, description="Answers to each question, with seeds of their own.")
    batch_size: int = Field(1, ge=1)
    workers: int = Field(1, ge=1, description="Batches that are answered at the same time.")
    max_new_tokens: int | None = Field(None, ge=1, description="None takes the benchmark's own.")
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    suffix: str | None = Field(None, description="After each question; none means the benchmark's.")
    half: Half | None = Field(None, description="Only samples of this half of the pictures.")
    rules: str | None = Field(None, description="What reads answers; None means the benchmark's.")
    judge: str | None = Field(None, description="Model and URL that score open answers.")
    command: str = ""

    @field_validator("models")
    @classmethod
    def _told_apart(cls, models: tuple[Source, ...]) -> tuple[Source, ...]:
        labels = [source.label for source in models]
        if len(set(labels)) < len(labels):
            raise ValueError("the same model twice")
        return models

    def arms(self) -> tuple[Arm, ...]:
        """List the strategies without repetitions, plain decoding first, added if not named.

        Plain decoding takes the best token, or samples where the run has a temperature: a strategy
        is compared with what it does nothing else to.
        """
        plain = SAMPLE if self.temperature else GREEDY
        asked = {arm.label: arm for arm in self.strategies}
        baseline = asked.pop(plain, Arm(strategy=plain))
        return (baseline, *asked.values())


class Suite(Record):
    """A benchmark as it took part: which samples, how they were asked and read."""

    name: str
    version: int
    rules: str
    builtin: bool
    suffix: str
    max_new_tokens: int
    splits: tuple[str, ...]
    samples: int
    images: int
    digest: str = Field(description="Start of SHA-256 over ids, pictures, questions, labels.")
    images_digest: str = Field(description="Start of SHA-256 over the list of picture ids.")
    doubts: tuple[str, ...] = Field((), description="What is not as published.")


class Manifest(Record):
    """`run.json`. `sampling` holds every decoding value that all answers share.

    The first of `strategies` is plain decoding, the baseline.
    """

    format: int = FORMAT
    models: tuple[Source, ...]
    benchmarks: tuple[Suite, ...]
    strategies: tuple[Arm, ...]
    detectors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seed: int
    repeats: int
    limit: int | None
    half: Half | None
    sampling: dict[str, Any]
    judge: str | None
    data: str | None
    batch_size: int
    workers: int
    command: str
    versions: dict[str, str]

    @property
    def baseline(self) -> str:
        """Label of plain decoding in this run."""
        return self.strategies[0].label


def half_of(sample: Sample) -> Half:
    """Tell to which half of the pictures a sample belongs; all questions about one go together."""
    together = sample.cluster or sample.image or sample.id
    first = hashlib.sha256(together.encode()).digest()[0]
    return "tuning" if first % 2 else "held-out"


def suite(benchmark: Benchmark, samples: Sequence[Sample], plan: Plan) -> Suite:
    """Record how a benchmark takes part in a run."""
    told = [[*_told(sample)] for sample in samples]
    images = image_ids(samples)
    return Suite(
        name=benchmark.name,
        version=benchmark.version,
        rules=benchmark.rules,
        builtin=benchmark.builtin,
        suffix=benchmark.suffix if plan.suffix is None else plan.suffix,
        max_new_tokens=plan.max_new_tokens or benchmark.max_new_tokens,
        splits=tuple(dict.fromkeys(sample.split for sample in samples)),
        samples=len(samples),
        images=len(images),
        digest=_digest(json.dumps(told)),
        images_digest=_digest("\n".join(images)),
        doubts=doubts_of(benchmark, samples),
    )


def _told(sample: Sample) -> Iterator[object]:
    """All of a sample that an answer or its score depends on, as far as it is text."""
    yield from (sample.id, sample.split, sample.image, sample.prompt, sample.label)
    yield from (sample.category, sample.cluster)
    yield sample.detail if isinstance(sample.detail, str) else None


def image_ids(samples: Sequence[Sample]) -> list[str]:
    """List the pictures of samples once each, in order."""
    return list(dict.fromkeys(s.image for s in samples if s.image is not None))


def sampling(plan: Plan, benchmark: Benchmark, seed: int) -> Sampling:
    """How a benchmark's answers are decoded in a run."""
    return Sampling(
        temperature=plan.temperature,
        top_p=plan.top_p,
        max_new_tokens=plan.max_new_tokens or benchmark.max_new_tokens,
        seed=seed,
    )


def manifest(plan: Plan, suites: Sequence[Suite]) -> Manifest:
    """Record a run before it starts."""
    return Manifest(
        models=plan.models,
        benchmarks=tuple(suites),
        strategies=plan.arms(),
        detectors=plan.detectors,
        seed=plan.seed,
        repeats=plan.repeats,
        limit=plan.limit,
        half=plan.half,
        sampling=Sampling(temperature=plan.temperature, top_p=plan.top_p).model_dump(
            exclude={"seed", "max_new_tokens"}
        ),
        judge=plan.judge,
        data=None if plan.data is None else str(plan.data),
        batch_size=plan.batch_size,
        workers=plan.workers,
        command=plan.command,
        versions=versions(),
    )


def differences(then: Manifest, now: Manifest) -> list[str]:
    """Say what differs between two runs that may change an answer: "seed was 0, is 1"."""
    old, new = (made.model_dump(mode="json", exclude=set(_FREE)) for made in (then, now))
    found = list(_differences("", old, new))
    # A digest differs because something else does, which says more.
    return [told for told in found if "digest was" not in told] or found


def _differences(path: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _differences(f"{path}.{key}".lstrip("."), then.get(key), now.get(key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (old, new) in enumerate(zip(then, now, strict=True)):
            name = old.get("name", old.get("strategy", number)) if isinstance(old, dict) else number
            yield from _differences(f"{path}[{name}]", old, new)
    elif then != now and not (then is None and path.endswith(".weights")):
        # A hub model's weights are not known before its first run has fetched them.
        yield f"{path} was {json.dumps(then)}, is {json.dumps(now)}"


def versions() -> dict[str, str]:
    """What computes the answers: Python and the libraries, by name."""
    return {"python": platform.python_version()} | dict(_versions())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _versions() -> Iterator[tuple[str, str]]:
    for name in _DISTRIBUTIONS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
