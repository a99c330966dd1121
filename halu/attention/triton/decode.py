"""One query a row of the batch, its keys split among programs (flash decoding), by group.

Every pair of a query head and a key group is a row of its own softmax: it sees the keys of its
group. The rows that share a key head share each tile of K and V, so one key head's tile meets
H / Hkv x G rows, and groups fill what a tensor core would otherwise pad. A second kernel joins the
splits and the groups and applies the epilogue. A program whose keys all lie behind the row's last
returns at once, so a grid may be as long as the cache while the lengths live on the device.

Letters as in `tile`; S splits.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from halu.attention.triton.tile import (
    LN2,
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


class Parts(NamedTuple):
    """What the splits leave [lane, H, G, S]: the largest score, the sum of powers of two above it,
    and the values' sum [.., D].
    """

    top: Any
    total: Any
    out: Any


class Found(NamedTuple):
    """What the join writes; none where nobody asks. `out` [lane, head, 1, D]; `mass` [lane, H, G],
    `pieces` [lane, H, G, D] and `lse` [lane, H], all in a row.
    """

    out: Any
    mass: Any
    pieces: Any
    lse: Any


@triton.jit
def split_kernel(
    c: Source,
    parts: Parts,
    SHARE: tl.constexpr,
    G: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SPANS: tl.constexpr,
    CHUNK: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """One split of one key head of one lane: program (lane, key head and tile of rows, split)."""
    lane = tl.program_id(0).to(tl.int64)
    TILES: tl.constexpr = (SHARE * G + R - 1) // R
    kv = (tl.program_id(1) // TILES).to(tl.int64)
    start, stop = keys_of(c, lane)
    low = start + tl.program_id(2) * CHUNK
    high = tl.minimum(low + CHUNK, stop)
    if low >= stop:
        return
    row = tl.program_id(1) % TILES * R + tl.arange(0, R)
    real = row < SHARE * G
    head = kv * SHARE + tl.minimum(row // G, SHARE - 1)
    group = row % G
    d = tl.arange(0, D)
    place = c.q.data + lane * c.q.lane + head[:, None] * c.q.head + d[None, :]
    q = tl.load(place, mask=(d < WIDTH)[None, :], other=0.0)
    top = tl.full([R], float("-inf"), tl.float32)
    total = tl.zeros([R], tl.float32)
    acc = tl.zeros([R, D], tl.float32)
    for first in range(low, high, N):
        j = first + tl.arange(0, N)
        inside = j < high
        some = inside[:, None] & (d < WIDTH)[None, :]
        k = tl.load(slots(c, c.k, lane, kv, j, inside, PAGE)[:, None] + d[None, :], some, 0.0)
        v = tl.load(slots(c, c.v, lane, kv, j, inside, PAGE)[:, None] + d[None, :], some, 0.0)
        x = product(q, tl.trans(k), None) * c.scale
        x = _own(c, x, lane, head, group, j, real, inside, SPANS, G)
        new = tl.maximum(top, tl.max(x, 1))
        p = tl.exp2(x - finite(new)[:, None])
        keep = tl.exp2(top - finite(new))
        total = total * keep + tl.sum(p, 1)
        if c.gain is not None:
            p *= at(c.gain, lane, head[:, None], j[None, :], inside[None, :], 1.0)
        acc = product(p.to(v.dtype), v, acc * keep[:, None])
        top = new
    slot = (lane * (tl.num_programs(1) // TILES) * SHARE * G + head * G + group) * tl.num_programs(
        2
    )
    slot += tl.program_id(2)
    tl.store(parts.top + slot, top, mask=real)
    tl.store(parts.total + slot, total, mask=real)
    place = parts.out + slot[:, None] * WIDTH + d[None, :]
    tl.store(place, acc, mask=real[:, None] & (d < WIDTH)[None, :])


@triton.jit
def _own(
    c: Source,
    x: tl.tensor,
    lane: tl.tensor,
    head: tl.tensor,
    group: tl.tensor,
    j: tl.tensor,
    real: tl.tensor,
    inside: tl.tensor,
    SPANS: tl.constexpr,
    G: tl.constexpr,
) -> tl.tensor:
    """Scores [R, N], changed; -inf for keys of other groups."""
    each = inside[None, :]
    x = changed(c, x, lane, head[:, None], group[:, None], j[None, :], each)
    label = labels_of(c, lane, head[:, None], j[None, :], each, SPANS, G)
    return tl.where(real[:, None] & each & (label == group[:, None]), x, float("-inf"))


@triton.jit
def join_kernel(
    c: Source,
    parts: Parts,
    table: Rows,
    found: Found,
    splits: tl.int32,
    G: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUPS: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
) -> None:
    """Joins the splits and groups of one head: program (lane, head)."""
    lane = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    start, stop = keys_of(c, lane)
    used = tl.maximum(stop - start + CHUNK - 1, 0) // CHUNK
    g = tl.arange(0, GROUPS)
    s = tl.arange(0, S)
    d = tl.arange(0, D)
    own = (lane * tl.num_programs(1) + head) * G
    slot = (own + g) * splits
    there = (g < G)[:, None] & (s < used)[None, :]
    top = tl.load(parts.top + slot[:, None] + s[None, :], there, float("-inf"))
    total = tl.load(parts.total + slot[:, None] + s[None, :], there, 0.0)
    most = tl.max(tl.max(top, 1), 0)
    mass = tl.sum(total * tl.exp2(top - finite(most)), 1)
    whole = tl.sum(mass, 0)
    filled = tl.where(whole > 0, whole, 1.0)
    mass = mass / filled
    acc = tl.zeros([GROUPS, D], tl.float32)
    some = (g < G)[:, None] & (d < WIDTH)[None, :]
    for i in range(0, used):
        part = tl.load(parts.top + slot + i, g < G, float("-inf"))
        piece = tl.load(parts.out + (slot + i)[:, None] * WIDTH + d[None, :], some, 0.0)
        acc += tl.exp2(part - finite(most))[:, None] * piece
    acc = acc / filled
    if found.lse is not None:
        lse = tl.where(whole > 0, (most + tl.log2(filled)) * LN2, float("-inf"))
        tl.store(found.lse + lane * tl.num_programs(1) + head, lse)
    if found.mass is not None:
        tl.store(found.mass + own + g, mass, mask=g < G)
    if found.pieces is not None:
        tl.store(found.pieces + (own + g)[:, None] * WIDTH + d[None, :], acc, mask=some)
    if found.out is not None:
        if table is not None:
            acc *= redistributed(table, mass, lane, head, g, G)[:, None]
        out = tl.sum(acc, 0).to(found.out.data.dtype.element_ty)
        place = found.out.data + lane * found.out.lane + head * found.out.head + d
        tl.store(place, out, mask=d < WIDTH)


@triton.jit
def redistributed(
    table: Rows,
    mass: tl.tensor,
    lane: tl.tensor,
    head: tl.tensor,
    g: tl.tensor,
    G: tl.constexpr,
) -> tl.tensor:
    """`Redistribution` of masses [GROUPS]; the table [lane, head, 4, G]."""
    entry = table.data + lane * table.lane + head * table.head + g
    keep = tl.load(entry, g < G, 1.0)
    give = tl.load(entry + table.row, g < G, 0.0)
    first = tl.sum(tl.load(entry + 2 * table.row, g < G, 0.0) * mass, 0)
    second = tl.sum(tl.load(entry + 3 * table.row, g < G, 0.0) * mass, 0)
    freed = tl.sum((1 - keep) * mass, 0)
    receiving = tl.sum(give * mass, 0)
    lost = tl.sum((give != 0).to(tl.int32), 0) == 0
    met = (first >= 0) & (second >= 0) & (lost | (receiving >= 1e-30))
    return tl.where(met, keep + give * freed / tl.maximum(receiving, 1e-30), 1.0)
