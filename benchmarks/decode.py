"""Time per generated token: stock generate, halu's greedy, and each strategy, as ratios in one run.

    python benchmarks/decode.py --out benchmarks/results/decode-cpu.json

A randomly initialised LLaVA of 300 M parameters answers one question about one picture of 336 x 336
(576 image tokens); speed does not depend on the weights. All contestants take turns, round after
round, so that a change of the machine's speed meets them alike; a round's time is that of the
tokens after the first, and the ratio is the median over rounds of contestant / baseline within the
round. Absolute times are not reported for a CPU.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import halu
from halu.engine import Local
from halu.testing.random_models import Size, random_adapter
from halu.vlm import asking

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
STRATEGIES = {
    "greedy": {},
    "vhr": {},
    "var": {"dimensions": (1, 2), "tau": 2.0},
    "vcd": {},
    "ritual": {},
    "m3id": {},
}
QUESTION = "Please describe this image in detail."


class Clock:
    """A streamer for stock generate that notes when each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def stock(vlm: Local, picture: Image.Image, tokens: int) -> Callable[[], float]:
    """transformers' own greedy generate with sdpa attention."""
    model, processor = vlm.adapter.model, vlm.adapter.processor
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )

    def measure() -> float:
        model.set_attn_implementation("sdpa")
        clock = Clock()
        model.generate(**inputs, max_new_tokens=tokens, do_sample=False, streamer=clock)
        model.set_attn_implementation({"text_config": "halu", "vision_config": "sdpa"})
        return (clock.times[-1] - clock.times[1]) / (
            len(clock.times) - 2
        )  # the first put is the prompt

    return measure


def ours(vlm: Local, picture: Image.Image, tokens: int, strategy: str) -> Callable[[], float]:
    """One strategy through halu's loop."""

    def measure() -> float:
        request = asking(
            picture, QUESTION, strategy=strategy, params=STRATEGIES[strategy], max_new_tokens=tokens
        )
        times = [time.perf_counter() for _ in vlm.run(request)]
        return (times[-1] - times[0]) / (len(times) - 1)

    return measure


def compare(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds a token, round by round, everyone in turn, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, measure in contestants.items():
            seconds = measure()
            if turn:
                found[name].append(seconds)
        print(f"round {turn} of {rounds}", flush=True)
    return found


def ratios(found: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Median, least and largest ratio to the baseline within a round."""
    table = {}
    for name, seconds in found.items():
        each = [mine / base for mine, base in zip(seconds, found[baseline], strict=True)]
        table[name] = {
            "median": round(statistics.median(each), 3),
            "min": round(min(each), 3),
            "max": round(max(each), 3),
        }
    return table


def millions(model: torch.nn.Module) -> float:
    """Parameters of a model in millions."""
    return sum(weight.numel() for weight in model.parameters()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    adapter = random_adapter("llava", SIZE)
    adapter.model.generation_config.eos_token_id = SIZE.vocab - 1
    vlm = Local(adapter)
    pixels = np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    contestants = {"stock generate": stock(vlm, picture, options.tokens)}
    for name in STRATEGIES:
        contestants[name] = ours(vlm, picture, options.tokens, name)
    found = compare(contestants, options.rounds)
    result: dict[str, Any] = {
        "what": "time per generated token after the first, ratio within a round",
        "model": f"random LLaVA, {millions(adapter.model):.0f} M parameters, float32",
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "halu": halu.__version__,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "to stock generate": ratios(found, "stock generate"),
        "to greedy": ratios(found, "greedy"),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
