"""The command line of the recipe: `python -m halu.training MODEL --out DIR`, on as many workers
as asked for.
"""

import argparse
import dataclasses
import json
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from halu.training import lesson, settings, team

MODELS = ("tiny-llava", "tiny-qwen", "tiny-clip")
TOWER_STEPS = {"tiny-llava": 1600, "tiny-qwen": 1000, "tiny-clip": 0}
STEPS = {"tiny-llava": 1300, "tiny-qwen": 600, "tiny-clip": 700}
# The fields of `lesson.Lesson`; what is not given is the fitting preset's.
LESSON = {
    "slip": "share of captions that name an absent object",
    "begin": "share of natural batches at first",
    "alone": "share of the run until natural batches become more",
    "full": "share of the run after which they are most",
    "most": "share of natural batches from then on",
    "captions": "share of captions in natural batches",
    "lists": "share of inventories in natural batches",
    "lr": "learning rate of the language stage",
}


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
    made.add_argument("--start", type=Path, help="a tiny-llava folder to start from")
    for name, help_text in LESSON.items():
        made.add_argument(f"--{name}", type=float, help=help_text)
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


def _lesson(asked: argparse.Namespace) -> lesson.Lesson:
    """The preset for this model and start, with what was asked for in its place."""
    preset = lesson.FIRST
    if asked.start is not None:
        preset = lesson.MORE if asked.model == "tiny-llava" else lesson.NEW_EYES
    given = {name: value for name in LESSON if (value := getattr(asked, name)) is not None}
    return dataclasses.replace(preset, **given)


def _note(asked: argparse.Namespace, run: settings.Run) -> None:
    """Keep the command that anyone can run again, with every number that matters and no path of
    this machine; before it the commands that made the folder it started from.
    """
    given: dict[str, float] = {"seed": run.seed, "scenes": run.scenes, "steps": run.steps}
    given |= {"batch": asked.batch, "workers": asked.workers}
    if asked.model != "tiny-clip":
        given |= {"tower-steps": run.tower_steps} | dataclasses.asdict(_lesson(asked))
    options = " ".join(f"--{name} {value}" for name, value in given.items())
    before: list[str] = []
    if asked.start is not None:
        options += " --start TINY_LLAVA_DIR"
        before = json.loads((asked.start / "recipe.json").read_text())["commands"]
    commands = [*before, f"python -m halu.training {asked.model} --out DIR {options}"]
    text = json.dumps({"model": asked.model, "commands": commands}, indent=1)
    (run.out / "recipe.json").write_text(text + "\n")


def _train(asked: argparse.Namespace, run: settings.Run) -> None:
    if asked.model == "tiny-llava":
        from halu.training import llava

        llava.train(run, _lesson(asked), asked.start)
    elif asked.model == "tiny-qwen":
        from halu.training import qwen

        qwen.train(run, _lesson(asked), asked.start)
    else:
        from halu.training import clip

        clip.train(run, asked.start)
