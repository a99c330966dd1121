"""Tile sizes of the kernels: read from a table, never searched while a model runs.

`configs.json` has them by device (compute capability "9.0", or "any"), kernel, head width rounded
up to a power of two with bytes a number ("128x2"), and the keys up to which they hold. What is
under "any" was reasoned, not measured; `benchmarks/tune_kernels.py` measures a device and adds it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import torch

Kernel = Literal["decode", "prompt", "columns"]
FILE = "configs.json"
# A product and a sum in one step, which Triton is about to stop doing unasked.
FUSED = {"enable_fp_fusion": True}


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of one launch.

    Attributes:
        rows: most rows of a tile: queries, or for `decode` pairs of head and group.
        keys: keys of a tile.
        warps: warps of a program.
        stages: tiles in flight.
        chunk: for `decode`: keys of a split, a multiple of `keys`.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    chunk: int = 0

    @property
    def launch(self) -> dict[str, int | bool]:
        """What the compiler is told besides the sizes."""
        return {"num_warps": self.warps, "num_stages": self.stages, **FUSED}


def pick(kernel: Kernel, device: torch.device, width: int, dtype: torch.dtype, keys: int) -> Config:
    """The sizes for a call: the device's own if it was measured, else the reasoned ones."""
    table = _table()
    kind = f"{rounded(width)}x{dtype.itemsize}"
    own = table.get(_capability(device), {}).get(kernel, {}).get(kind)
    entries = own or table["any"][kernel][kind]
    fitting = (entry for entry in entries if entry["up_to"] is None or keys <= entry["up_to"])
    return Config(**{name: size for name, size in next(fitting).items() if name != "up_to"})


def rounded(width: int) -> int:
    """The next power of two, at least the 16 that a tensor core takes."""
    return max(16, 1 << (width - 1).bit_length())


@cache
def _capability(device: torch.device) -> str:
    if device.type != "cuda":
        return "any"
    return "{}.{}".format(*torch.cuda.get_device_capability(device))


@cache
def _table() -> dict[str, Any]:
    text = files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)["devices"]
    return table
