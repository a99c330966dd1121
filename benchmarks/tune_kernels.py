"""Searches the kernels' tile sizes on this device and writes them beside the stored ones.

    python benchmarks/tune_kernels.py

Needs a CUDA device. For each kernel, head width and type, every combination that compiles and whose
result is right is timed, at the longest call of each range of keys; the quickest goes to
`halu/attention/triton/configs.json` under the device's compute capability, which replaces what was
there for that kernel, width and type. The file is written after each of them, so that a search
which breaks off loses only the one it was at.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kernels import captured, redistribution, seconds
from torch import Tensor
from triton.errors import TritonError

from halu.attention.inputs import Inputs
from halu.attention.triton import columns, configs, launch
from halu.attention.triton.configs import Config

FILE = Path(configs.__file__).with_name(configs.FILE)
WIDTHS = (32, 64, 128)
TYPES = (torch.bfloat16, torch.float32)
RANGES: dict[str, tuple[int | None, ...]] = {
    "decode": (1024, 4096, None),
    "prompt": (None,),
    "columns": (None,),
}
LONGEST = {"decode": 32768, "prompt": 4096, "columns": 4096}
HEADS, KV_HEADS, GROUPS = 32, 8, 4
TOLERANCE = 3e-2
"""Largest difference from the stored sizes, in parts of the largest output."""


def candidates(kernel: str) -> Iterator[Config]:
    """All combinations of sizes."""
    chunks = (64, 128, 256, 512, 1024) if kernel == "decode" else (0,)
    rows = (16, 32, 64) if kernel == "decode" else (16, 32, 64, 128)
    for r, n, warps, stages, chunk in itertools.product(
        rows, (16, 32, 64, 128), (2, 4, 8), (1, 2, 3, 4), chunks
    ):
        if chunk % n == 0:
            yield Config(r, n, warps, stages, chunk)


def call(
    kernel: str, width: int, dtype: torch.dtype, keys: int
) -> Callable[[Config | None], Tensor]:
    """One call of a kernel with given sizes."""
    queries = 1 if kernel == "decode" else 512
    q = torch.randn(1, HEADS, queries, width, device="cuda", dtype=dtype)
    k, v = torch.randn(2, 1, KV_HEADS, keys, width, device="cuda", dtype=dtype)
    labels = torch.randint(GROUPS, (1, keys), device="cuda")
    first = None if kernel == "decode" else keys - queries
    inputs = Inputs(q, k, v, labels, GROUPS, width**-0.5, first=first)
    if kernel == "columns":
        every, rows = torch.randn_like(k).repeat_interleave(4, 1), torch.arange(keys, device="cuda")
        return lambda config: columns.column_mass(every, k, rows, width**-0.5, config)[0]
    form = redistribution()
    return lambda config: launch.weighted(inputs, form, config=config)


def quickest(run: Callable[[Config | None], Tensor], kernel: str) -> Config:
    """The best of the candidates that compile, fit and agree with the stored sizes."""
    wanted = run(None).float()
    best: tuple[float, Config | None] = (float("inf"), None)
    for config in candidates(kernel):
        try:
            gap = (run(config).float() - wanted).abs().max()
        except (TritonError, RuntimeError) as error:
            torch.cuda.synchronize()  # raises if the device is of no use any more
            print(f"{kernel} with {config} does not run: {type(error).__name__}", file=sys.stderr)
            continue
        if not gap <= TOLERANCE * wanted.abs().max():  # NaN is not
            sys.exit(f"{kernel} with {config} is off by {float(gap):.3g}.")
        took = seconds(captured(partial(run, config)))
        best = min(best, (took, config), key=lambda pair: pair[0])
    if best[1] is None:
        sys.exit(f"No sizes of {kernel} fit this device.")
    return best[1]


def tuned(kernel: str, width: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The table's entries of one kernel, width and type."""
    entries = []
    for up_to in RANGES[kernel]:
        found = quickest(call(kernel, width, dtype, up_to or LONGEST[kernel]), kernel)
        entries.append({"up_to": up_to, **dataclasses.asdict(found)})
        print(kernel, width, dtype, entries[-1], flush=True)
    return entries


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("Tile sizes are searched on a CUDA device, and there is none here.")
    table = json.loads(FILE.read_text(encoding="utf-8"))
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    own: dict[str, dict[str, Any]] = table["devices"].setdefault(capability, {})
    for kernel, width, dtype in itertools.product(RANGES, WIDTHS, TYPES):
        kind = f"{configs.rounded(width)}x{dtype.itemsize}"
        own.setdefault(kernel, {})[kind] = tuned(kernel, width, dtype)
        FILE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"Wrote {FILE} for {capability} ({torch.cuda.get_device_name()}).")


if __name__ == "__main__":
    main()
