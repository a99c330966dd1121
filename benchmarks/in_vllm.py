"""Time of the same batch in vLLM: stock, with halu idle, and under each strategy, as ratios in one
run.

    .venv-vllm/bin/python benchmarks/in_vllm.py --out benchmarks/results/in-vllm-cpu.json
    .venv-vllm/bin/python benchmarks/in_vllm.py --model random --batch 4 --tokens 24 --rounds 3

Two engines with the same model take turns, round after round, so that a change of the machine's
speed meets all contestants alike: one as vLLM makes it, one with halu's worker, scheduler and
attention. Every round is a batch of `--batch` questions about one picture, each answered with
`--tokens` tokens, prompts included; the ratio is the median over rounds of contestant / stock
within the round. "mixed" is half plain, half vcd. With the built-in model the engine's own work is
small, so that what halu adds weighs more than with a real one; name another with `--model`.
`--model random` is a random LLaVA of 301 million weights, the one of `benchmarks/decode.py`: a step
of it takes as long as a real step on a CPU may.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from halu.vllm import DEFAULTS

for key, value in DEFAULTS.items():
    os.environ.setdefault(key, value)

import vllm
from PIL import Image

from halu.adapters import folder_of
from halu.testing.random_models import Size, save_random
from halu.types import Sampling
from halu.vllm.asked import KEY
from halu.vllm.engine import OPTIONS, Served
from halu.vllm.model import params
from halu.vllm.submission import Submission, engine_input
from halu.vlm import asking

RANDOM = "random"
SIZE = Size(
    hidden=1024,
    layers=18,
    heads=16,
    kv_heads=16,
    mlp=2816,
    vocab=32000,
    side=336,
    vision_hidden=256,
    vision_layers=4,
)
HALUS = ("worker_cls", "scheduler_cls")
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
        image = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 50).convert("RGB")
        for number in range(self.size):
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

    def seconds(self, engine: Any, strategy: str | None, half: bool = False) -> float:
        """Time of one batch."""
        given = self.prompts(strategy, half)
        engine.reset_prefix_cache()
        start = time.perf_counter()
        for prompt, own in given:
            self.count += 1
            engine.add_request(f"bench-{self.count}", prompt, own)
        while engine.has_unfinished_requests():
            for found in engine.step():
                assert found.outputs[0].finish_reason in (None, "length"), found.outputs[0]
        return time.perf_counter() - start


def _silent(asides: Any) -> None:
    raise AssertionError("no contestant has a text said")


def measured(batches: Batches, stock: Any, rounds: int) -> dict[str, float]:
    """Median ratios to the stock engine."""
    own = batches.served.engine
    contestants = {"idle": (None, False), **{name: (name, False) for name in STRATEGIES}}
    contestants["mixed"] = ("vcd", True)
    ratios: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):  # the first is for warming up
        base = batches.seconds(stock, None)
        for name, (strategy, half) in contestants.items():
            ratio = batches.seconds(own, strategy, half) / base
            if number:
                ratios[name].append(ratio)
    return {name: round(statistics.median(found), 3) for name, found in ratios.items()}


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description="Ratios of time in vLLM.")
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.model == RANDOM:
            save_random(Path(folder), SIZE)
        found = run(asked, folder if asked.model == RANDOM else asked.model)
    print(json.dumps(found, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def run(asked: argparse.Namespace, model: str) -> dict[str, Any]:
    """Makes both engines and measures."""
    options = {"max_model_len": 1024, "max_num_batched_tokens": 4096, "max_num_seqs": 64}
    served = Served(model, **options)
    plain = {key: value for key, value in OPTIONS.items() if key not in HALUS}
    dtype = str(served.engine.model_config.dtype).removeprefix("torch.")
    args = vllm.EngineArgs(model=folder_of(model), dtype=dtype, **{**plain, **options})
    stock = vllm.LLMEngine.from_engine_args(args)
    return {
        "what": "seconds of a batch / seconds of the same batch in stock vLLM",
        "model": asked.model,
        "vllm": vllm.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "batch": asked.batch,
        "tokens": asked.tokens,
        "rounds": asked.rounds,
        "ratios": measured(Batches(served, asked.batch, asked.tokens), stock, asked.rounds),
    }


if __name__ == "__main__":
    main()
