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

from pydantic import Field

from halu.eval.benchmark import Benchmark, Sample
from halu.types import Record

FORMAT = 1
"""Of the files in a run's folder; raised when an older halu could not read them."""

BASELINE = "greedy"
Half = Literal["tuning", "held-out"]

_DISTRIBUTIONS = ("halu", "torch", "transformers", "tokenizers", "numpy", "pillow")
_FREE = frozenset({"command", "data", "batch_size"})
"""Fields of a manifest that cannot change an answer."""


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

    model: str
    benchmarks: tuple[str, ...] = Field(min_length=1)
    strategies: tuple[Arm, ...] = ()
    data: Path | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = Field(None, ge=1, description="Samples of each split; none means all.")
    seed: int = Field(0, ge=0)
    batch_size: int = Field(1, ge=1)
    max_new_tokens: int | None = Field(None, ge=1, description="None takes the benchmark's own.")
    temperature: float | None = Field(None, ge=0, le=5)
    suffix: str | None = Field(None, description="After each question; none means the benchmark's.")
    half: Half | None = Field(None, description="Only samples of this half of the pictures.")
    backend: str = "hf"
    command: str = ""

    def arms(self) -> tuple[Arm, ...]:
        """List the strategies without repetitions, plain decoding first, added if not named."""
        asked = {arm.label: arm for arm in self.strategies}
        baseline = asked.pop(BASELINE, Arm(strategy=BASELINE))
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


class Manifest(Record):
    """`run.json`."""

    format: int = FORMAT
    model: str
    backend: str
    benchmarks: tuple[Suite, ...]
    strategies: tuple[Arm, ...]
    seed: int
    limit: int | None
    temperature: float | None
    data: str | None
    batch_size: int
    command: str
    versions: dict[str, str]


def half_of(sample: Sample) -> Half:
    """Tell to which half of the pictures a sample belongs; all questions about one go together."""
    first = hashlib.sha256((sample.image or sample.id).encode()).digest()[0]
    return "tuning" if first % 2 else "held-out"


def suite(benchmark: Benchmark, samples: Sequence[Sample], plan: Plan) -> Suite:
    """Record how a benchmark takes part in a run."""
    told = [[s.id, s.split, s.image, s.prompt, s.label] for s in samples]
    return Suite(
        name=benchmark.name,
        version=benchmark.version,
        rules=benchmark.rules,
        builtin=benchmark.builtin,
        suffix=benchmark.suffix if plan.suffix is None else plan.suffix,
        max_new_tokens=plan.max_new_tokens or benchmark.max_new_tokens,
        splits=tuple(dict.fromkeys(sample.split for sample in samples)),
        samples=len(samples),
        images=len({sample.image for sample in samples}),
        digest=hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16],
    )


def manifest(plan: Plan, suites: Sequence[Suite]) -> Manifest:
    """Record a run before it starts."""
    return Manifest(
        model=plan.model,
        backend=plan.backend,
        benchmarks=tuple(suites),
        strategies=plan.arms(),
        seed=plan.seed,
        limit=plan.limit,
        temperature=plan.temperature,
        data=None if plan.data is None else str(plan.data),
        batch_size=plan.batch_size,
        command=plan.command,
        versions={"python": platform.python_version()} | dict(_versions()),
    )


def differences(then: Manifest, now: Manifest) -> list[str]:
    """Say what differs between two runs that may change an answer: "seed was 0, is 1"."""
    old, new = (made.model_dump(mode="json", exclude=set(_FREE)) for made in (then, now))
    return list(_differences("", old, new))


def _differences(path: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _differences(f"{path}.{key}".lstrip("."), then.get(key), now.get(key))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, (old, new) in enumerate(zip(then, now, strict=True)):
            name = old.get("name", old.get("strategy", number)) if isinstance(old, dict) else number
            yield from _differences(f"{path}[{name}]", old, new)
    elif then != now:
        yield f"{path} was {json.dumps(then)}, is {json.dumps(now)}"


def _versions() -> Iterator[tuple[str, str]]:
    for name in _DISTRIBUTIONS:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
