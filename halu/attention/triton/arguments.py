"""What a kernel is given, from a checked call: pointers with strides, and sizes known when it is
compiled. Nothing here reads a tensor's values, so a call can be captured in a CUDA graph.
"""

from typing import Any

import torch
from torch import Tensor

from halu.attention.inputs import Inputs, Spans
from halu.attention.triton.configs import Config, rounded
from halu.attention.triton.tile import LOG2E, Rows, Source
from halu.errors import Unsupported

TYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 128


def source(inputs: Inputs) -> Source:
    """Queries, keys and tables of a call."""
    labels, maps, keyed = inputs.labels, inputs.score_map, inputs.key_map
    lanes, heads = inputs.q.shape[:2]
    start, stop = inputs.within or (None, None)
    pages = inputs.cached.pages
    if isinstance(labels, Spans):
        table = rows_of(labels.edges.to(torch.int32).unsqueeze(1).contiguous())
    else:
        by_head = labels.unsqueeze(1) if labels.dim() == 2 else labels
        table = _shared(close(by_head).unsqueeze(2))

    def tables(parts: tuple[Tensor | None, ...], length: int) -> list[Rows | None]:
        return [p if p is None else _across(p, lanes, heads, length, inputs.q) for p in parts]

    nothing = (None, None, None)
    by_group = tables((maps.up, maps.down, maps.bias) if maps else nothing, inputs.groups)
    by_key = tables((keyed.factor, keyed.bias, keyed.gain) if keyed else nothing, inputs.keys)
    return Source(
        q=rows_of(inputs.q),
        k=rows_of(inputs.k),
        v=rows_of(inputs.v),
        labels=table,
        **dict(zip(("up", "down", "shift"), by_group, strict=True)),
        **dict(zip(("factor", "bias", "gain"), by_key, strict=True)),
        pages=None if pages is None else Rows(pages.table, pages.table.stride(0), 0, 0),
        start=start,
        stop=stop,
        scale=float(inputs.scale * LOG2E.value),
        keys=inputs.keys,
    )


def constants(inputs: Inputs, config: Config) -> dict[str, Any]:
    """Sizes by the names that the kernels of whole prompts have for them."""
    return {
        "SHARE": inputs.q.shape[1] // inputs.k.shape[1],
        "G": inputs.groups,
        "WIDTH": inputs.q.shape[-1],
        "PAGE": 0 if inputs.pages is None else inputs.k.shape[2],
        "SPANS": isinstance(inputs.labels, Spans),
        "M": config.rows,
        "N": config.keys,
        "D": rounded(inputs.q.shape[-1]),
        **config.launch,
    }


def rows_of(table: Tensor) -> Rows:
    """A tensor [lane, head, row, D], D lying close together."""
    return Rows(table, *table.stride()[:3])


def close(table: Tensor) -> Tensor:
    """The tensor, copied if its last dimension does not lie close together."""
    return table if table.stride(-1) == 1 or table.shape[-1] == 1 else table.contiguous()


def _across(table: Tensor, lanes: int, heads: int, length: int, like: Tensor) -> Rows:
    """A table [length], [H, length] or [B, H, length] for every lane and head, without copies."""
    on_device = table.to(device=like.device, dtype=torch.float32)
    return _shared(close(on_device.expand(lanes, heads, length)).unsqueeze(2))


def _shared(table: Tensor) -> Rows:
    """A table [lane, head, 1, N]; where heads do not differ the kernel need not read it by head."""
    rows = rows_of(table)
    return rows._replace(head=None) if table.shape[1] == 1 or rows.head == 0 else rows


def check(inputs: Inputs) -> None:
    """Refuses what the kernels do not do.

    Raises:
        Unsupported: if they do not.
    """
    width, dtype = inputs.q.shape[-1], inputs.q.dtype
    if inputs.mask is not None:
        raise Unsupported("The attention kernels take stretches of keys, no masks.")
    if dtype not in TYPES or inputs.k.dtype != dtype or inputs.v.dtype != dtype:
        given = ", ".join(
            str(t.dtype).removeprefix("torch.") for t in (inputs.q, inputs.k, inputs.v)
        )
        raise Unsupported(f"The attention kernels take bf16, fp16 or fp32 throughout, not {given}.")
    if width > WIDEST:
        raise Unsupported(f"The attention kernels take heads of up to {WIDEST}, not {width}.")
