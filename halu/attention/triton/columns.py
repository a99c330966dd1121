"""How much of a prompt's attention each key gets, summed over rows.

Two passes and linear memory: each row's log-sum-exp, then for each tile of keys a walk down the
rows.

Letters as in `tile`; M queries of a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from halu.attention.inputs import Inputs
from halu.attention.triton.arguments import check, close, constants, rows_of, source
from halu.attention.triton.configs import Config, pick
from halu.attention.triton.prompt import mass_kernel
from halu.attention.triton.tile import LOG2E, Rows, Source, product


def column_mass(
    q: Tensor, k: Tensor, rows: Tensor, scale: float, config: Config | None = None
) -> tuple[Tensor, Tensor]:
    """As `halu.attention.column_mass`."""
    b, h, keys, width = q.shape
    rows = rows.to(device=q.device, dtype=torch.int32)
    some = close(q[:, :, rows.long()])
    labels = torch.zeros(b, keys, dtype=torch.uint8, device=q.device)
    inputs = Inputs(some, close(k), close(k), labels, 1, scale)
    check(inputs)
    lse = torch.empty(b, h, len(rows), device=q.device)
    total = torch.empty(b, h, keys, device=q.device)
    own = torch.empty(b, h, keys, device=q.device)
    config = config or pick("columns", q.device, width, q.dtype, keys)
    given, sizes = source(inputs), constants(inputs, config)
    grid = (triton.cdiv(len(rows), config.rows), h, b)
    at = rows_of(lse.unsqueeze(-1))
    with torch.cuda.device_of(q):
        mass_kernel[grid](given, rows, None, at, len(rows), GROUPS=1, **sizes)
        grid = (triton.cdiv(keys, config.keys), h, b)
        sizes = {name: sizes[name] for name in ("SHARE", "WIDTH", "M", "N", "D", *config.launch)}
        found = (rows_of(total.unsqueeze(2)), rows_of(own.unsqueeze(2)))
        column_kernel[grid](given, rows, at, *found, len(rows), **sizes)
    return total, own


@triton.jit
def column_kernel(
    c: Source,
    position: tl.tensor,
    lse: Rows,
    total: Rows,
    own: Rows,
    queries: tl.int32,
    SHARE: tl.constexpr,
    WIDTH: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Sums of N keys: program (tile of keys, head, lane)."""
    lane = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * N
    j = first + tl.arange(0, N)
    d = tl.arange(0, D)
    inside = j < c.keys
    wide = (d < WIDTH)[None, :]
    keys = c.k.data + lane * c.k.lane + head // SHARE * c.k.head
    k = tl.load(keys + j.to(tl.int64)[:, None] * c.k.row + d[None, :], inside[:, None] & wide, 0.0)
    queries_of = c.q.data + lane * c.q.lane + head * c.q.head
    lse_of = lse.data + lane * lse.lane + head * lse.head
    sums = tl.zeros([N], tl.float32)
    mine = tl.zeros([N], tl.float32)
    for start in range(0, queries, M):
        i = start + tl.arange(0, M)
        real = i < queries
        here = tl.load(position + i, real, -1)
        if tl.max(here, 0) >= first:
            row = i.to(tl.int64)
            place = queries_of + row[:, None] * c.q.row + d[None, :]
            q = tl.load(place, real[:, None] & wide, 0.0)
            x = product(q, tl.trans(k), None) * c.scale
            x -= tl.load(lse_of + row * lse.row, real, 0.0)[:, None] * LOG2E
            seen = inside[None, :] & (j[None, :] <= here[:, None])
            p = tl.exp2(tl.where(seen, x, float("-inf")))
            sums += tl.sum(p, 0)
            mine += tl.sum(tl.where(j[None, :] == here[:, None], p, 0.0), 0)
    tl.store(total.data + lane * total.lane + head * total.head + j, sums, mask=inside)
    tl.store(own.data + lane * own.lane + head * own.head + j, mine, mask=inside)
