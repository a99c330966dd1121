"""One branch's steering for as long as it lives."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halu.attention import KeyMap, ScoreMap
from halu.attention.policy import AttentionPolicy, Stacked
from halu.attention.reference import scores
from halu.attention.trace import Trace
from halu.layout import Layout

ROOM = 256
"""Generated tokens for which a label table is made at once."""


@dataclass(slots=True)
class Steered:
    """A branch's policies, its prompt, and what is recorded of it.

    Attributes:
        layout: which token of the prompt is what.
        policies: they act in this order.
        trace: records where each token looked, if there is one.
        taps: layers whose input at the newest token is kept in `tapped`; the number of layers
            stands for the input of the final norm.
        tapped: residual stream [D] by layer, of the last forward.
        regrouping: the policies that change attention itself, as one.
    """

    layout: Layout
    policies: tuple[AttentionPolicy, ...] = ()
    trace: Trace | None = None
    taps: frozenset[int] = frozenset()
    tapped: dict[int, Tensor] = field(default_factory=dict)
    regrouping: AttentionPolicy | None = field(init=False)
    _tables: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        parts = [policy for policy in self.policies if policy.regroups]
        self.regrouping = Stacked(parts) if len(parts) > 1 else (parts[0] if parts else None)

    def fork(self) -> "Steered":
        """The steering of another hypothesis that goes on from here."""
        policies = tuple(policy.fork() for policy in self.policies)
        return replace(self, policies=policies, tapped=dict(self.tapped))

    @property
    def active(self) -> bool:
        """Whether attention has anything to do."""
        return bool(self.policies) or self.trace is not None

    @property
    def groups(self) -> int:
        """Key groups of the policies together."""
        return 1 if self.regrouping is None else self.regrouping.groups

    def look(self, layer: int, q: Tensor, k: Tensor, scale: float) -> None:
        """Shows the newest rows' scores, from q [1, H, Q, D] and k [1, Hkv, K, D], the last query
        being that of the last key.
        """
        curious = [policy for policy in self.policies if policy.looks(layer)]
        deepest = max((policy.looks_back for policy in curious), default=0)
        for back in reversed(range(min(deepest, q.shape[2]))):
            row, seen = q.shape[2] - 1 - back, k.shape[2] - back
            x = scores(q[:, :, row : row + 1], k[:, :, :seen], scale)[0, :, 0]
            for policy in curious:
                if back < policy.looks_back:
                    policy.look(layer, x)

    def heard(self, row: Tensor) -> None:
        """Tells the policies the row of scores [V] that a forward gave."""
        for policy in self.policies:
            policy.heard(row)

    def changes(self, layer: int) -> bool:
        """Whether attention itself changes in this layer."""
        part = self.regrouping
        return part is not None and (
            part.labels(layer) is not None or part.key_map(layer) is not None
        )

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
        part = self.regrouping
        if part is None or part.labels(layer) is None:
            return None
        return part.score_map(layer)

    def key_map(self, layer: int, keys: int, device: torch.device) -> KeyMap | None:
        """Change by key over `keys` keys, the generated ones unchanged."""
        found = None if self.regrouping is None else self.regrouping.key_map(layer)
        if found is None:
            return None

        def whole(table: Tensor | None, neutral: float) -> Tensor | None:
            if table is None:
                return None
            room = (0, keys - table.shape[-1])
            return torch.nn.functional.pad(table.to(device), room, value=neutral)

        return KeyMap(whole(found.factor, 1.0), whole(found.bias, 0.0), whole(found.gain, 1.0))

    def weights(self, layer: int, mass: Tensor) -> Tensor | None:
        """Weights [H, Q, G] for masses [H, Q, G] whose further groups belong to other rows."""
        part = self.regrouping
        if part is None or part.labels(layer) is None:
            return None
        found = part.weights(layer, mass[..., : part.groups])
        if found is None or part.groups == mass.shape[-1]:
            return found
        return torch.nn.functional.pad(found, (0, mass.shape[-1] - part.groups), value=1.0)

    def _table(self, layer: int, keys: int, device: torch.device) -> Tensor:
        part = self.regrouping
        prompt = None if part is None else part.labels(layer)
        if part is None or prompt is None:
            return torch.zeros(keys, dtype=torch.int64, device=device)
        shape = (*prompt.shape[:-1], keys)
        table = torch.full(shape, part.generated, dtype=torch.int64, device=device)
        table[..., : self.layout.length] = prompt.to(device)
        return table
