"""Tuning a strategy's parameters without fooling oneself.

The search (optuna's tree-structured Parzen estimator) sees tuning pictures only, and begins at the
strategy's own defaults; the chosen point is then measured beside the defaults and plain decoding on
pictures that the search never saw. In the built-in world tuning pictures are those of the next
seed; a data folder's pictures are halved. Trials are kept in `trials.jsonl`, so that a stopped
search goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halu.errors import BadInput, Unavailable, Unknown
from halu.eval.backends import Opener
from halu.eval.benchmark import Benchmark, Metric, benchmarks
from halu.eval.paired import tallies
from halu.eval.plan import Arm, Plan
from halu.eval.ranges import Range
from halu.eval.run import Progress, rows_of, run, samples_of
from halu.eval.store import Row
from halu.eval.trials import Trial, Tuning, opened_trials

HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class Search:
    """What to tune: `plan` names one benchmark and one strategy with the parameters that stay."""

    plan: Plan
    ranges: Mapping[str, Range]
    defaults: Mapping[str, Any]
    metric: str | None = None
    trials: int = 30

    @property
    def arm(self) -> Arm:
        """The strategy, with what stays fixed."""
        return self.plan.strategies[0]

    def halves(self, benchmark: Benchmark) -> tuple[Plan, Plan]:
        """Plans for tuning and for the held-out measurement; they share no picture."""
        if benchmark.builtin:
            return self.plan.model_copy(update={"seed": self.plan.seed + 1}), self.plan
        tuning, rest = (self.plan.model_copy(update={"half": h}) for h in ("tuning", "held-out"))
        return tuning, rest


def tune(
    search: Search,
    opened: Opener,
    out: Path,
    *,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Tuning:
    """Search, then measure the chosen point on held-out pictures into `out/held-out`.

    Args:
        search: what to tune.
        opened: opens the model of the plan.
        out: a new or empty folder, or with `resume` one that holds the same search unfinished.
        resume: continue; trials that are there are not made again.
        progress: told after every trial and every batch of the held-out run.

    Raises:
        BadInput: if the folder holds something else, or nothing is left to tune.
        Unknown: for a metric that the benchmark does not have.
        Unavailable: without optuna.
    """
    benchmark = benchmarks.get(search.plan.benchmarks[0])
    metric = _metric(benchmark, search.metric)
    tuning_plan, test_plan = search.halves(benchmark)
    samples = samples_of(benchmark, tuning_plan)
    record = _record(search, metric, len(samples))
    with opened_trials(out, record, resume) as kept:
        if len(kept.done) < search.trials and (out / HELD_OUT).exists():
            raise BadInput(
                f"The search in {out} is finished after {len(kept.done)} points.",
                hint="Search on in another folder.",
                param="trials",
            )

        def told(trial: Trial) -> None:
            kept.add(trial)
            if progress:
                progress(Progress(len(kept.done), search.trials, benchmark.name, "tuning"))

        with opened(search.plan.models[0]) as backend:

            def measure(params: dict[str, Any]) -> float | None:
                arm = Arm(strategy=search.arm.strategy, params={**search.arm.params, **params})
                rows = rows_of(benchmark, samples, arm, tuning_plan, backend)
                return value_of(benchmark, rows, metric)

            _search(search, metric, list(kept.done), measure, told)
        chosen = best(kept.done, metric)
        record = record.model_copy(update={"trials": tuple(kept.done), "chosen": chosen})
        kept.end(record)
    tuned = Arm(strategy=search.arm.strategy, params={**search.arm.params, **chosen})
    arms = test_plan.model_copy(update={"strategies": (search.arm, tuned)})
    run(arms, opened, out / HELD_OUT, resume=resume, keep_going=True, progress=progress)
    return record


def value_of(benchmark: Benchmark, rows: Sequence[Row], metric: Metric) -> float | None:
    """Compute a metric over rows, the mean of the splits' values; None where undefined."""
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    values = [
        float(benchmark.rates(np.array(tallies(benchmark, part)).sum(0))[metric.name])
        for part in by_split.values()
    ]
    mean = sum(values) / len(values)
    return mean if np.isfinite(mean) else None


def best(trials: Sequence[Trial], metric: Metric) -> dict[str, Any]:
    """Choose the best point, of equals the earliest.

    Raises:
        BadInput: if the metric was undefined everywhere.
    """
    sign = 1 if metric.better == "higher" else -1
    known = [trial for trial in trials if trial.value is not None]
    if not known:
        raise BadInput(f"{metric.name} was undefined at every point; use more samples.")
    return max(known, key=lambda trial: sign * (trial.value or 0.0)).params


def _metric(benchmark: Benchmark, name: str | None) -> Metric:
    known = {metric.name: metric for metric in benchmark.metrics if metric.better != "neither"}
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise Unknown("metric", name, known)
    return known[name]


def _search(
    search: Search,
    metric: Metric,
    done: Sequence[Trial],
    measure: Callable[[dict[str, Any]], float | None],
    told: Callable[[Trial], None],
) -> None:
    try:
        import optuna
    except ImportError:
        raise Unavailable.without("eval", "Tuning needs optuna.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if metric.better == "higher" else "minimize",
        sampler=optuna.samplers.TPESampler(seed=search.plan.seed + len(done)),
    )
    space = {name: one.distribution() for name, one in search.ranges.items()}
    for trial in done:
        if trial.value is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params, distributions=space, value=trial.value
                )
            )
    defaults = {name: search.defaults[name] for name in space}
    if not done and all(one.holds(defaults[name]) for name, one in search.ranges.items()):
        study.enqueue_trial(defaults)
    for _ in range(search.trials - len(done)):
        asked = study.ask(space)
        value = measure(asked.params)
        if value is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(asked, value)
        told(Trial(params=asked.params, value=value))


def _record(search: Search, metric: Metric, samples: int) -> Tuning:
    return Tuning(
        strategy=search.arm.strategy,
        model=search.plan.models[0].label,
        benchmark=search.plan.benchmarks[0],
        metric=metric.name,
        better=metric.better,
        ranges={name: str(one) for name, one in search.ranges.items()},
        fixed=search.arm.params,
        samples=samples,
        seed=search.plan.seed,
    )
