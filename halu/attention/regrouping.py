"""What one pass over keys does: the policies that act on the same rows, as one."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from halu.attention import Epilogue, KeyMap, Redistribution, ScoreMap
from halu.attention.policy import AttentionPolicy, Stacked

ROOM = 256
"""Generated tokens for which a label table is made at once."""


class Regrouping:
    """Groups, score maps, weights and key maps of several policies over any number of keys.

    Args:
        grouping: the policies whose groups act.
        keyed: the policies whose key maps act, in this order.
        length: tokens of the prompt.
    """

    def __init__(
        self, grouping: Sequence[AttentionPolicy], keyed: Sequence[AttentionPolicy], length: int
    ) -> None:
        self.part: AttentionPolicy | None = None
        if grouping:
            self.part = Stacked(grouping) if len(grouping) > 1 else grouping[0]
        self.keyed = tuple(keyed)
        self.length = length
        self.groups = 1 if self.part is None else self.part.groups
        self._tables: dict[int, Tensor] = {}

    def changes(self, layer: int) -> bool:
        """Whether attention changes in this layer."""
        regroups = self.part is not None and self.part.labels(layer) is not None
        return regroups or any(policy.key_map(layer) is not None for policy in self.keyed)

    def labels(self, layer: int, keys: int, device: torch.device) -> Tensor:
        """Group of each key, [keys] or [H, keys]: the prompt's labels, then the generated tokens';
        0 where groups play no role.
        """
        table = self._tables.get(layer)
        if table is None or table.shape[-1] < keys:
            table = self._table(layer, keys + ROOM, device)
            self._tables[layer] = table
        return table[..., :keys]

    def score_map(self, layer: int) -> ScoreMap | None:
        """Change of the scores by group."""
        if self.part is None or self.part.labels(layer) is None:
            return None
        return self.part.score_map(layer)

    def key_map(self, layer: int, keys: int, device: torch.device) -> KeyMap | None:
        """Change by key over `keys` keys; what a policy says nothing of is unchanged."""
        maps = [found for policy in self.keyed if (found := policy.key_map(layer)) is not None]
        if not maps:
            return None

        def whole(table: Tensor | None, neutral: float) -> Tensor | None:
            if table is None:
                return None
            room = (0, keys - table.shape[-1])
            return torch.nn.functional.pad(table.to(device), room, value=neutral)

        padded = (
            KeyMap(whole(one.factor, 1.0), whole(one.bias, 0.0), whole(one.gain, 1.0))
            for one in maps
        )
        return reduce(KeyMap.then, padded)

    def epilogue(self, layer: int) -> Epilogue | None:
        """Weights [H, Q, G] from masses [H, Q, G] whose further groups belong to other rows."""
        part = self.part
        if part is None or part.labels(layer) is None:
            return None
        found = part.epilogue(layer)
        if found is None or isinstance(found, Redistribution):
            return found

        def weigh(mass: Tensor) -> Tensor | None:
            own = found(mass[..., : part.groups])
            if own is None or part.groups == mass.shape[-1]:
                return own
            return torch.nn.functional.pad(own, (0, mass.shape[-1] - part.groups), value=1.0)

        return weigh

    def _table(self, layer: int, keys: int, device: torch.device) -> Tensor:
        part = self.part
        prompt = None if part is None else part.labels(layer)
        if part is None or prompt is None:
            return torch.zeros(keys, dtype=torch.int64, device=device)
        shape = (*prompt.shape[:-1], keys)
        table = torch.full(shape, part.generated, dtype=torch.int64, device=device)
        table[..., : self.length] = prompt.to(device)
        return table
