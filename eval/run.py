"""The runner: every strategy answers the same samples, and each answer becomes a row.

It is given a `Generate` and does not know what is behind it: a model in this process, or a client
of a server. Samples are walked in batches and each batch is answered by all strategies in turn, so
that a run stopped early still compares like with like. Statistics and pages are made from the rows,
by `report`.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from halu.errors import BadInput, Failed
from halu.eval.benchmark import Benchmark, Sample, benchmarks
from halu.eval.plan import BASELINE, Arm, Plan, half_of, manifest, suite
from halu.eval.store import Key, Row, Store
from halu.types import Answer, Generate, Request, Sampling, question

Memory = Callable[[], float | None]
"""Peak memory so far in MB, or None where it cannot be known."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` answers, and what is being answered."""

    done: int
    total: int
    benchmark: str
    strategy: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one benchmark that one strategy is to answer together."""

    benchmark: Benchmark
    arm: Arm
    samples: tuple[Sample, ...]
    cold: bool


def run(
    plan: Plan,
    generate: Generate,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    memory: Memory | None = None,
) -> None:
    """Answer and score everything in `plan`, into the folder `out`.

    Args:
        plan: what to run; plain decoding is added as the baseline.
        generate: answers a batch of requests.
        out: a new or empty folder, or with `resume` one that holds the same run unfinished.
        resume: continue; rows that are there are not answered again.
        progress: told at the start and after every batch.
        memory: asked after every batch, may start counting anew; else this process's peak.

    Raises:
        BadInput: before any question is asked, if data or folder cannot be used.
    """
    chosen = [benchmarks.get(name) for name in dict.fromkeys(plan.benchmarks)]
    work = [(b, samples_of(b, plan)) for b in chosen]
    record = manifest(plan, [suite(benchmark, samples, plan) for benchmark, samples in work])
    total = sum(len(samples) for _, samples in work) * len(plan.arms())
    with Store.open(out, record, resume) as store:
        if progress:
            progress(Progress(len(store.done), total, chosen[0].name, BASELINE))
        for benchmark, samples in work:
            for batch in _batches(benchmark, samples, plan, store.done):
                store.append(_answered(batch, plan, generate, memory or process_peak))
                if progress:
                    progress(Progress(len(store.done), total, benchmark.name, batch.arm.label))


def samples_of(benchmark: Benchmark, plan: Plan) -> list[Sample]:
    """List a benchmark's samples in a run.

    Raises:
        BadInput: if none is left.
    """
    found = benchmark.samples(plan.data, plan.limit, plan.seed, plan.splits)
    if plan.half is not None:
        found = [sample for sample in found if half_of(sample) == plan.half]
    if not found:
        raise BadInput(f"Benchmark {benchmark.name!r} has no such samples.")
    return found


def rows_of(
    benchmark: Benchmark, samples: Sequence[Sample], arm: Arm, plan: Plan, generate: Generate
) -> list[Row]:
    """Answer and score samples under one strategy, and keep nothing."""
    found: list[Row] = []
    for start in range(0, len(samples), plan.batch_size):
        some = tuple(samples[start : start + plan.batch_size])
        found += _answered(Batch(benchmark, arm, some, False), plan, generate, process_peak)
    return found


def process_peak() -> float | None:
    """Peak resident memory of this process in MB; never falls, so later strategies inherit it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def _batches(
    benchmark: Benchmark, samples: Sequence[Sample], plan: Plan, done: set[Key]
) -> Iterator[Batch]:
    """Cut batches without what is done, each for every strategy before the next."""
    warm: set[str] = set()
    for start in range(0, len(samples), plan.batch_size):
        for arm in plan.arms():
            some = samples[start : start + plan.batch_size]
            todo = tuple(s for s in some if Key(benchmark.name, s.id, arm.label) not in done)
            if todo:
                yield Batch(benchmark, arm, todo, cold=arm.label not in warm)
                warm.add(arm.label)


def _answered(batch: Batch, plan: Plan, generate: Generate, memory: Memory) -> list[Row]:
    """Ask a batch and score its answers; its time is shared out equally."""
    pictures: dict[str | None, Image.Image] = {
        sample.image: batch.benchmark.picture(sample.image, plan.data)
        for sample in batch.samples
        if sample.image is not None
    }
    requests = [_request(batch, sample, plan, pictures) for sample in batch.samples]
    started = time.perf_counter()
    answers = dict(generate(requests))
    seconds = (time.perf_counter() - started) / len(requests)
    if sorted(answers) != list(range(len(requests))):
        raise Failed(f"{len(requests)} requests were sent and answers came to {sorted(answers)}.")
    peak = memory()
    return [
        _row(batch, sample, requests[number], answers[number], seconds, peak)
        for number, sample in enumerate(batch.samples)
    ]


def _request(
    batch: Batch, sample: Sample, plan: Plan, pictures: dict[str | None, Image.Image]
) -> Request:
    """Ask a question with the run's suffix and decoding. The seed is the sample's own.

    One seed for all would give every sample the same random numbers.
    """
    suffix = batch.benchmark.suffix if plan.suffix is None else plan.suffix
    name = f"{plan.seed} {batch.benchmark.name} {sample.id}".encode()
    shown = [pictures[sample.image]] if sample.image is not None else []
    return Request(
        messages=question(sample.prompt + suffix, *shown),
        strategy=batch.arm.strategy,
        params=batch.arm.params,
        sampling=Sampling(
            temperature=plan.temperature,
            max_new_tokens=plan.max_new_tokens or batch.benchmark.max_new_tokens,
            seed=int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big"),
        ),
    )


def _row(
    batch: Batch,
    sample: Sample,
    request: Request,
    answer: Answer,
    seconds: float,
    peak: float | None,
) -> Row:
    score = batch.benchmark.score(sample, answer.text)
    asked = request.messages[-1].content[-1]
    return Row(
        id=sample.id,
        benchmark=batch.benchmark.name,
        split=sample.split,
        image_id=sample.image,
        arm=batch.arm.label,
        strategy=answer.strategy.name,
        params=answer.strategy.params,
        prompt=asked.text if asked.type == "text" else "",
        answer=answer.text,
        parsed=score.parsed,
        label=sample.label,
        value=score.value,
        counts=dict(score.counts),
        marks=score.marks,
        tokens=answer.usage.completion_tokens,
        finish_reason=answer.finish_reason,
        forwards=answer.usage.forwards,
        seconds=round(seconds, 6),
        memory_mb=None if peak is None else round(peak, 1),
        cold=batch.cold,
    )
