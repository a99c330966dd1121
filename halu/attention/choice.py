"""Which implementation of grouped attention runs: the only place that decides."""

import importlib.util
import os
from functools import cache
from typing import Literal

import torch

from halu.errors import Unavailable

Impl = Literal["auto", "reference", "triton"]
IMPLS = ("reference", "triton")


def best(device: torch.device) -> Literal["reference", "triton"]:
    """What runs where nobody asked for anything: the kernels on a GPU, torch elsewhere."""
    return "triton" if device.type == "cuda" and _installed() else "reference"


def implementation(asked: str, device: torch.device) -> Literal["reference", "triton"]:
    """What runs on a device: the best there under "auto", otherwise what was asked for.

    Raises:
        Unavailable: if that does not exist, or cannot run on this device.
    """
    if asked == "auto":
        return best(device)
    if asked == "reference":
        return "reference"
    if asked != "triton":
        raise Unavailable(
            f"No attention implementation {asked!r}.", hint=f"There are: {', '.join(IMPLS)}."
        )
    if not _installed():
        raise Unavailable.without("triton", "The attention kernels need triton.")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise Unavailable(
            f"The attention kernels need a GPU, the tensors are on {device}.",
            hint="For a slow run on the CPU, set TRITON_INTERPRET=1 before Python starts.",
        )
    return "triton"


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
