"""Time to the first token and per further token, for halu and for what one would use otherwise.

    python benchmarks/decode.py --out benchmarks/results/decode-gpu.json     # with a GPU
    python benchmarks/decode.py --out benchmarks/results/decode-cpu.json     # without
    pip install --no-deps mitigv                                  # to have it among the contestants

On a GPU: random weights at the shapes of LLaVA-1.5-7B, LLaVA-1.5-13B and Qwen2.5-VL-7B (of the
language models; vision towers are of about their size), bfloat16, batches of 1, 8 and 32. On a CPU:
a random LLaVA of 300 M parameters in float32, batch 1; only ratios are reported. Everyone answers
one question about one picture of 336 x 336 a request. No picture is shown twice, so nobody
remembers what the vision tower says of it, and everyone starts from pictures, not from pixels that
are ready. Contestants: halu's greedy and every strategy, on a GPU with decoding steps recorded as
CUDA graphs; halu's greedy without; halu's greedy asked about the same pictures each time, which it
remembers; stock generate; the usual two-forward loop, one model call after the other for each
token; the package mitigv on the same model object, at batch 1. Next to them the floor: bytes of the
language model's weights and of the keys and values, over the bandwidth of a large copy in the same
round.

Everyone takes turns, round after round, after one round to warm up (short on a CPU); before and
after each, greedy has a turn of its own. A contestant says when it has which token; a turn's figure
is the time from the first to the last, for each in between. It is divided by the mean of greedy's
two turns beside it, so that a change of the machine's speed meets both alike; greedy's own figure,
found the same way, shows what noise is left. Ratios to others are quotients of these, within a
round: their median, least and largest. On a GPU the round to warm up tells what starting costs
(recording graphs, loading kernels). Whoever cannot run is listed with the reason. What is known is
written after each round, a plot beside it, so that a run that is cut short keeps its rounds.

`--tiny` is a dry run on the CPU with tiny models: a test of this script, whose times mean nothing.
"""

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from contestants import BASELINES, MITIGV, Ask, Pictures, contestants, inputs_of
from shapes import ON_CPU, ON_GPU, TINY, Fresh, loaded
from turns import FLOOR, GREEDY, Round, Took, Turn, plot, table

import halu
from halu.adapters.replay import CudaGraphs, repeated
from halu.engine import Local
from halu.strategy import strategies

COPY = 2**28
"""Bytes of the copy that measures bandwidth on a CPU; four times that on a GPU."""
OTHERS = ("two forwards", "greedy without recording", "greedy on remembered pictures")
NAMES = {*BASELINES, *OTHERS, *strategies.names(), *(f"mitigv {name}" for name in MITIGV)}


def synchronize() -> None:
    """Waits until the device has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def took(ask: Ask, pictures: Pictures, tokens: int) -> Took:
    """Times one answer to each picture."""
    heard: list[tuple[int, float]] = []
    synchronize()
    start = time.perf_counter()
    ask(pictures, tokens, lambda count: heard.append((count, time.perf_counter())))
    synchronize()
    whole = time.perf_counter() - start
    if len(heard) < 2 or heard[-1][0] <= heard[0][0]:
        raise ValueError("It gave fewer than two tokens.")
    (few, first), (many, last) = heard[0], heard[-1]
    return Took(first - start, (last - first) / (many - few), whole)


def copied_a_second(device: torch.device) -> float:
    """Bytes read and written each second by a large copy; the best of several."""
    size = COPY if device.type == "cpu" else 4 * COPY
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        target.copy_(source)
        synchronize()
        times.append(time.perf_counter() - start)
    return 2 * size / min(times)


def floor_bytes(vlm: Local, pictures: Pictures, tokens: int) -> int:
    """What a token of each answer must read: the language model's weights, the keys and values."""
    text, facts = vlm.adapter.runner.text, vlm.adapter.facts
    head = vlm.adapter.model.get_output_embeddings()
    weights: list[torch.Tensor] = [
        *text.layers.parameters(),
        *text.norm.parameters(),
        *head.parameters(),
    ]
    length = inputs_of(vlm, pictures[:1])["input_ids"].shape[1] + tokens // 2
    width = text.layers[0].self_attn.k_proj.out_features
    keys: int = 2 * facts.layers * width * length * len(pictures) * weights[0].element_size()
    return sum(weight.numel() * weight.element_size() for weight in weights) + keys


