"""The keys and values of a batch, wherever they lie: in a row, or in pages of a pool that requests
share.

Letters: B batch, Hkv key heads, K keys, D head width, P pages, S slots of a page.
"""

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

    def of(self, index: int, span: slice) -> tuple[Tensor, Tensor]:
        """A stretch of one row's keys and values [1, Hkv, n, D]."""
        one = self.rows(slice(index, index + 1)).upto(span.stop)
        k, v = one.in_a_row()
        return k[:, :, span], v[:, :, span]

    def in_a_row(self) -> tuple[Tensor, Tensor]:
        """Keys and values [B, Hkv, K, D], copied out of their pages."""
        v = self.v if self.pages is None else _copied(self.v, self.pages)
        return self.keys_in_a_row(), v

    def keys_in_a_row(self) -> Tensor:
        """The keys alone."""
        return self.k if self.pages is None else _copied(self.k, self.pages)


def _copied(pool: Tensor, pages: Tensor) -> Tensor:
    """The slots of these pages one after another [B, Hkv, n S, D]: one copy, in the order in which
    a page lies in memory.
    """
    page = pages.long()[:, None, :]  # [B, 1, n]
    head = torch.arange(pool.shape[1], device=pool.device)[:, None]  # [Hkv, 1]
    if pool.stride(-1) == 1:
        return pool[page, head].flatten(2, 3)  # [B, Hkv, n, S, D]
    width = torch.arange(pool.shape[3], device=pool.device)[:, None]  # [D, 1]
    found = pool.transpose(-1, -2)[page[:, :, None], head[:, None], width]  # [B, Hkv, D, n, S]
    return found.flatten(3, 4).transpose(-1, -2)
