"""Which pages of a pool the rows of a batch have, and the order in which to visit them.

A pool is read where it lies: visits go through it from front to back, whatever row a page belongs
to, so that neighbouring pages are one product.

Letters: B batch, P pages of a row, S slots of a page, N visits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Run = tuple[int, int, int]
"""Visits [start, stop) of pages that lie one after another in the pool, and the first page."""


@dataclass(frozen=True, slots=True)
class Visits:
    """The pages that rows have filled, from the pool's front to its back; a page that several rows
    share comes again for each of them.

    Attributes:
        rows: whose page each visit is [N].
        numbers: which of the row's pages it is [N].
        runs: all visits.
        whole: those of pages whose every slot is filled.
        part: of each other visit its number, its page, and how many slots of that are filled.
    """

    rows: Tensor
    numbers: Tensor
    runs: Sequence[Run]
    whole: Sequence[Run]
    part: Sequence[tuple[int, int, int]]


@dataclass(frozen=True, eq=False)  # no slots: visits are kept
class Pages:
    """The pages of all rows.

    Attributes:
        table: key j of row b is slot j % S of page table[b, j // S], integers [B, P].
        size: S.
        stop: how many slots of each row somebody has filled [B]; others may hold anything. None:
            all.
    """

    table: Tensor
    size: int
    stop: Tensor | None = None

    def rows(self, pick: slice | Tensor) -> "Pages":
        """Those of some rows."""
        if isinstance(pick, slice) and pick == slice(None):
            return self
        return Pages(self.table[pick], self.size, None if self.stop is None else self.stop[pick])

    def upto(self, count: int) -> "Pages":
        """As many pages of every row as have `count` slots."""
        return Pages(self.table[:, : -(-count // self.size)], self.size, self.stop)

    @cached_property
    def visits(self) -> Visits:
        """How to go through them; found out once, since all layers go the same way."""
        room, size, device = self.table.shape[1] * self.size, self.size, self.table.device
        rows = self.table.tolist()
        stops = [room] * len(rows) if self.stop is None else self.stop.clamp(0, room).tolist()
        seen: Counter[int] = Counter()
        found: list[tuple[int, int, int, int, int]] = []
        for row, (pages, stop) in enumerate(zip(rows, stops, strict=True)):
            for number, page in enumerate(pages[: -(-stop // size)]):
                found.append((seen[page], page, row, number, min(size, stop - number * size)))
                seen[page] += 1
        found.sort()
        pages = [page for _, page, *_ in found]
        part = [(n, one[1], one[-1]) for n, one in enumerate(found) if one[-1] < size]
        return Visits(
            torch.tensor([row for _, _, row, _, _ in found], device=device),
            torch.tensor([number for _, _, _, number, _ in found], device=device),
            runs(pages),
            runs(pages, leave_out=[n for n, *_ in part]),
            part,
        )


def runs(pages: Sequence[int], leave_out: Sequence[int] = ()) -> list[Run]:
    """Runs of visited pages, without some visits."""
    out, found, start = {*leave_out}, [], 0
    for stop in range(1, len(pages) + 1):
        broken = stop in out or stop == len(pages) or pages[stop] != pages[stop - 1] + 1
        if start in out:
            start = stop
        elif broken:
            found.append((start, stop, pages[start]))
            start = stop
    return found
