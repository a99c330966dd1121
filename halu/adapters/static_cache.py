"""Key/value memory that stays where it is, so that a recorded step finds it again."""

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from halu.adapters.cache import RowCache

LEAST_SLOTS = 512
ROWS_KEPT = 8
"""Memory for more rows than that is given back when no row is left and twice the rows that there
were would have fitted: who comes with as many rows again finds it in place.
"""

_places = count()


class StaticCache(RowCache):
    """Rows whose memory doubles when it must grow and moves only then; rows that change places are
    copied within it.

    Args:
        layers: how many.
        least: fewest slots of a row.

    Attributes:
        place: another number whenever the memory has moved.
    """

    def __init__(self, layers: int, least: int = LEAST_SLOTS) -> None:
        super().__init__(layers)
        self.least = least
        self.place = next(_places)
        self._lanes: Tensor | None = None
        self._most = 0  # rows since there were none

    @property
    def slots(self) -> int:
        """Slots of each row."""
        return 0 if self.keys[0] is None else self.keys[0].shape[2]

    @property
    def room(self) -> int:
        """Rows that there is memory for."""
        return 0 if self.keys[0] is None else self.keys[0].shape[0]

    def reserve(self, rows: int, slots: int) -> None:
        """Makes room for so many rows of so many keys."""
        self._needed = slots
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                assert tensor is not None
                self._grown(tensors, layer, tensor, rows)

    def fill_lanes(self, lanes: Tensor, lengths: Tensor, slots: int) -> None:
        """The next forward carries one token for each of the rows `lanes` [n], which are the first
        ones, to the slots `lengths` [n]; both stay on the device. Queries see `slots` slots.
        """
        self._lanes, self._slots, self._needed = lanes, lengths, slots

    def fill_prompts(self, rows: Sequence[int], longest: int) -> None:
        """See `RowCache`."""
        self._lanes = None
        super().fill_prompts(rows, longest)

    def fill_rests(
        self, rows: Sequence[int], sources: Sequence[int], starts: Sequence[int], longest: int
    ) -> None:
        """See `RowCache`."""
        self._lanes = None
        super().fill_rests(rows, sources, starts, longest)

    def fill_tokens(self, lengths: Sequence[int]) -> None:
        """See `RowCache`."""
        self._lanes = None
        super().fill_tokens(lengths)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """See `RowCache`; under `fill_lanes` nothing here depends on values on the host."""
        if self._lanes is None:
            return super().update(key_states, value_states, layer_idx)
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        assert keys is not None
        assert values is not None
        assert self._slots is not None
        keys[self._lanes, :, self._slots] = key_states[:, :, 0]
        values[self._lanes, :, self._slots] = value_states[:, :, 0]
        seen = slice(0, len(self._lanes))
        return keys[seen, :, : self._needed], values[seen, :, : self._needed]

    @torch.inference_mode()
    def arrange(self, sources: list[int]) -> None:
        """Row i becomes what row sources[i] was; memory is kept for rows to come."""
        self._most = max(self._most, self.rows)
        self.rows, self._needed = len(sources), 0
        if not sources and self._most:
            if self.room > max(ROWS_KEPT, doubled(self._most)):
                for tensors in (self.keys, self.values):
                    tensors[:] = [None] * len(tensors)
                self.place = next(_places)
            self._most = 0
        if sources == list(range(self.rows)):
            return
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                if tensor is not None:
                    moved = tensor[torch.tensor(sources, device=tensor.device)]
                    self._grown(tensors, layer, tensor, self.rows)[: self.rows] = moved

    def _room(self, tensors: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        return self._grown(tensors, layer, like, self.rows)

    def _grown(self, tensors: list[Tensor | None], layer: int, like: Tensor, rows: int) -> Tensor:
        old = tensors[layer]
        if old is not None and old.shape[0] >= rows and old.shape[2] >= self._needed:
            return old
        had = (0, self.least) if old is None else (old.shape[0], old.shape[2])
        room, slots = (doubled(max(a, b)) for a, b in zip(had, (rows, self._needed), strict=True))
        grown = like.new_zeros(room, like.shape[1], slots, like.shape[3])
        if old is not None:
            grown[: old.shape[0], :, : old.shape[2]] = old
        tensors[layer] = grown
        self.place = next(_places)
        return grown


def doubled(count: int) -> int:
    """The least power of 2 that is not smaller."""
    return 1 << max(count - 1, 0).bit_length()
