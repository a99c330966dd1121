"""What all kernels share: how they find queries, keys and tables, and what they do to scores.

Scores are kept in units of ln 2, so that probabilities are powers of two: a `Source` has its scale
times log2 e, biases are multiplied here. An optional part that is none costs nothing: the branch is
decided when the kernel is compiled.

Letters: R rows and N keys of a tile, G key groups, D head width rounded up to a power of two.
"""

import os
from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Triton's interpreter multiplies the bit patterns of bf16: there, products are taken of float32.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


class Rows(NamedTuple):
    """A tensor whose last dimension lies close together: where it begins, and its strides in
    elements by lane of the batch (or page of a pool), by head (none: all share it) and by row.
    """

    data: Any
    lane: Any
    head: Any
    row: Any


class Source(NamedTuple):
    """All that a kernel reads. `q`, `k`, `v` [lane, head, row, D]; `labels` [lane, head, 1, K], or
    the edges of spans [lane, 1, G, 2]; the score map's `up`, `down` and `shift` [lane, head, 1, G];
    the key map's `factor`, `bias` and `gain` [lane, head, 1, K]; `pages` [lane, 1, 1, K / page];
    `start` and `stop` [lane].
    """

    q: Any
    k: Any
    v: Any
    labels: Any
    up: Any
    down: Any
    shift: Any
    factor: Any
    bias: Any
    gain: Any
    pages: Any
    start: Any
    stop: Any
    scale: Any
    keys: Any


@triton.jit
def keys_of(c: Source, lane: tl.tensor) -> tl.tuple:
    """First key that a lane sees, and the one after its last."""
    start = lane.to(tl.int32) * 0
    stop = start + c.keys
    if c.start is not None:
        start = tl.maximum(start, tl.load(c.start + lane).to(tl.int32))
    if c.stop is not None:
        stop = tl.minimum(stop, tl.load(c.stop + lane).to(tl.int32))
    return start, stop


@triton.jit
def slots(
    c: Source,
    table: Rows,
    lane: tl.tensor,
    head: tl.tensor,
    j: tl.tensor,
    inside: tl.tensor,
    PAGE: tl.constexpr,
) -> tl.tensor:
    """Where keys `j` [N] of a lane and key head lie in the table of keys or values."""
    place = table.data + head * table.head
    if PAGE == 0:
        place = place + lane * table.lane + j.to(tl.int64) * table.row
    else:
        page = tl.load(c.pages.data + lane * c.pages.lane + j // PAGE, mask=inside, other=0)
        place = place + page.to(tl.int64) * table.lane + (j % PAGE).to(tl.int64) * table.row
    return place


@triton.jit
def labels_of(
    c: Source,
    lane: tl.tensor,
    head: tl.tensor,
    j: tl.tensor,
    inside: tl.tensor,
    SPANS: tl.constexpr,
    G: tl.constexpr,
) -> tl.tensor:
    """Group of each key, in the shape of `head` and `j` together."""
    found = j * 0
    if G > 1 and not SPANS:
        found = at(c.labels, lane, head, j, inside, 0).to(tl.int32)
    if SPANS:
        for g in tl.static_range(1, G):
            edges = c.labels.data + lane * c.labels.lane + g * c.labels.row
            found = tl.where((j >= tl.load(edges)) & (j < tl.load(edges + 1)), g, found)
    return found


@triton.jit
def at(
    table: Rows,
    lane: tl.tensor,
    head: tl.tensor,
    index: tl.tensor,
    inside: tl.tensor,
    other: tl.constexpr,
) -> tl.tensor:
    """Entries of a table over keys or groups, in the shape of `index`, with that of `head` too if
    heads have their own.
    """
    place = table.data + lane * table.lane + index
    if table.head is not None:
        place = place + head * table.head
    return tl.load(place, mask=inside, other=other)


@triton.jit
def changed(
    c: Source,
    x: tl.tensor,
    lane: tl.tensor,
    head: tl.tensor,
    group: tl.tensor,
    j: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """Scores [R, N] after the score map of their group and the changes of their key; `head`,
    `group` and `j` broadcast to [R, N].
    """
    if c.up is not None:
        up = at(c.up, lane, head, group, None, None)
        down = at(c.down, lane, head, group, None, None)
        shift = at(c.shift, lane, head, group, None, None)
        x = up * tl.maximum(x, 0.0) + down * tl.minimum(x, 0.0) + shift * LOG2E
    if c.factor is not None:
        x *= at(c.factor, lane, head, j, inside, 1.0)
    if c.bias is not None:
        x += at(c.bias, lane, head, j, inside, 0.0) * LOG2E
    return x


@triton.jit
def finite(top: tl.tensor) -> tl.tensor:
    """A maximum to subtract: 0 where no key was seen, so that nothing becomes inf - inf."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def product(a: tl.tensor, b: tl.tensor, acc: tl.tensor) -> tl.tensor:
    """acc + a b in float32, float32 factors not rounded to tf32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
