"""The keys and values of a batch, wherever they lie: in a row, or in pages of a pool that requests
share.

Letters: B batch, Hkv key heads, K keys, D head width, P pages, S slots of a page.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Keys:
    """What the queries of a batch can attend to.

    Attributes:
        k: keys [B, Hkv, K, D], or a pool of pages [P, Hkv, S, D].
        v: values, like k.
        pages: key j of row b is slot j % S of page pages[b, j // S], integers [B, K / S]; none: k
            and v are no pool.
    """

    k: Tensor
    v: Tensor
    pages: Tensor | None = None

    @property
    def room(self) -> int:
        """K, which may be more than a row has filled."""
        size = self.k.shape[2]
        return size if self.pages is None else size * self.pages.shape[1]

    def rows(self, pick: slice | Tensor) -> "Keys":
        """Some rows of the batch."""
        if self.pages is None:
            return Keys(self.k[pick], self.v[pick])
        return replace(self, pages=self.pages[pick])

    def upto(self, count: int) -> "Keys":
        """The first `count` keys of every row, with pages as many whole pages as have them."""
        if self.pages is None:
            return Keys(self.k[:, :, :count], self.v[:, :, :count])
        return replace(self, pages=self.pages[:, : -(-count // self.k.shape[2])])

    def stretch(self, index: int, span: slice) -> tuple[Tensor, Tensor]:
        """A stretch of one row's keys and values [1, Hkv, n, D]."""
        one = self.rows(slice(index, index + 1)).upto(span.stop)
        k, v = one.in_a_row()
        return k[:, :, span], v[:, :, span]

    def in_a_row(self) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hkv, K, D], copied out of their pages."""
        if self.pages is None:
            return self.k, self.v
        k, v = (t[self.pages.long()].transpose(1, 2).flatten(2, 3) for t in (self.k, self.v))
        return k, v

    def dot(self, q: Tensor) -> Tensor:
        """Products of queries [B, H, Q, D] and keys [B, H, Q, K], in float32; pages are multiplied
        where they lie.
        """
        if self.pages is None:
            return _dot(q, self.k)
        rows = []
        for one, pages in zip(q, self.pages.tolist(), strict=True):
            parts = [
                _dot(one.expand(stop - start, -1, -1, -1), self._run(self.k, pages, start, stop))
                for start, stop in _runs(pages)
            ]
            rows.append(torch.cat(parts).permute(1, 2, 0, 3).flatten(2))  # [H, Q, K]
        return torch.stack(rows)

    def mix(self, p: Tensor, stop: Tensor | None = None) -> Tensor:
        """Probabilities [B, H, R, K] times values [B, H, R, D], in float32.

        Args:
            p: probabilities.
            stop: with pages: the values of a row from here on [B] are not read, since slots that
                nobody has filled may hold anything; `p` must be zero there.
        """
        if self.pages is None:
            return _mix(p, self.v)
        stops = [self.room] * len(p) if stop is None else stop.clamp(0, self.room).tolist()
        rows = zip(p, self.pages.tolist(), stops, strict=True)
        return torch.stack([self._mixed(*row) for row in rows])

    def _mixed(self, p: Tensor, pages: list[int], stop: int) -> Tensor:
        """One row's: p [H, R, K] to [H, R, D]."""
        size = self.v.shape[2]
        whole, rest = divmod(stop, size)
        cut = p.unflatten(-1, (-1, size)).permute(2, 0, 1, 3)  # [n, H, R, S]
        out = torch.zeros(*p.shape[:2], self.v.shape[3], device=p.device)
        for start, end in _runs(pages[:whole]):
            out += _mix(cut[start:end], self._run(self.v, pages, start, end)).sum(0)
        if rest:
            last = self._run(self.v, pages, whole, whole + 1)
            out += _mix(cut[whole : whole + 1, ..., :rest], last[:, :, :rest])[0]
        return out

    @staticmethod
    def _run(pool: Tensor, pages: list[int], start: int, stop: int) -> Tensor:
        """Pages that lie one after another in the pool, as they lie there."""
        return pool[pages[start] : pages[start] + stop - start]


def _runs(pages: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches [start, stop) of a row's pages that lie one after another in the pool, too."""
    start = 0
    for stop in range(1, len(pages) + 1):
        if stop == len(pages) or pages[stop] != pages[stop - 1] + 1:
            yield start, stop
            start = stop


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
