"""The runner: every strategy answers the same samples, and each answer becomes a row.

It is given an `Opener` and does not know what is behind it: a model in this process, or a client
of a server. Samples are walked in batches and each batch is answered by all strategies in turn, so
that a run stopped early still compares like with like. Statistics and pages are made from the rows,
by `report`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval.asking import Batch, answered
from halu.eval.backends import Backend, Opener
from halu.eval.benchmark import Benchmark, Sample, benchmarks, under
from halu.eval.cache import Cache
from halu.eval.checks import Watch, distinct, undoubted
from halu.eval.examined import refuse_blind
from halu.eval.judge import Judge, seated
from halu.eval.plan import Arm, Plan, Source, half_of, image_ids, manifest, suite
from halu.eval.store import Key, Row, Store
from halu.eval.workers import in_order


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` answers, and what is being answered."""

    done: int
    total: int
    benchmark: str
    strategy: str
    model: str = ""


Work = Sequence[tuple[Benchmark, list[Sample]]]


def run(
    plan: Plan,
    opened: Opener,
    out: Path,
    *,
    resume: bool = False,
    keep_going: bool = False,
    cache: Cache | None = None,
    judge: Judge | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Answer and score everything in `plan`, into the folder `out`.

    Args:
        plan: what to run; plain decoding is added as the baseline.
        opened: opens a model of the plan when its turn comes; not called for a finished one.
        out: a new or empty folder, or with `resume` one that holds the same run unfinished.
        resume: continue; rows that are there are not answered again.
        keep_going: do not stop where `checks` would.
        cache: answers that are known from other runs.
        judge: scores the benchmarks that need one.
        progress: told at the start and after every batch.

    Raises:
        BadInput: before any question is asked, if data or folder cannot be used.
        HaluError: if a detector cannot read what a strategy leaves.
        Failed: if a check stops the run.
    """
    refuse_blind(plan)
    work = work_of(plan, judge)
    suites = [suite(benchmark, samples, plan) for benchmark, samples in work]
    if not keep_going:
        undoubted(suites)
    record = manifest(plan, suites)
    total = sum(len(samples) for _, samples in work) * len(plan.arms()) * plan.repeats
    total *= len(plan.models)
    watch = Watch(record.baseline, chosen_limit=plan.max_new_tokens is not None)
    images = {benchmark.name: image_ids(samples) for benchmark, samples in work}
    with Store.open(out, record, resume, images) as store:
        if progress:
            first = plan.models[0].label
            progress(Progress(len(store.done), total, work[0][0].name, record.baseline, first))
        for batch, rows in _answers(plan, opened, work, store.done, cache):
            store.append(rows)
            if progress:
                where = (batch.benchmark.name, batch.arm.label, batch.source.label)
                progress(Progress(len(store.done), total, *where))
            if not keep_going:
                watch.look(rows)


def work_of(plan: Plan, judge: Judge | None = None) -> Work:
    """List the samples of every benchmark in a run.

    Raises:
        BadInput: for data that cannot be used, or a benchmark without the judge that it needs.
    """
    named = [benchmarks.get(name) for name in dict.fromkeys(plan.benchmarks)]
    ruled = [under(benchmark, plan.rules or benchmark.rules) for benchmark in named]
    chosen = [seated(benchmark, judge) for benchmark in ruled]
    work = [(benchmark, samples_of(benchmark, plan)) for benchmark in chosen]
    for benchmark, samples in work:
        distinct(samples, benchmark.name)
    return work


def _answers(
    plan: Plan, opened: Opener, work: Work, done: set[Key], cache: Cache | None
) -> Iterator[tuple[Batch, list[Row]]]:
    """Answer what is not done, model by model."""
    for source in plan.models:
        todo = [
            batch
            for benchmark, samples in work
            for batch in _batches(benchmark, samples, plan, source, done)
        ]
        if not todo:
            continue
        with opened(source) as backend:
            yield from _of_one_model(todo, plan, backend, cache)


def _of_one_model(
    todo: Sequence[Batch], plan: Plan, backend: Backend, cache: Cache | None
) -> Iterator[tuple[Batch, list[Row]]]:
    def answer(batch: Batch) -> list[Row]:
        return answered(batch, plan, backend.answer, cache)

    yield from zip(todo, in_order(answer, todo, backend.slots), strict=True)


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
    benchmark: Benchmark, samples: Sequence[Sample], arm: Arm, plan: Plan, backend: Backend
) -> list[Row]:
    """Answer and score samples under one strategy, and keep nothing."""
    found: list[Row] = []
    for start in range(0, len(samples), plan.batch_size):
        some = tuple(samples[start : start + plan.batch_size])
        batch = Batch(plan.models[0], benchmark, arm, 0, some, False)
        found += answered(batch, plan, backend.answer)
    return found


def _batches(
    benchmark: Benchmark, samples: Sequence[Sample], plan: Plan, source: Source, done: set[Key]
) -> Iterator[Batch]:
    """Cut batches without what is done, each for every strategy before the next."""
    warm: set[str] = set()
    for start in range(0, len(samples), plan.batch_size):
        some = samples[start : start + plan.batch_size]
        for repeat in range(plan.repeats):
            for arm in plan.arms():
                key = (arm.label, repeat)
                todo = tuple(
                    s for s in some if Key(source.label, benchmark.name, s.id, *key) not in done
                )
                if todo:
                    cold = arm.label not in warm
                    yield Batch(source, benchmark, arm, repeat, todo, cold)
                    warm.add(arm.label)
