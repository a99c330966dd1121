"""What one pass over keys does: the policies that act on the same rows, as one."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

from halu.attention import Epilogue, KeyMap, Redistribution, ScoreMap
from halu.attention.placed import placed
from halu.attention.policy import AttentionPolicy, Stacked

Answer = TypeVar("Answer")
ROOM = 256
"""Generated tokens for which a label table is made at once."""


class Regrouping:
    """Groups, score maps, weights and key maps of several policies over any number of keys.

    Args:
        grouping: the policies whose groups act.
        keyed: the policies whose key maps act, in this order.
        length: tokens of the prompt.
        settled: whether the policies' answers will not change any more. Each is then asked for
            once by layer, and copied to a device once.
    """

    def __init__(
        self,
        grouping: Sequence[AttentionPolicy],
        keyed: Sequence[AttentionPolicy],
        length: int,
        *,
        settled: bool = False,
    ) -> None:
        self.part: AttentionPolicy | None = None
        if grouping:
            self.part = Stacked(grouping) if len(grouping) > 1 else grouping[0]
        self.keyed = tuple(keyed)
        self.length = length
        self.groups = 1 if self.part is None else self.part.groups
        self.settled = settled
        self._tables: dict[int, Tensor] = {}
        self._answers: dict[tuple[str, int], Any] = {}

    def changes(self, layer: int) -> bool:
        """Whether attention changes in this layer."""
        return self._labels(layer) is not None or bool(self._key_maps(layer))

    def labels(self, layer: int, keys: int, device: torch.device) -> Tensor:
        """Group of each key, [keys] or [H, keys]: the prompt's labels, then the generated tokens';
        0 where groups play no role.
        """
        table = self._tables.get(layer)
        if table is None or table.shape[-1] < keys:
            table = self._table(layer, max(keys, self.length) + ROOM, device)
            self._tables[layer] = table
        return table[..., :keys]

    def score_map(self, layer: int) -> ScoreMap | None:
        """Change of the scores by group."""
        part = self.part
        if part is None or self._labels(layer) is None:
            return None
        return self._once("score map", layer, part.score_map)

    def key_map(self, layer: int, keys: int, device: torch.device) -> KeyMap | None:
        """Change by key over `keys` keys; what a policy says nothing of is unchanged."""
        maps = self._key_maps(layer)
        if not maps:
            return None

        def whole(table: Tensor | None, neutral: float) -> Tensor | None:
            if table is None:
                return None
            there = placed(table, device) if self.settled else table.to(device)
            return torch.nn.functional.pad(there, (0, keys - table.shape[-1]), value=neutral)

        padded = (
            KeyMap(whole(one.factor, 1.0), whole(one.bias, 0.0), whole(one.gain, 1.0))
            for one in maps
        )
        return reduce(KeyMap.then, padded)

    def epilogue(self, layer: int) -> Epilogue | None:
        """Weights [H, Q, G] from masses [H, Q, G] whose further groups belong to other rows."""
        part = self.part
        if part is None or self._labels(layer) is None:
            return None
        found = self._once("epilogue", layer, part.epilogue)
        if found is None or isinstance(found, Redistribution):
            return found

        def weigh(mass: Tensor) -> Tensor | None:
            own = found(mass[..., : part.groups])
            if own is None or part.groups == mass.shape[-1]:
                return own
            return torch.nn.functional.pad(own, (0, mass.shape[-1] - part.groups), value=1.0)

        return weigh

    def _labels(self, layer: int) -> Tensor | None:
        """Of the prompt's keys."""
        return None if self.part is None else self._once("labels", layer, self.part.labels)

    def _key_maps(self, layer: int) -> list[KeyMap]:
        def told(layer: int) -> list[KeyMap]:
            found = (policy.key_map(layer) for policy in self.keyed)
            return [one for one in found if one is not None]

        return self._once("key maps", layer, told)

    def _once(self, what: str, layer: int, ask: Callable[[int], Answer]) -> Answer:
        if not self.settled:
            return ask(layer)
        if (what, layer) not in self._answers:
            self._answers[what, layer] = ask(layer)
        found: Answer = self._answers[what, layer]
        return found

    def _table(self, layer: int, keys: int, device: torch.device) -> Tensor:
        part, prompt = self.part, self._labels(layer)
        if part is None or prompt is None:
            return torch.zeros(keys, dtype=torch.int64, device=device)
        shape = (*prompt.shape[:-1], keys)
        table = torch.full(shape, part.generated, dtype=torch.int64, device=device)
        table[..., : self.length] = prompt.to(device)
        return table
