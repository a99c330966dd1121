"""One call of grouped attention, checked; what every implementation is given.

Letters: B batch, H query heads, Hkv key heads, G key groups, Q queries, K keys, D head width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halu.attention.keys import Keys
from halu.attention.maps import KeyMap, ScoreMap
from halu.attention.pages import Pages
from halu.errors import BadInput


@dataclass(frozen=True, slots=True)
class Spans:
    """Groups that are stretches of keys: group g is [start_g, stop_g), a later group wins, and keys
    in none are in group 0, whose own span is not read.

    Attributes:
        edges: starts and stops, int32 [B, G, 2].
    """

    edges: Tensor

    def labels(self, keys: int) -> Tensor:
        """Group of each key [B, K]."""
        position = torch.arange(keys, device=self.edges.device)
        found = torch.zeros(len(self.edges), keys, dtype=torch.int64, device=self.edges.device)
        for group in range(1, self.edges.shape[1]):
            start, stop = self.edges[:, group].unsqueeze(-1).unbind(1)
            found = torch.where((position >= start) & (position < stop), group, found)
        return found


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of `halu.attention.grouped_attention`, which says what they are."""

    q: Tensor
    k: Tensor
    v: Tensor
    labels: Tensor | Spans
    groups: int
    scale: float
    mask: Tensor | None = None
    first: int | None = None
    within: tuple[Tensor, Tensor] | None = None
    pages: Tensor | Pages | None = None
    score_map: ScoreMap | None = None
    key_map: KeyMap | None = None

    @property
    def keys(self) -> int:
        """K, with pages the room that they have."""
        return self.cached.room

    @property
    def cached(self) -> Keys:
        """Keys and values, wherever they lie."""
        pages = self.pages
        if isinstance(pages, Tensor):
            pages = Pages(pages, self.k.shape[2])
        if pages is not None and pages.stop is None and self.within is not None:
            pages = replace(pages, stop=self.within[1])
        return Keys(self.k, self.v, pages)

    @property
    def table(self) -> Tensor:
        """Group of each key [B, K] or [B, H, K]."""
        return self.labels.labels(self.keys) if isinstance(self.labels, Spans) else self.labels

    def check(self) -> None:
        """Refuses shapes that do not fit, and prints them.

        Raises:
            BadInput: if they do not.
        """
        q, k, v, labels, cached = self.q, self.k, self.v, self.labels, self.cached
        table = labels.edges if isinstance(labels, Spans) else labels
        pages = None if cached.pages is None else cached.pages.table
        lanes = k.shape[0] if pages is None else pages.shape[0]
        told = {"q": q, "k": k, "v": v, "labels": table}
        told |= {} if pages is None else {"pages": pages}
        wide = (
            table.shape[1:] == (self.groups, 2)
            if isinstance(labels, Spans)
            else table.shape[-1] == cached.room
        )
        fits = (
            q.dim() == k.dim() == v.dim() == 4
            and k.shape == v.shape
            and q.shape[0] == lanes == table.shape[0]
            and q.shape[-1] == k.shape[-1]
            and q.shape[1] % k.shape[1] == 0
            and (cached.pages is None or cached.pages.size == k.shape[2])
            and cached.room > 0
            and wide
        )
        if not fits:
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in told.items())
            raise BadInput(f"Shapes do not fit: {shapes}.")
