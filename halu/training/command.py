"""The command line of the recipe: `python -m halu.training MODEL --out DIR`, on as many workers
as asked for.
"""

import argparse
import json
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from halu.training import language, settings, team

MODELS = ("tiny-llava", "tiny-qwen", "tiny-clip")
TOWER_STEPS = {"tiny-llava": 1600, "tiny-qwen": 1000, "tiny-clip": 0}
STEPS = {"tiny-llava": 1300, "tiny-qwen": 600, "tiny-clip": 700}


def parser(model: str | None) -> argparse.ArgumentParser:
    """One parser for all; `model` is fixed where a model's own module is run."""
    made = argparse.ArgumentParser(
        description="Train a built-in model from nothing.",
        epilog="example: python -m halu.training tiny-llava --out /tmp/tiny-llava --seed 0",
    )
    if model is None:
        made.add_argument("model", choices=MODELS)
    made.add_argument("--out", type=Path, required=True, help="the model folder to write")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "halu-training",
        help="drawn scenes, checkpoints",
    )
    made.add_argument(
        "--scenes", type=int, default=40_000, help="training scenes to draw, once for all models"
    )
    made.add_argument("--tower-steps", type=int, help="updates of the vision tower")
    made.add_argument("--steps", type=int, help="updates of the language model, or of tiny-clip")
    made.add_argument("--batch", type=int, default=64, help="pictures per update, over all workers")
    made.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that share the work; best: one per free core",
    )
    made.add_argument("--threads", type=int, default=1, help="threads per worker")
    made.add_argument(
        "--slip",
        type=float,
        default=0.4,
        help="share of training captions that name an absent object",
    )
    made.add_argument("--start", type=Path, help="a tiny-llava folder to start from")
    made.add_argument(
        "--no-compile",
        action="store_true",
        help="without torch.compile, which needs a C++ compiler",
    )
    return made


def main(model: str | None = None, arguments: Sequence[str] | None = None) -> None:
    """Parse, then run the workers."""
    asked = parser(model).parse_args(arguments)
    asked.model = model or asked.model
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if asked.workers == 1:
        work(0, asked, port)
    else:
        spawn(work, (asked, port), asked.workers)


def work(rank: int, asked: argparse.Namespace, port: int) -> None:
    """One worker from beginning to end."""
    torch.set_num_threads(asked.threads)
    team.join(rank, asked.workers, port)
    run = settings.Run(
        out=asked.out,
        work=asked.work,
        seed=asked.seed,
        scenes=asked.scenes,
        tower_steps=TOWER_STEPS[asked.model] if asked.tower_steps is None else asked.tower_steps,
        steps=STEPS[asked.model] if asked.steps is None else asked.steps,
        batch=asked.batch // asked.workers,
        compiled=not asked.no_compile,
    )
    try:
        _train(asked, run)
        if team.leads():
            _note(asked, run)
    finally:
        team.leave()


def _note(asked: argparse.Namespace, run: settings.Run) -> None:
    """Keep the command that anyone can run again, with every number that matters and no path of
    this machine.
    """
    given = {
        "seed": run.seed,
        "scenes": run.scenes,
        "tower-steps": run.tower_steps,
        "steps": run.steps,
        "batch": asked.batch,
    }
    given |= {"workers": asked.workers} | (
        {} if asked.model == "tiny-clip" else {"slip": asked.slip}
    )
    options = " ".join(f"--{name} {value}" for name, value in given.items())
    start = " --start TINY_LLAVA_DIR" if asked.start else ""
    command = f"python -m halu.training {asked.model} --out DIR {options}{start}"
    (run.out / "recipe.json").write_text(
        json.dumps({"model": asked.model, "command": command} | given, indent=1) + "\n"
    )


def _train(asked: argparse.Namespace, run: settings.Run) -> None:
    if asked.model == "tiny-llava":
        from halu.training import llava

        more = language.Lesson(slip=asked.slip, alone=0.0, full=0.1, start=0.6, lr=1.5e-3)
        first = language.Lesson(slip=asked.slip)
        llava.train(run, more if asked.start else first, asked.start)
    elif asked.model == "tiny-qwen":
        from halu.training import qwen

        started = language.Lesson(slip=asked.slip, alone=0.0, full=0.3, start=0.4, lr=1.2e-3)
        qwen.train(
            run, language.Lesson(slip=asked.slip) if asked.start is None else started, asked.start
        )
    else:
        from halu.training import clip

        clip.train(run, asked.start)
