"""`halu bench`, `halu tune` and `halu report`: strategies side by side on the same samples."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from halu.cli.progress import Bar
from halu.cli.values import strategy_with_parameters
from halu.errors import Unavailable
from halu.types import checked


def bench(
    benchmark: Annotated[list[str], typer.Argument(help="See `halu list benchmarks`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for rows, summary and report.")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name, folder or hub id.")
    ] = "tiny-llava",
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "-s", "--strategy", help="Strategy, with parameters as NAME:KEY=VALUE:KEY=VALUE."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Samples of each split.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the benchmark's files.")] = None,
    batch_size: Annotated[int, typer.Option(help="Requests in one forward.")] = 8,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Default: the benchmark's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds samples and random views.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    backend: Annotated[str, typer.Option(help="hf: in this process.")] = "hf",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was stopped.")
    ] = False,
) -> None:
    """Run benchmarks under several strategies; plain greedy decoding is always the baseline.

    Example: halu bench pope-scenes -m tiny-llava -s vcd -s vhr --limit 90 -o runs/first
    """
    plan_of, run_all, show = _evaluation()
    arms = [strategy_with_parameters(text) for text in strategy or []]
    _check(arms)
    plan = checked(
        plan_of,
        {
            "model": model,
            "benchmarks": benchmark,
            "strategies": [{"strategy": name, "params": params} for name, params in arms],
            "data": data,
            "splits": split or None,
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "backend": backend,
            "command": shlex.join(["halu", *sys.argv[1:]]),
        },
        "option",
    )
    from halu.cli.models import load_quietly

    vlm = load_quietly(model, device=device, backend=backend)
    memory = vlm.peak_gpu_memory_mb if vlm.on_gpu else None
    with Bar() as bar:
        run_all(plan, vlm.generate_each, out, resume=resume, progress=bar.of_run, memory=memory)
    show(out)


def _check(arms: list[tuple[str, dict[str, Any]]]) -> None:
    """Names and parameters, before a model is loaded for them."""
    from halu.planning import choose
    from halu.types import Request, question

    for name, params in arms:
        choose(Request(messages=question(""), strategy=name, params=params))


def tune(
    strategy: Annotated[
        str, typer.Argument(help="Strategy, with parameters that stay as NAME:KEY=VALUE.")
    ],
    benchmark: Annotated[str, typer.Option("--benchmark", help="See `halu list benchmarks`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for trials and report.")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name, folder or hub id.")
    ] = "tiny-llava",
    param: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", help="Only these: KEY or KEY=LOW..HIGH; default: all."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Default: the benchmark's first, mean of its splits.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Points to try.")] = 30,
    limit: Annotated[int | None, typer.Option(help="Samples of each split.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the benchmark's files.")] = None,
    batch_size: Annotated[int, typer.Option(help="Requests in one forward.")] = 8,
    seed: Annotated[int, typer.Option(help="Seeds samples, views and the search.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped search.")] = False,
) -> None:
    """Search a strategy's parameters on tuning pictures, then measure the best on held-out ones.

    Example: halu tune vcd -m tiny-llava --benchmark pope-scenes -p alpha=0..2 -o runs/tuned
    """
    plan_of, _, show = _evaluation()
    name, fixed = strategy_with_parameters(strategy)
    plan = checked(
        plan_of,
        {
            "model": model,
            "benchmarks": [benchmark],
            "strategies": [{"strategy": name, "params": fixed}],
            "data": data,
            "limit": limit,
            "seed": seed,
            "batch_size": batch_size,
            "command": shlex.join(["halu", *sys.argv[1:]]),
        },
        "option",
    )
    wanted = _search(plan, param or [], metric, trials)
    from halu.cli.models import load_quietly
    from halu.eval.tune import HELD_OUT
    from halu.eval.tune import tune as search

    vlm = load_quietly(model, device=device)
    with Bar() as bar:
        found = search(wanted, vlm.generate_each, out, resume=resume, progress=bar.of_run)
    options = " ".join(f"-p {key}={value}" for key, value in found.chosen.items())
    print(f"Best {found.metric} of {len(found.trials)} points on {found.samples} tuning samples:")
    print(f"  {options}")
    print("On held-out samples:")
    show(out / HELD_OUT)


def _search(plan: Any, asked: list[str], metric: str | None, trials: int) -> Any:
    """What to tune, checked before a model is loaded for it."""
    from halu.eval import ranges
    from halu.eval.tune import Search
    from halu.strategy import strategies

    arm = plan.strategies[0]
    chosen = strategies.get(arm.strategy)
    defaults = chosen.configured(arm.params).params.model_dump()
    space = ranges.chosen(chosen.name, chosen.Params, arm.params, asked)
    return Search(plan, space, defaults, metric, trials)


def report(folder: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Make tables and the page of a run again from its stored rows.

    Example: halu report runs/first
    """
    _, _, show = _evaluation()
    show(folder)


def _evaluation() -> tuple[Any, Any, Callable[[Path], None]]:
    try:
        from halu.eval import console
        from halu.eval.plan import Plan
        from halu.eval.report import report as make
        from halu.eval.run import run
    except ImportError as error:
        raise Unavailable(
            f"Benchmarks need {error.name}.", hint="pip install 'halu[eval]'"
        ) from None

    def show(folder: Path) -> None:
        console.show(make(folder))
        print(f"Wrote {folder / 'report.html'}")

    return Plan, run, show


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(bench)
    app.command()(tune)
    app.command()(report)
