"""Key/value memory for many sequences of different lengths, one row each, no padding before a row's
first key.

Row i holds its keys in slots [0, length_i). Prompts of one forward are padded on the right, where
the causal order already hides the padding, and the next token overwrites it. That keeps rows
independent: any may leave, be copied or be cut short while the others go on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

ROOM = 64


class RowCache(Cache):  # type: ignore[misc]  # transformers has no types here
    """Rows of keys and values for all layers; `target` says which rows and slots the current
    forward fills.
    """

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.rows = 0
        self._rows: list[int] = []
        self._sources: list[int] | None = None
        self._slots: Tensor | None = None
        self._needed = 0

    def add(self, count: int) -> None:
        """Makes so many new rows at the end; what fills them comes next."""
        self.rows += count

    def fill_prompts(self, rows: Sequence[int], longest: int) -> None:
        """The next forward carries prompts, at most `longest` tokens, into these rows."""
        self._rows = list(rows)
        self._sources = self._slots = None
        self._needed = longest

    def fill_rests(
        self, rows: Sequence[int], sources: Sequence[int], starts: Sequence[int], longest: int
    ) -> None:
        """The next forward carries the rest of prompts, at most `longest` tokens, into these rows,
        from slot `start` on; what comes before is copied from other rows.
        """
        self._rows, self._sources = list(rows), list(sources)
        self._slots = torch.tensor(starts)[:, None] + torch.arange(longest)
        self._needed = max(starts) + longest

    def fill_tokens(self, lengths: Sequence[int]) -> None:
        """The next forward carries one token for each row, to slot `length` of the row."""
        self._rows, self._sources = list(range(self.rows)), None
        self._slots = torch.tensor(lengths)[:, None]
        self._needed = max(lengths) + 1

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Stores the new keys and values and returns all that the forward's queries may see."""
        keys = self._room(self.keys, layer_idx, key_states)
        values = self._room(self.values, layer_idx, value_states)
        own = _run(self._rows)
        if self._slots is None:
            keys[own, :, : key_states.shape[2]] = key_states
            values[own, :, : value_states.shape[2]] = value_states
            for tensor in (keys, values):  # the row's former tenant may have left NaN
                tensor[own, :, key_states.shape[2] :] = 0
            return key_states, value_states
        if self._slots.device != keys.device:
            self._slots = self._slots.to(keys.device)
        rows = torch.tensor(self._rows, device=keys.device)[:, None]
        for tensor, new in ((keys, key_states), (values, value_states)):
            if self._sources is not None:
                tensor[own] = tensor[self._sources]
            tensor[rows, :, self._slots] = new.transpose(1, 2)
        return keys[own, :, : self._needed], values[own, :, : self._needed]

    def arrange(self, sources: list[int]) -> None:
        """Row i becomes what row sources[i] was; rows beyond the list are given up, their memory
        once it is more than half.
        """
        self.rows = len(sources)
        in_place = sources == list(range(self.rows))
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                if tensor is None or (in_place and tensor.shape[0] <= 2 * self.rows):
                    continue
                index = torch.tensor(sources, dtype=torch.long, device=tensor.device)
                tensors[layer] = tensor[index] if sources else None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Zero: rows have no common length; positions and masks are passed explicitly."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Zero, as above."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Prompts see themselves only; later forwards bring their own mask."""
        return query_length, 0

    def _room(self, tensors: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        """The layer's memory with room for the forward, grown by copying where it must."""
        old = tensors[layer]
        if old is not None and old.shape[0] >= self.rows and old.shape[2] >= self._needed:
            return old
        slots = -(-self._needed // ROOM) * ROOM + ROOM
        rows = max(self.rows, old.shape[0] if old is not None else 0)
        # Zeros, not uninitialised memory: an unused slot is masked, but 0 * NaN would still be NaN.
        grown = like.new_zeros(
            rows, like.shape[1], max(slots, old.shape[2] if old is not None else 0), like.shape[3]
        )
        if old is not None:
            grown[: old.shape[0], :, : old.shape[2]] = old
        tensors[layer] = grown
        return grown


def _run(rows: list[int]) -> slice | list[int]:
    """Rows as a slice, where they are one, so that reading them copies nothing."""
    run = slice(rows[0], rows[-1] + 1)
    return run if rows == list(range(run.start, run.stop)) else rows
