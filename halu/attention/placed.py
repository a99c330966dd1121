"""Small tables on the device that needs them, copied there once: a recorded step may not copy from
the host.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_copies = WeakTensorKeyDictionary()


def placed(table: Tensor, device: torch.device) -> Tensor:
    """A table that nobody writes to, on a device; as long as the table lives its copy does."""
    if table.device == device:
        return table
    copies: dict[torch.device, Tensor] = _copies.setdefault(table, {})
    if device not in copies:
        copies[device] = table.to(device)
    return copies[device]


def picked(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """What picks these rows of a batch: for neighbours a slice, which copies nothing, else their
    indices [n] on a device.
    """
    start, stop = rows[0], rows[-1] + 1
    return slice(start, stop) if rows == [*range(start, stop)] else indices(tuple(rows), device)


@lru_cache(1024)
def indices(rows: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices [n] on a device."""
    return torch.tensor(rows, device=device)
