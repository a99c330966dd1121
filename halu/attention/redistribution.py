"""The epilogue that most methods share: groups keep a part of their mass, others get what is freed.

With A the masses of a query's groups, `keep` k, `give` e and conditions w:

    freed = sum_g (1 - k_g) A_g
    c_g = k_g + e_g freed / sum_g' e_g' A_g'    if every condition sum_g w_g A_g >= 0 holds
    c_g = 1                                     otherwise

VAR, ZeroTuning and ACT give to one or to all groups, so a row keeps its sum; AD-HH gives to none,
so what is freed is lost. It has a name of its own because a kernel can compute it without handing
masses and partial outputs back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from halu.errors import Unsupported

Epilogue = Callable[[Tensor], Tensor | None]
"""From masses [..., H, Q, G] to each group's weight, of the same shape; none means 1."""

TINY = 1e-30
"""Groups whose mass is not above this cannot receive; the row then stays as it is."""
CONDITIONS = 2
"""So many conditions fit into a table."""


def at_least(bound: float, *coefficients: float) -> Tensor:
    """The condition sum_g a_g A_g >= bound, as one without a bound: masses sum to 1."""
    return torch.tensor(coefficients) - bound


class Parts(NamedTuple):
    """A redistribution's table, the same for all queries.

    Attributes:
        keep: k [..., 1, G].
        give: e [..., 1, G].
        sums: what masses are multiplied with to get what is freed, what receives, and the
            conditions [..., G, 4].
        gives_to_none: whether e is zero [..., 1, 1].
    """

    keep: Tensor
    give: Tensor
    sums: Tensor
    gives_to_none: Tensor


@dataclass(frozen=True)  # no slots: `parts` is kept
class Redistribution:
    """Weights of groups as a closed form of their masses.

    Attributes:
        table: `keep`, `give` and two conditions, [4, G], [H, 4, G] or [B, H, 4, G].
    """

    table: Tensor
    _placed: dict[torch.device, "Redistribution"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @staticmethod
    @cache
    def neutral(groups: int) -> "Redistribution":
        """Every group keeps its mass; one object, so it is copied to a device once."""
        return Redistribution.of(torch.ones(groups), torch.zeros(groups))

    @staticmethod
    def of(keep: Tensor, give: Tensor, when: Sequence[Tensor] = ()) -> "Redistribution":
        """From parts [G] or [H, G]; missing conditions hold always.

        Raises:
            Unsupported: if there are more conditions than fit.
        """
        if len(when) > CONDITIONS:
            raise Unsupported(f"A redistribution has at most {CONDITIONS} conditions.")
        free = [torch.zeros_like(keep)] * (CONDITIONS - len(when))
        parts = torch.broadcast_tensors(keep, give, *when, *free)
        return Redistribution(torch.stack(parts, -2))

    def __call__(self, mass: Tensor) -> Tensor:
        """Weights for masses [..., H, Q, G], in float32."""
        parts = self.on(mass.device).parts
        found = mass @ parts.sums.to(mass)  # [..., H, Q, 4]
        freed, receiving, conditions = found.split((1, 1, CONDITIONS), -1)
        met = (receiving > TINY) | parts.gives_to_none
        met = met & (conditions >= 0).all(-1, keepdim=True)
        weights = parts.keep + parts.give * (freed / receiving.clamp(min=TINY))
        return torch.where(met, weights, 1.0)

    @cached_property
    def parts(self) -> Parts:
        """The table as the formula has it; made once, since layers and steps share it."""
        keep, give, *when = self.table.float().unsqueeze(-3).unbind(-2)
        sums = torch.stack([1 - keep, give, *when], -1).squeeze(-3)
        return Parts(keep, give, sums, (give == 0).all(-1, keepdim=True))

    def on(self, device: torch.device) -> "Redistribution":
        """The same on a device, copied there once."""
        if self.table.device == device:
            return self
        if device not in self._placed:
            self._placed[device] = Redistribution(self.table.to(device))
        return self._placed[device]

    def widened(self, groups: int) -> "Redistribution":
        """The same among more groups; the further ones keep their mass and play no part."""
        room = groups - self.table.shape[-1]
        if room == 0:
            return self
        keep, rest = self.table[..., :1, :], self.table[..., 1:, :]
        return Redistribution(
            torch.cat([pad(keep, (0, room), value=1.0), pad(rest, (0, room))], -2)
        )
