"""Compiles every kernel for a GPU that need not be there, and prints what each one takes.

    python tests/compile_kernels.py CAPABILITY

bf16 at head width 128, fp16 at 80 with every option, fp32 at 64: not fp32 at 128, which spills
registers. The real launching code runs on small CPU tensors; only the last step, the launch, is
left out.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from halu.attention import KeyMap, Redistribution, ScoreMap, Spans
from halu.attention.inputs import Inputs
from halu.attention.triton import columns, launch


class Absent:
    """A GPU that is only compiled for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
    """In place of a launch."""
    kernel = launched(self, *args, grid=grid, warmup=True, **options)
    if kernel.hash not in seen:
        seen.add(kernel.hash)
        name = self.fn.__name__
        print(f"{name}: {kernel.metadata.shared} bytes shared, {resources(kernel.asm['cubin'])}")
    return kernel


def resources(code: bytes) -> str:
    """Registers and stack of machine code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(
        part.split(":") for part in told.split() if part.count(":") == 1 and part[-1] != ":"
    )
    return f"{found['REG']} registers, {found['STACK']} bytes stack"


def call(queries: int, dtype: torch.dtype, width: int, *, everything: bool) -> Inputs:
    """Inputs that use every option, or none."""
    lanes, heads, kv_heads, keys, groups = 2, 14, 2, 64, 4
    q = torch.zeros(lanes, heads, queries, width, dtype=dtype)
    first = 0 if queries > 1 else None
    if not everything:
        k = torch.zeros(lanes, kv_heads, keys, width, dtype=dtype)
        labels = torch.zeros(lanes, keys, dtype=torch.int64)
        return Inputs(q, k, k, labels, groups, 1.0, first=first)
    pool = torch.zeros(8, kv_heads, 16, width, dtype=dtype)
    edges = torch.zeros(lanes, dtype=torch.int32)
    return Inputs(
        q,
        pool,
        pool,
        Spans(torch.zeros(lanes, groups, 2, dtype=torch.int32)),
        groups,
        1.0,
        first=first,
        within=(edges, edges),
        pages=torch.zeros(lanes, keys // 16, dtype=torch.int32),
        score_map=ScoreMap(*(torch.zeros(heads, groups) for _ in range(3))),
        key_map=KeyMap(torch.zeros(heads, keys), torch.zeros(keys), torch.zeros(lanes, 1, keys)),
    )


def main() -> None:
    for dtype, width in ((torch.bfloat16, 128), (torch.float16, 80), (torch.float32, 64)):
        for queries in (1, 64):
            inputs = call(queries, dtype, width, everything=dtype == torch.float16)
            launch.weighted(inputs, Redistribution.neutral(4))
            launch.weighted(inputs, None)
            launch.grouped(inputs)
        q, k = (torch.zeros(1, heads, 64, width, dtype=dtype) for heads in (4, 2))
        columns.column_mass(q, k, torch.arange(64), 1.0)


seen: set[str] = set()
launched = JITFunction.run

if __name__ == "__main__":
    driver.set_active(Absent(int(sys.argv[1])))
    JITFunction.run = compiled
    main()
