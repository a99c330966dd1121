"""Time to the first token and per further token on a GPU, at the shapes of real models.

    python benchmarks/gpu_decode.py --out benchmarks/results/gpu-decode.json

Random weights at the shapes of LLaVA-1.5-7B, LLaVA-1.5-13B and Qwen2.5-VL-7B (of the language
models; vision towers are of about their size), bfloat16, one question about one picture a request,
batches of 1, 8 and 32. No picture is shown twice, so nobody remembers what the vision tower says of
it, and everyone starts from pictures, not from pixels that are ready. Contestants: halu's greedy
and every strategy, with decoding steps recorded as CUDA graphs; halu's greedy without; halu's
greedy asked about the same pictures each time, which it remembers; stock generate; the usual
two-forward loop, one model call after the other for each token; the package mitigv on the same
model object, where it is installed (batch 1). Next to them the floor: bytes of the language model's
weights and of the keys and values, over the copy bandwidth measured in the same run. Everyone takes
turns, round after round. A round asks each for one token (time to the first) and for many; what
each further token costs is the difference. Ratios are taken within a round. The plot is written
beside the JSON.

Without a GPU it refuses. `--tiny` is a dry run on the CPU with tiny models: a test of this script,
whose times mean nothing. What only a GPU has (graphs, its clock) is not in it.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from contestants import Ask, contestants, inputs_of
from PIL import Image

import halu
from halu.adapters.replay import CudaGraphs, repeated
from halu.engine import Local
from halu.errors import HaluError
from halu.testing.random_models import Size, random_adapter

LLAVA = {"vocab": 32064, "side": 336, "vision_hidden": 1024, "vision_layers": 24}
SHAPES: dict[str, tuple[str, Size]] = {
    "LLaVA-1.5-7B": ("llava", Size(4096, 32, 32, 32, 11008, **LLAVA)),
    "LLaVA-1.5-13B": ("llava", Size(5120, 40, 40, 40, 13824, **LLAVA)),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", Size(3584, 28, 28, 4, 18944, 152064, 672, 1280, 32)),
}
TINY = {"tiny LLaVA": ("llava", Size()), "tiny Qwen2.5-VL": ("qwen2_5_vl", Size())}


def loaded(family: str, size: Size, tiny: bool) -> Local:
    """A random model, on the GPU in bfloat16, or on the CPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with torch.device("cpu" if tiny else "cuda"):
            adapter = random_adapter(family, size)
    finally:
        torch.set_default_dtype(before)
    adapter.model.generation_config.eos_token_id = size.vocab - 1
    return Local(adapter)


class Fresh:
    """Pictures of random pixels, other ones whenever it is asked."""

    def __init__(self, batch: int, seed: int) -> None:
        self._batch = batch
        self._random = np.random.default_rng([seed, batch])

    def __call__(self) -> list[Image.Image]:
        shape = (self._batch, 336, 336, 3)
        return [Image.fromarray(own) for own in self._random.integers(0, 255, shape, np.uint8)]


def seconds(call: Callable[[], object]) -> float:
    """How long it takes, until the device has done it."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def copied_a_second(device: torch.device, tiny: bool) -> float:
    """Bytes read and written each second by a large copy; the best of several."""
    source = torch.zeros(2**20 if tiny else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source)) for _ in range(10))
    return 2 * source.numel() / best


def floor(vlm: Local, picture: Image.Image, batch: int, tokens: int, bandwidth: float) -> float:
    """Seconds that reading the weights and a batch's keys and values once takes."""
    text, facts = vlm.adapter.runner.text, vlm.adapter.facts
    head = vlm.adapter.model.get_output_embeddings()
    weights = [*text.layers.parameters(), *text.norm.parameters(), *head.parameters()]
    length = inputs_of(vlm, [picture])["input_ids"].shape[1] + tokens // 2
    width = text.layers[0].self_attn.k_proj.out_features
    keys = 2 * facts.layers * width * length * batch * weights[0].element_size()
    return (sum(w.numel() * w.element_size() for w in weights) + keys) / bandwidth


def measured(
    found: dict[str, Ask], fresh: Fresh, rounds: int, tokens: int
) -> tuple[Any, dict[str, str]]:
    """(first, further) seconds by contestant and round, after one round to warm up; and why some
    did not run.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    refused: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, ask in found.items():
            if name in refused:
                continue
            try:
                first = seconds(partial(ask, fresh(), 1))
                further = (seconds(partial(ask, fresh(), tokens)) - first) / (tokens - 1)
            except (HaluError, ValueError, RuntimeError, TypeError, ImportError) as error:
                refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            if turn:
                times[name].append((first, further))
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    return {name: own for name, own in times.items() if name not in refused}, refused


def table(times: Any, least: float) -> dict[str, dict[str, float]]:
    """Medians over rounds, and ratios within a round."""
    base, own = times["stock generate"], times["greedy"]
    rows = {}
    for name, found in times.items():
        firsts, furthers = zip(*found, strict=True)

        def ratio(other: Any, found: Any = found) -> float:
            each = [mine[1] / theirs[1] for mine, theirs in zip(found, other, strict=True)]
            return round(statistics.median(each), 3)

        rows[name] = {
            "first token, ms": round(1e3 * statistics.median(firsts), 2),
            "further token, ms": round(1e3 * statistics.median(furthers), 3),
            "to stock generate": ratio(base),
            "to greedy": ratio(own),
            "to floor": round(statistics.median(furthers) / least, 2),
        }
    return rows


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """What a further token costs, relative to stock generate."""
    figure, axes = plt.subplots(1, len(results), figsize=(4 * len(results), 9), squeeze=False)
    for axis, one in zip(axes[0], results, strict=True):
        names = list(one["contestants"])
        axis.barh(names, [one["contestants"][name]["to stock generate"] for name in names])
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{one['model']}, batch {one['batch']}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("time per further token / stock generate", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All shapes and batches."""
    results = []
    for model, (family, size) in (TINY if options.tiny else SHAPES).items():
        vlm = loaded(family, size, options.tiny)
        capture = repeated if options.tiny else CudaGraphs(vlm.adapter.runner.device)
        for batch in options.batch or ((1, 2) if options.tiny else (1, 8, 32)):
            bandwidth = copied_a_second(vlm.adapter.runner.device, options.tiny)
            fresh = Fresh(batch, seed=0)
            shown = fresh()
            least = floor(vlm, shown[0], batch, options.tokens, bandwidth)
            found = contestants(vlm, shown, capture)
            times, refused = measured(found, fresh, options.rounds, options.tokens)
            own = {"model": model, "batch": batch, "floor, ms": round(1e3 * least, 3)}
            results.append({**own, "contestants": table(times, least), "refused": refused})
        del vlm, found
    device = "CPU, dry run: the times mean nothing"
    return {
        "what": "time to the first token and per further token; ratios within a round",
        "device": device if options.tiny else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "halu": halu.__version__},
        "tokens": options.tokens,
        "rounds": options.rounds,
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, action="append", help="repeat for several")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="dry run on the CPU")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("gpu_decode.py measures a GPU, and there is none; --tiny is a dry run on the CPU.")
    result = run(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    plot(result["results"], options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
