"""The attention kernels against plain attention and against what steering usually costs.

    python benchmarks/kernels.py --out benchmarks/results/kernels.json

Needs a CUDA device. For each number of keys, one query a row (decoding) and the last 64 rows of a
prompt, in bf16, as ratios between contestants that take turns in one run:

- `sdpa`: torch's scaled dot product attention, the quickest that it has; it steers nothing.
- `eager`: scores and probabilities in memory, masses, and a weight for each key, as the methods'
  released code has it.
- `kernel plain`, `kernel fused`, `kernel torch`: ours without an epilogue, with VAR's inside, and
  with the same epilogue in torch between masses and outputs.

Nothing is timed before every contestant has agreed with float32: `eager` within bf16's rounding of
the largest output, ours within twice the error of `eager`. For each of ours the bytes that
must move, the operations, the time that these take at the bandwidth and the rate measured in the
same run (the floor), and the gap are given.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import halu
from halu.attention import Redistribution, ScoreMap, at_least, weighted_attention
from halu.attention.inputs import Inputs
from halu.attention.triton.launch import weighted

KEYS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
SHAPES = {"llava-7b": (32, 32, 128), "qwen-7b": (28, 4, 128)}
ROWS = {"decode": 1, "prompt": 64}
GROUPS = 4
SHARES = (0.3, 0.4, 0.1, 0.2)
"""Of the keys in each group, so that no condition on masses hangs on rounding."""
TOLERANCE = 0.05
"""Largest error of `eager`, in parts of the largest output."""
FACTOR = 2
"""Largest error of ours, in that of `eager`."""

Contestant = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One comparison: a shape, so many keys, and the queries at their end."""

    shape: str
    rows: str
    keys: int

    def inputs(self) -> Inputs:
        heads, kv_heads, width = SHAPES[self.shape]
        torch.manual_seed(0)
        q = torch.randn(1, heads, ROWS[self.rows], width, device="cuda", dtype=torch.bfloat16)
        k, v = torch.randn(2, 1, kv_heads, self.keys, width, device="cuda", dtype=torch.bfloat16)
        shares = torch.tensor(SHARES, device="cuda")
        labels = torch.multinomial(shares, self.keys, replacement=True)[None]
        first = self.keys - q.shape[2] if q.shape[2] > 1 else None
        slopes = torch.tensor([1.0, 1.1, 1.0, 0.95], device="cuda")
        changed = ScoreMap(slopes, slopes, torch.zeros_like(slopes))
        return Inputs(q, k, v, labels, GROUPS, width**-0.5, first=first, score_map=changed)

    def cost(self) -> tuple[float, float]:
        """Bytes that must move and operations, of one pass over K and V."""
        heads, kv_heads, width = SHAPES[self.shape]
        rows = ROWS[self.rows]
        moved = 2 * kv_heads * self.keys * width + 2 * heads * rows * width
        return 2.0 * moved, 4.0 * heads * rows * self.keys * width


def redistribution() -> Redistribution:
    """VAR's form with its usual parameters."""
    keep, give = torch.tensor([1, 1, 0.6, 0.6]), torch.tensor([0.0, 1, 0, 0])
    when = [at_least(0, 0, 0.5, -0.5, 0), at_least(0.2, 0, 1, 1, 0)]
    return Redistribution.of(keep, give, when).on(torch.device("cuda", 0))


def eager(inputs: Inputs, form: Redistribution | None) -> Tensor:
    """Everything in memory, in bf16 but for the softmax."""
    share = inputs.q.shape[1] // inputs.k.shape[1]
    k, v = (t.repeat_interleave(share, 1) for t in (inputs.k, inputs.v))
    x = inputs.q @ k.transpose(-1, -2) * inputs.scale
    assert inputs.score_map is not None
    assert isinstance(inputs.labels, Tensor)
    x = x * inputs.score_map.up.to(x)[inputs.labels][:, None, None]  # both slopes are the same here
    if inputs.first is not None:
        position = torch.arange(x.shape[-1], device=x.device)
        query = torch.arange(inputs.first, inputs.first + x.shape[2], device=x.device)
        x = x.masked_fill(position > query[:, None], float("-inf"))
    p = torch.softmax(x, -1, dtype=torch.float32).to(x.dtype)
    if form is None:
        return p @ v
    member = (inputs.labels[..., None] == torch.arange(GROUPS, device=x.device)).to(p)  # [1, K, G]
    mass = p @ member[:, None]
    weights = form(mass.float()).to(p) @ member[:, None].transpose(-1, -2)
    return (p * weights) @ v


def contestants(inputs: Inputs, form: Redistribution) -> dict[str, Contestant]:
    """Who takes turns; `sdpa` alone computes something else."""
    q, k, v = inputs.q, inputs.k, inputs.v
    mask = None
    if inputs.first is not None:
        position = torch.arange(inputs.keys, device="cuda")
        query = torch.arange(inputs.first, inputs.keys, device="cuda")
        mask = position <= query[:, None]
    shared: dict[str, Any] = {"attn_mask": mask, "scale": inputs.scale, "enable_gqa": True}
    return {
        "sdpa": lambda: scaled_dot_product_attention(q, k, v, **shared),
        "eager": lambda: eager(inputs, form),
        "kernel plain": lambda: weighted(inputs, None),
        "kernel fused": lambda: weighted(inputs, form),
        "kernel torch": lambda: weighted(inputs, lambda mass: form(mass)),
    }


