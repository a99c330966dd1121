"""Which pages of a pool the rows of a batch have, and the order in which to visit them.

A pool is read where it lies: visits go through it from front to back, whatever row a page belongs
to, so that neighbouring pages are one product.

Letters: B batch, S slots of a page, L pages of a row, N visits.
"""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Visit(NamedTuple):
    """One page of one row. Visits are sorted: a page that several rows share comes again after all
    others.

    Attributes:
        again: how many visits it had before.
        page: which one of the pool it is.
        row: whose.
        number: which of the row's pages it is.
        filled: how many of its slots are filled.
    """

    again: int
    page: int
    row: int
    number: int
    filled: int


class Run(NamedTuple):
    """Visits [start, stop) of pages that lie one after another in the pool, from `page` on."""

    start: int
    stop: int
    page: int


@dataclass(frozen=True, slots=True)
class Way:
    """The way through the pool.

    Attributes:
        visits: the pages that rows have filled.
        rows: whose page each is [N].
        numbers: which of the row's pages it is [N].
        runs: all visits.
        whole: those of pages whose every slot is filled.
        part: the others, by number.
    """

    visits: Sequence[Visit]
    rows: Tensor
    numbers: Tensor
    runs: Sequence[Run]
    whole: Sequence[Run]
    part: Sequence[int]


@dataclass(frozen=True, eq=False)  # no slots: the way is kept
class Pages:
    """The pages of all rows.

    Attributes:
        table: key j of row b is slot j % S of page table[b, j // S], integers [B, L].
        size: S.
        stop: how many slots of each row somebody has filled [B]; others may hold anything. None:
            all.
    """

    table: Tensor
    size: int
    stop: Tensor | None = None

    @property
    def room(self) -> int:
        """Slots of a row."""
        return self.size * self.table.shape[1]

    def rows(self, pick: slice | Tensor) -> "Pages":
        """Those of some rows."""
        if isinstance(pick, slice) and pick == slice(None):
            return self  # with the way, if that has been found
        return Pages(self.table[pick], self.size, None if self.stop is None else self.stop[pick])

    def upto(self, count: int) -> "Pages":
        """As many pages of every row as have `count` slots."""
        return Pages(self.table[:, : -(-count // self.size)], self.size, self.stop)

    @cached_property
    def way(self) -> Way:
        """How to go through them, found out once for all layers that are given this object."""
        visits = self._visits()
        part = [n for n, one in enumerate(visits) if one.filled < self.size]
        pages = [one.page for one in visits]
        rows, numbers = [one.row for one in visits], [one.number for one in visits]
        index = torch.tensor([rows, numbers], dtype=torch.int64, device=self.table.device)
        return Way(
            visits,
            index[0],
            index[1],
            runs(pages),
            runs(pages, leave_out={*part}),
            part,
        )

    def _visits(self) -> list[Visit]:
        rows, size, seen = self.table.tolist(), self.size, Counter[int]()
        every = [self.room] * len(rows)
        stops = every if self.stop is None else self.stop.clamp(0, self.room).tolist()
        found = []
        for row, (pages, stop) in enumerate(zip(rows, stops, strict=True)):
            for number, page in enumerate(pages[: -(-stop // size)]):
                filled = min(size, stop - number * size)
                found.append(Visit(seen[page], page, row, number, filled))
                seen[page] += 1
        return sorted(found)


def runs(pages: Sequence[int], leave_out: Container[int] = ()) -> list[Run]:
    """Runs of visited pages, without some of the visits."""
    found: list[Run] = []
    for n, page in enumerate(pages):
        if n in leave_out:
            continue
        last = found[-1] if found else None
        if last is not None and last.stop == n and last.page + n - last.start == page:
            found[-1] = last._replace(stop=n + 1)
        else:
            found.append(Run(n, n + 1, page))
    return found
