"""`halu tune`: a strategy's best parameters on some pictures, measured on others."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from halu.cli import options
from halu.cli.bench import evaluation
from halu.cli.progress import Bar
from halu.types import checked
from halu.values import with_parameters


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
    limit: options.Limit = None,
    data: options.Data = None,
    batch_size: options.BatchSize = 8,
    seed: options.Seed = 0,
    device: options.Device = None,
    resume: options.Resume = False,
) -> None:
    """Search a strategy's parameters on tuning pictures, then measure the best on held-out ones.

    Example: halu tune vcd -m tiny-llava --benchmark pope-scenes -p alpha=0..2 -o runs/tuned
    """
    plan_of, _, show = evaluation()
    from halu.cli.models import load_quietly
    from halu.eval.sources import described, opening

    name, fixed = with_parameters(strategy)
    plan = checked(
        plan_of,
        {
            "models": described([model], device=device),
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
    from halu.eval.tune import HELD_OUT
    from halu.eval.tune import tune as search

    with Bar() as bar:
        found = search(wanted, opening(load_quietly), out, resume=resume, progress=bar.of_run)
    options = " ".join(f"-p {key}={value}" for key, value in found.chosen.items())
    print(f"Best {found.metric} of {len(found.trials)} points on {found.samples} tuning samples:")
    default = all(wanted.defaults[key] == value for key, value in found.chosen.items())
    print(f"  {options}" + " (the defaults: no other point was better)" * default)
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


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(tune)