def gate(inputs: Inputs, form: Redistribution, found: dict[str, Contestant]) -> None:
    """Stops unless everybody who steers agrees with float32."""
    for epilogue, names in ((None, ("plain",)), (form, ("fused", "torch"))):
        wanted = weighted_attention(
            inputs.q.float(),
            inputs.k.float(),
            inputs.v.float(),
            inputs.labels,
            GROUPS,
            scale=inputs.scale,
            epilogue=epilogue,
            first=inputs.first,
            score_map=inputs.score_map,
            impl="reference",
        )
        usual = off("eager", eager(inputs, epilogue), wanted, TOLERANCE * float(wanted.abs().max()))
        for name in names:
            off(f"kernel {name}", found[f"kernel {name}"](), wanted, FACTOR * usual)


def off(name: str, given: Tensor, wanted: Tensor, most: float) -> float:
    """The largest error; stops if that is more than `most`, or no number."""
    gap = float((given.float() - wanted).abs().max())
    if not gap <= most:
        sys.exit(f"{name} is off by {gap:.3g}, at most {most:.3g}: nothing was timed.")
    return gap


def captured(call: Contestant) -> Callable[[], None]:
    """The call as a CUDA graph, so that the device's time is measured and not Python's."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


def seconds(call: Callable[[], object], repeats: int = 20) -> float:
    """Of one call on the device, launched back to back."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    stop.record()
    stop.synchronize()
    milliseconds: float = start.elapsed_time(stop)
    return milliseconds / 1e3 / repeats


def peak(call: Contestant) -> int:
    """Bytes allocated beyond what lies there already."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def limits() -> tuple[float, float]:
    """Bytes a second of a copy and operations a second of a product, as measured now."""
    a = torch.empty(2**29, dtype=torch.int8, device="cuda")
    b = torch.empty_like(a)
    m = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for call in (lambda: b.copy_(a), lambda: m @ m):
        seconds(call)
    return 2 * a.numel() / seconds(lambda: b.copy_(a)), 2 * 8192**3 / seconds(lambda: m @ m)


def measure(
    case: Case, form: Redistribution, rounds: int, top: tuple[float, float]
) -> dict[str, Any]:
    """One case: medians of the rounds, ratios within a round, memory, floors."""
    inputs = case.inputs()
    found = contestants(inputs, form)
    gate(inputs, form, found)
    times: dict[str, list[float]] = {name: [] for name in found}
    recorded = {name: captured(call) for name, call in found.items()}
    for turn in range(rounds + 1):
        for name, call in recorded.items():
            spent = seconds(call)
            if turn:
                times[name].append(spent)
    moved, operations = case.cost()
    floor = max(moved / top[0], operations / top[1])
    rows = {}
    for name, own in times.items():
        middle = statistics.median(own)
        to = {
            f"to {base}": round(
                statistics.median(a / b for a, b in zip(own, times[base], strict=True)), 3
            )
            for base in ("sdpa", "eager")
        }
        rows[name] = {"us": round(middle * 1e6, 2), **to, "peak_bytes": peak(found[name])}
        rows[name]["to floor"] = round(middle / floor, 2)
    work = {"bytes": moved, "operations": operations, "floor_us": round(floor * 1e6, 2)}
    return {"shape": case.shape, "rows": case.rows, "keys": case.keys, **work, "contestants": rows}


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Times over keys, one panel a shape and kind of rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(shape, rows) for shape in SHAPES for rows in ROWS]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.5), squeeze=False)
    for axis, (shape, rows) in zip(axes[0], panels, strict=True):
        mine = [case for case in cases if (case["shape"], case["rows"]) == (shape, rows)]
        keys = [case["keys"] for case in mine]
        for name in mine[0]["contestants"]:
            axis.loglog(keys, [case["contestants"][name]["us"] for case in mine], label=name)
        axis.loglog(keys, [case["floor_us"] for case in mine], "k:", label="floor")
        axis.set(title=f"{shape}, {rows}", xlabel="keys", ylabel="microseconds")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("The kernels are measured on a CUDA device, and there is none here.")
    form, top = redistribution(), limits()
    cases = []
    for case in (Case(s, r, k) for s in SHAPES for r in ROWS for k in KEYS):
        cases.append(measure(case, form, options.rounds, top))
        print(json.dumps(cases[-1]), flush=True)
    result = {
        "what": "one call of attention, bf16, ratios within a round",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "halu": halu.__version__,
        "bytes_a_second": top[0],
        "operations_a_second": top[1],
        "rounds": options.rounds,
        "cases": cases,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
        plot(cases, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
