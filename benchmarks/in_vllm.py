"""Time of the same batch in vLLM: stock, with halu idle, and under each strategy, as ratios in one
run.

    .venv-vllm/bin/python benchmarks/in_vllm.py --out benchmarks/results/in-vllm-cpu.json
    .venv-vllm/bin/python benchmarks/in_vllm.py --model random --batch 2 --tokens 16 --rounds 2
    .venv-vllm/bin/python benchmarks/in_vllm.py --model random-wide --batch 2 --tokens 12 --rounds 2

Two engines with the same model take turns, round after round: one as vLLM makes it, one with halu's
worker, scheduler and attention. A turn is a batch of `--batch` questions, each about a picture of
its own and answered with `--tokens` tokens; stock has one before and after each contestant's, so
that a change of the machine's speed meets both alike. Two ratios of a contestant to the mean of
stock's two turns beside it, as medians over rounds: `batch` is the whole time, prompts included, of
which a strategy of two branches has twice as many; `step` is the mean time of the steps in which
all prompts have been read. "mixed" is half plain, half vcd. With the built-in model the engine's
own work is small, so that what halu adds weighs more than with a real one; name another with
`--model`. `--model random` is a random LLaVA of 301 million weights, `--model random-wide` has four
layers of LLaVA-1.5-7B's width, beside which little else is computed.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halu.vllm import DEFAULTS

for key, value in DEFAULTS.items():
    os.environ.setdefault(key, value)

import vllm
from PIL import Image
from shapes import source

from halu.adapters import folder_of
from halu.types import Sampling
from halu.vllm.asked import KEY
from halu.vllm.engine import OPTIONS, Served
from halu.vllm.model import params
from halu.vllm.submission import Submission, engine_input
from halu.vlm import asking

HALUS = ("worker_cls", "scheduler_cls", "async_scheduling")
STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "vhr": {},
    "spin": {},
    "var": {"dimensions": (1, 2), "tau": 1.5},
    "vaf": {},
    "dola": {"layers": (0, 1, 2)},
    "vcd": {},
    "m3id": {},
}


class Batches:
    """The batches of all contestants.

    Args:
        served: a model in halu's engine.
        size: questions in a batch.
        tokens: tokens of each answer.
    """

    def __init__(self, served: Served, size: int, tokens: int) -> None:
        self.served = served
        self.size = size
        self.tokens = tokens
        self.count = 0

    def prompts(self, strategy: str | None, half: bool = False) -> list[tuple[dict[str, Any], Any]]:
        """What an engine is given; without a strategy plain requests of vLLM's own."""
        found = []
        for number in range(self.size):
            corners = (-2 + number / self.size, -1.5, 1, 1.5)  # nobody shares another's keys
            image = Image.effect_mandelbrot((120, 90), corners, 50).convert("RGB")
            name = None if half and number % 2 else strategy
            chosen = {"strategy": name, "params": STRATEGIES[name]} if name else {}
            request = asking(image, f"What is this? {number}", max_new_tokens=self.tokens, **chosen)
            one = Submission(self.served.adapter, request, _silent, self.served.context)
            for sent in one.sent():
                own = params(Sampling(max_new_tokens=self.tokens), frozenset())
                own.extra_args = {KEY: sent.asked.text()} if name else None
                prompt = engine_input(self.served.processor, self.served.adapter, sent)
                found.append((prompt, own))
        return found

    def seconds(self, engine: Any, strategy: str | None, half: bool = False) -> dict[str, float]:
        """Time of one batch, and of a step once all prompts have been read."""
        given = self.prompts(strategy, half)
        engine.reset_prefix_cache()
        start, read, steps = time.perf_counter(), 0.0, 0
        waiting = set()
        for prompt, own in given:
            self.count += 1
            waiting.add(f"bench-{self.count}")
            engine.add_request(f"bench-{self.count}", prompt, own)
        while engine.has_unfinished_requests():
            for found in engine.step():
                assert found.outputs[0].finish_reason in (None, "length"), found.outputs[0]
                waiting.discard(found.request_id)
            read = read if waiting or read else time.perf_counter()
            steps += not waiting
        end = time.perf_counter()
        return {"batch": end - start, "step": (end - read) / max(steps - 1, 1)}


def _silent(asides: Any) -> None:
    raise AssertionError("no contestant has a text said")


def measured(
    batches: Batches, stock: Any, rounds: int, only: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Median ratios to the stock engine, of some contestants or, none being named, of all."""
    own = batches.served.engine
    contestants = {"idle": (None, False), **{name: (name, False) for name in STRATEGIES}}
    contestants["mixed"] = ("vcd", True)
    contestants = {name: contestants[name] for name in only or contestants}
    ratios: dict[str, dict[str, list[float]]] = {"batch": {}, "step": {}}
    for number in range(rounds + 1):  # the first is for warming up
        before = batches.seconds(stock, None)
        for name, (strategy, half) in contestants.items():
            found = batches.seconds(own, strategy, half)
            after = batches.seconds(stock, None)
            for what in ratios if number else ():
                beside = (before[what] + after[what]) / 2
                ratios[what].setdefault(name, []).append(found[what] / beside)
            before = after
    return {
        what: {name: round(statistics.median(found), 3) for name, found in each.items()}
        for what, each in ratios.items()
    }


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description="Ratios of time in vLLM.")
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], choices=["idle", *STRATEGIES, "mixed"])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with source(asked.model) as model:
        found = run(asked, model)
    print(json.dumps(found, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def run(asked: argparse.Namespace, model: str) -> dict[str, Any]:
    """Makes both engines and measures."""
    options: dict[str, Any] = {
        "max_model_len": 1024,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 64,
    }
    served = Served(model, **options)
    plain = {key: value for key, value in OPTIONS.items() if key not in HALUS}
    dtype = str(served.engine.model_config.dtype).removeprefix("torch.")
    args = vllm.EngineArgs(model=folder_of(model), dtype=dtype, **{**plain, **options})
    stock = vllm.LLMEngine.from_engine_args(args)
    return {
        "what": "seconds of a batch, and of a step, / the same in stock vLLM",
        "model": asked.model,
        "vllm": vllm.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "batch": asked.batch,
        "tokens": asked.tokens,
        "rounds": asked.rounds,
        "ratios": measured(
            Batches(served, asked.batch, asked.tokens), stock, asked.rounds, asked.only
        ),
    }


if __name__ == "__main__":
    main()
