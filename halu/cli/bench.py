"""`halu bench` and `halu report`: strategies side by side on the same samples."""

import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from halu.cli import detect as detecting
from halu.cli import options
from halu.cli.progress import Bar
from halu.errors import Interrupted, Unavailable
from halu.types import checked
from halu.values import with_parameters


def bench(
    benchmark: Annotated[list[str], typer.Argument(help="See `halu list benchmarks`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for rows, summary and report.")],
    model: options.Models = None,
    strategy: options.Strategies = None,
    detector: detecting.Names = None,
    limit: options.Limit = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits.")] = None,
    data: options.Data = None,
    batch_size: options.BatchSize = 8,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = 1.0,
    suffix: options.Suffix = None,
    rules: options.Rules = None,
    seed: options.Seed = 0,
    repeats: options.Repeats = 1,
    device: options.Device = None,
    dtype: options.DType = None,
    backend: options.Backends = None,
    workers: options.Workers = 1,
    cache: options.CacheFile = None,
    judge: options.JudgeUrl = None,
    judge_model: options.JudgeModel = "default",
    keep_going: options.KeepGoing = False,
    resume: options.Resume = False,
) -> None:
    """Run benchmarks under several strategies; plain greedy decoding is always the baseline.

    Example: halu bench pope-scenes -m tiny-llava -s vcd -s vhr --limit 90 -o runs/first
    """
    from halu.eval.sources import described

    arms = [with_parameters(text) for text in strategy or []]
    _check(arms)
    values = {
        "models": described(model or ["tiny-llava"], backend or (), device=device, dtype=dtype),
        "benchmarks": benchmark,
        "strategies": [{"strategy": name, "params": params} for name, params in arms],
        "detectors": detecting.named(detector or ()),
        "data": data,
        "splits": split or None,
        "limit": limit,
        "seed": seed,
        "repeats": repeats,
        "batch_size": batch_size,
        "workers": workers,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "suffix": suffix,
        "rules": rules,
        "judge": judge and f"{judge_model} at {judge}",
        "command": shlex.join(["halu", *sys.argv[1:]]),
    }
    how: dict[str, Any] = {"resume": resume, "keep_going": keep_going}
    if judge:
        how["judge"] = _judge(judge, judge_model, out)
    _run(values, out, cache, how)


def _judge(url: str, model: str, out: Path) -> Any:
    from halu.eval.judge import Judge
    from halu.eval.store import JUDGED

    return Judge(url, model, cache=out / JUDGED)


def _run(values: dict[str, Any], out: Path, cache: Path | None, how: dict[str, Any]) -> None:
    plan_of, run, show = evaluation()
    from halu.cli.models import load_quietly
    from halu.eval.cache import Cache
    from halu.eval.sources import opening

    plan = checked(plan_of, values, "option")
    opened = opening(load_quietly, plan.workers)
    with Bar() as bar, Cache(cache) if cache else nullcontext() as answers:
        try:
            run(plan, opened, out, **how, cache=answers, progress=bar.of_run)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{bar.done} of {bar.total} answers are kept in {out}.",
                hint="Go on with --resume." if bar.done else "",
            ) from None
    if answers and answers.found:
        print(f"{answers.found} answers came from {answers.path}.", file=sys.stderr)
    show(out)


def _check(arms: list[tuple[str, dict[str, Any]]]) -> None:
    """Names and parameters, before a model is loaded for them."""
    from halu.planning import choose
    from halu.types import Request, question

    for name, params in arms:
        choose(Request(messages=question(""), strategy=name, params=params))


def report(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Make tables and the page of a run again from its stored rows.

    Example: halu report runs/first
    """
    _, _, show = evaluation()
    show(folder)


def evaluation() -> tuple[Any, Any, Callable[[Path], None]]:
    """What runs and shows benchmarks: `Plan`, `run`, and a function that shows a folder."""
    try:
        from halu.eval import console
        from halu.eval.plan import Plan
        from halu.eval.report import report as make
        from halu.eval.run import run
    except ImportError as error:
        raise Unavailable.without("eval", f"Benchmarks need {error.name}.") from None

    def show(folder: Path) -> None:
        console.show(make(folder))
        print(f"Wrote {folder / 'report.html'}")

    return Plan, run, show


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(bench)
    app.command()(report)
