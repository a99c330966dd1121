"""Chosen rows of a prompt. Masses come from a pass over K alone, outputs from a second pass over K
and V that knows each row's log-sum-exp and each group's weight; so any epilogue may stand between
the two, one accumulator is enough for all groups, and memory stays linear. Without an epilogue one
pass does all.

Letters as in `tile`; M queries of a tile.
"""

import triton
import triton.language as tl

from halu.attention.triton.tile import (
    LN2,
    LOG2E,
    Rows,
    Source,
    at,
    changed,
    finite,
    keys_of,
    labels_of,
    product,
    slots,
)


@triton.jit
def mass_kernel(
    c: Source,
    position: tl.tensor,
    mass: Rows,
    lse: Rows,
    queries: tl.int32,
    SHARE: tl.constexpr,
    G: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SPANS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Masses [.., G] and log-sum-exp of M queries: program (tile of queries, head, lane)."""
    lane = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * M + tl.arange(0, M)
    q, here, low, high = opened(c, position, lane, head, i, queries, WIDTH, D)
    g = tl.arange(0, GROUPS)
    top = tl.full([M], float("-inf"), tl.float32)
    sums = tl.zeros([M, GROUPS], tl.float32)
    for first in range(low, high, N):
        j = first + tl.arange(0, N)
        x, label = scored(c, q, here, lane, head, j, high, SHARE, G, WIDTH, PAGE, SPANS, D)
        new = tl.maximum(top, tl.max(x, 1))
        p = tl.exp2(x - finite(new)[:, None])
        sums *= tl.exp2(top - finite(new))[:, None]
        for one in tl.static_range(G):
            some = tl.sum(tl.where(label[None, :] == one, p, 0.0), 1)
            sums += tl.where(g[None, :] == one, some[:, None], 0.0)
        top = new
    whole = tl.sum(sums, 1)
    filled = tl.where(whole > 0, whole, 1.0)
    real = i < queries
    i = i.to(tl.int64)
    if mass is not None:
        share = sums / filled[:, None]
        place = mass.data + lane * mass.lane + head * mass.head + i[:, None] * mass.row + g[None, :]
        tl.store(place, share, mask=real[:, None] & (g < G)[None, :])
    found = tl.where(whole > 0, (top + tl.log2(filled)) * LN2, float("-inf"))
    tl.store(lse.data + lane * lse.lane + head * lse.head + i * lse.row, found, mask=real)


@triton.jit
def output_kernel(
    c: Source,
    position: tl.tensor,
    lse: Rows,
    weights: Rows,
    out: Rows,
    queries: tl.int32,
    SHARE: tl.constexpr,
    G: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SPANS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Outputs of M queries under the weights of their groups, whose log-sum-exp is then known."""
    lane = tl.program_id(2).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * M + tl.arange(0, M)
    q, here, low, high = opened(c, position, lane, head, i, queries, WIDTH, D)
    d = tl.arange(0, D)
    real = i < queries
    i = i.to(tl.int64)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    if weights is not None:
        known = lse.data + lane * lse.lane + head * lse.head + i * lse.row
        top = tl.load(known, real, 0.0) * LOG2E
        total += 1.0
    for first in range(low, high, N):
        j = first + tl.arange(0, N)
        x, label = scored(c, q, here, lane, head, j, high, SHARE, G, WIDTH, PAGE, SPANS, D)
        if weights is None:
            new = tl.maximum(top, tl.max(x, 1))
            p = tl.exp2(x - finite(new)[:, None])
            keep = tl.exp2(top - finite(new))
            total = total * keep + tl.sum(p, 1)
            acc *= keep[:, None]
            top = new
        else:
            p = tl.exp2(x - finite(top)[:, None])
            p *= weight_of(weights, lane, head, i, real, label, G)
        some = (j < high)[:, None] & (d < WIDTH)[None, :]
        if c.gain is not None:
            p *= at(c.gain, lane, head, j, j < high, 1.0)[None, :]
        values = slots(c, c.v, lane, head // SHARE, j, j < high, PAGE)
        v = tl.load(values[:, None] + d[None, :], some, 0.0)
        acc = product(p.to(v.dtype), v, acc)
    acc = (acc / tl.where(total > 0, total, 1.0)[:, None]).to(out.data.dtype.element_ty)
    place = out.data + lane * out.lane + head * out.head + i[:, None] * out.row + d[None, :]
    tl.store(place, acc, mask=real[:, None] & (d < WIDTH)[None, :])


@triton.jit
def opened(
    c: Source,
    position: tl.tensor,
    lane: tl.tensor,
    head: tl.tensor,
    i: tl.tensor,
    queries: tl.int32,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
) -> tl.tuple:
    """Queries `i` [M, D], the last key that each may see [M], and the keys [low, high) of all."""
    d = tl.arange(0, D)
    real = i < queries
    row = i.to(tl.int64)[:, None] * c.q.row + d[None, :]
    place = c.q.data + lane * c.q.lane + head * c.q.head + row
    q = tl.load(place, mask=real[:, None] & (d < WIDTH)[None, :], other=0.0)
    low, high = keys_of(c, lane)
    here = i * 0 + c.keys
    if position is not None:
        here = tl.load(position + i, mask=real, other=-1)
        high = tl.minimum(high, tl.max(here, 0) + 1)
    return q, here, low, high


@triton.jit
def scored(
    c: Source,
    q: tl.tensor,
    here: tl.tensor,
    lane: tl.tensor,
    head: tl.tensor,
    j: tl.tensor,
    high: tl.tensor,
    SHARE: tl.constexpr,
    G: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SPANS: tl.constexpr,
    D: tl.constexpr,
) -> tl.tuple:
    """Changed scores [M, N], -inf where a query may not look, and the keys' groups [N]."""
    d = tl.arange(0, D)
    inside = j < high
    place = slots(c, c.k, lane, head // SHARE, j, inside, PAGE)
    k = tl.load(place[:, None] + d[None, :], inside[:, None] & (d < WIDTH)[None, :], 0.0)
    x = product(q, tl.trans(k), None) * c.scale
    label = labels_of(c, lane, head, j, inside, SPANS, G)
    each = inside[None, :]
    x = changed(c, x, lane, head, label[None, :], j[None, :], each)
    return tl.where(each & (j[None, :] <= here[:, None]), x, float("-inf")), label


@triton.jit
def weight_of(
    weights: Rows,
    lane: tl.tensor,
    head: tl.tensor,
    i: tl.tensor,
    real: tl.tensor,
    label: tl.tensor,
    G: tl.constexpr,
) -> tl.tensor:
    """The weight of each key's group for each query [M, N]."""
    place = weights.data + lane * weights.lane + head * weights.head + i * weights.row
    found = tl.load(place, real, 1.0)[:, None]
    for g in tl.static_range(1, G):
        own = tl.load(place + g, real, 1.0)[:, None]
        found = tl.where(label[None, :] == g, own, found)
    return found + tl.zeros_like(label)[None, :].to(tl.float32)