def rounds_of(
    found: Mapping[str, Ask],
    fresh: Callable[[], Pictures],
    floor: Callable[[], Took],
    plan: argparse.Namespace,
    refused: dict[str, str],
) -> Iterator[Round]:
    """Rounds in which everyone takes a turn, the floor too; the first of them is to warm up, on a
    CPU a short one. Who cannot run is out, with the reason.
    """
    for turn in range(plan.rounds + 1):
        short = not turn and not plan.timed
        tokens = min(3, plan.tokens) if short else plan.tokens
        own: Round = {}

        def asked(ask: Ask, few: bool = short, tokens: int = tokens) -> Took:
            return took(ask, fresh()[: 1 if few else None], tokens)

        opening = before = asked(found[GREEDY])
        for name in (*found, FLOOR):
            if name in refused:
                continue
            try:
                mine = floor() if name == FLOOR else asked(found[name])
            except Exception as error:
                refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            after = asked(found[GREEDY])
            own[name] = Turn(mine, Took(*((a + b) / 2 for a, b in zip(before, after, strict=True))))
            before = after
        if not turn:  # the first answer of all is greedy's: what starting cost it
            own[GREEDY] = own[GREEDY]._replace(own=opening)
        print(f"round {turn} of {plan.rounds}", file=sys.stderr, flush=True)
        yield own


def measured(
    model: str, vlm: Local, batch: int, plan: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One model at one batch size: what is known after each round."""
    fresh = Fresh(batch, seed=0)
    shown, device = fresh(), vlm.adapter.runner.device
    found = contestants(vlm, shown, plan.capture(device))
    chosen = {name: ask for name, ask in found.items() if name in plan.only}
    size = floor_bytes(vlm, shown, plan.tokens)
    rounds: list[Round] = []
    refused: dict[str, str] = {}

    def copying() -> Took:
        seconds = size / copied_a_second(device)
        return Took(seconds, seconds, seconds)

    every = rounds_of(chosen, fresh, copying, plan, refused)
    warm = next(every)
    for own in every:
        rounds.append(own)
        floor: dict[str, float] = {"bytes": size}
        if plan.timed:
            seconds = statistics.median(one[FLOOR].own.further for one in rounds)
            floor["ms"] = round(1e3 * seconds, 3)
        yield {
            "model": f"{model}, random, {str(vlm.adapter.model.dtype).removeprefix('torch.')}",
            "batch": batch,
            "rounds": len(rounds),
            "floor": floor,
            "contestants": table(warm, rounds, plan.timed),
            "refused": refused,
        }


def run(plan: argparse.Namespace, heard: Callable[[list[dict[str, Any]]], None]) -> None:
    """All models and batches; `heard` gets everything that is known after each round."""
    done: list[dict[str, Any]] = []
    for model, shape in plan.shapes.items():
        vlm = loaded(shape, plan.device)
        for batch in plan.batch or plan.batches:
            newest: list[dict[str, Any]] = []
            for entry in measured(model, vlm, batch, plan):
                newest = [entry]
                heard(done + newest)
            done += newest
        del vlm


def written(plan: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Keeps the results, and a plot beside them."""
    result = {
        "what": "time to the first token and per further token; ratios to greedy beside each turn",
        "command": shlex.join(["python", "benchmarks/decode.py", *sys.argv[1:]]),
        "device": plan.name,
        "versions": {"torch": torch.__version__, "halu": halu.__version__},
        "tokens": plan.tokens,
        "results": results,
    }
    plan.out.parent.mkdir(parents=True, exist_ok=True)
    plan.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(results, plan.out.with_suffix(".png"))


def planned(options: argparse.Namespace) -> argparse.Namespace:
    """The options with what follows from them and from the machine."""
    gpu = torch.cuda.is_available() and not options.tiny
    options.device = "cuda" if gpu else "cpu"
    options.shapes = ON_GPU if gpu else TINY if options.tiny else ON_CPU
    options.batches = (1, 8, 32) if gpu else (1,)
    options.capture = CudaGraphs if gpu else lambda _: repeated if options.tiny else None
    options.tokens = options.tokens or (128 if gpu else 16)
    options.only = {*BASELINES, *(options.only or NAMES)}
    options.timed = gpu
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    dry = f"{cpu}, dry run: the ratios mean nothing"
    options.name = torch.cuda.get_device_name() if gpu else dry if options.tiny else cpu
    return options


def names(text: str) -> set[str]:
    """Contestants, separated by commas."""
    given = {part.strip() for part in text.split(",")}
    if unknown := sorted(given - NAMES):
        known = ", ".join(sorted(NAMES))
        raise argparse.ArgumentTypeError(f"nobody is called {unknown[0]!r}; there are: {known}")
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, help="of an answer: 128 on a GPU, 16 on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, action="append", help="repeat for several")
    parser.add_argument("--only", type=names, help="contestants a,b,c beside the two baselines")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="dry run on the CPU")
    plan = planned(parser.parse_args())
    run(plan, lambda results: written(plan, results))


if __name__ == "__main__":
    main()
