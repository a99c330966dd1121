"""The keys and values of a batch, wherever they lie: in a row, or in pages of a pool that requests
share.

Letters: B batch, H query heads, Hkv key heads, Q queries, R rows of probabilities, K keys, D head
width, S slots of a page, N visits.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halu.attention.pages import Pages


@dataclass(frozen=True, slots=True)
class Keys:
    """What the queries of a batch can attend to.

    Attributes:
        k: keys [B, Hkv, K, D], or a pool of pages [all pages, Hkv, S, D].
        v: values, like k.
        pages: which of the pool's pages are whose; none: k and v are no pool.
    """

    k: Tensor
    v: Tensor
    pages: Pages | None = None

    @property
    def room(self) -> int:
        """K, which may be more than a row has filled."""
        return self.k.shape[2] if self.pages is None else self.pages.room

    def rows(self, pick: slice | Tensor) -> "Keys":
        """Some rows of the batch."""
        if self.pages is None:
            return Keys(self.k[pick], self.v[pick])
        return replace(self, pages=self.pages.rows(pick))

    def upto(self, count: int) -> "Keys":
        """The first `count` keys of every row, with pages as many whole pages as have them."""
        if self.pages is None:
            return Keys(self.k[:, :, :count], self.v[:, :, :count])
        return replace(self, pages=self.pages.upto(count))

    def stretch(self, index: int, span: slice) -> tuple[Tensor, Tensor]:
        """A stretch of one row's keys and values [1, Hkv, n, D]."""
        one = self.rows(slice(index, index + 1)).upto(span.stop)
        k, v = one.in_a_row()
        return k[:, :, span], v[:, :, span]

    def in_a_row(self) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hkv, K, D], copied out of their pages."""
        if self.pages is None:
            return self.k, self.v
        table = self.pages.table.long()
        k, v = (t[table].transpose(1, 2).flatten(2, 3) for t in (self.k, self.v))
        return k, v

    def dot(self, q: Tensor) -> Tensor:
        """Products of queries [B, H, Q, D] and keys [B, H, Q, K], in float32; pages are multiplied
        where they lie, and slots that nobody has filled give anything.
        """
        if self.pages is None:
            return _dot(q, self.k)
        go, (rows, count) = self.pages.way, self.pages.table.shape
        each = q[go.rows]
        parts = [_dot(each[a:b], self.k[page : page + b - a]) for a, b, page in go.runs]
        x = q.new_zeros(rows, count, *q.shape[1:3], self.pages.size, dtype=torch.float32)
        if parts:
            x[go.rows, go.numbers] = torch.cat(parts)  # each [H, Q, S]
        return x.permute(0, 2, 3, 1, 4).flatten(3)

    def mix(self, p: Tensor) -> Tensor:
        """Probabilities [B, H, R, K] times values [B, H, R, D], in float32. Slots of pages that
        nobody has filled are not read; `p` must be zero there.
        """
        if self.pages is None:
            return _mix(p, self.v)
        go = self.pages.way
        cut = p.unflatten(-1, (-1, self.pages.size)).permute(0, 3, 1, 2, 4)
        cut = cut[go.rows, go.numbers]  # [N, H, R, S]
        each = p.new_empty(*cut.shape[:3], self.v.shape[3])
        for a, b, page in go.whole:
            each[a:b] = _mix(cut[a:b], self.v[page : page + b - a])
        for n in go.part:
            _, page, *_, filled = go.visits[n]
            each[n] = _mix(cut[n : n + 1, ..., :filled], self.v[page : page + 1, :, :filled])[0]
        return p.new_zeros(len(p), *each.shape[1:]).index_add_(0, go.rows, each)


def _dot(q: Tensor, k: Tensor) -> Tensor:
    """Products [B, H, Q, K]; grouped-query heads share keys without copying them."""
    b, h, n, d = q.shape
    shared = q.float().reshape(b, k.shape[1], -1, d)  # [B, Hkv, (H/Hkv) Q, D]
    return (shared @ k.float().transpose(-1, -2)).reshape(b, h, n, -1)


def _mix(p: Tensor, v: Tensor) -> Tensor:
    """p [B, H, R, K] on values [B, Hkv, K, D], key heads shared likewise: [B, H, R, D]."""
    b, h, rows, keys = p.shape
    out = p.reshape(b, v.shape[1], -1, keys) @ v.float()
    return out.reshape(b, h, rows, -1)
