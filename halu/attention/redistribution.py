"""The epilogue that most methods share: groups keep a part of their mass, others get what is freed.

With A the masses of a query's groups, `keep` k, `give` e and conditions w:

    freed = sum_g (1 - k_g) A_g
    c_g = k_g + e_g freed / sum_g' e_g' A_g'    if every condition sum_g w_g A_g >= 0 holds
    c_g = 1                                     otherwise

VAR, ZeroTuning and ACT give to one or to all groups, so a row keeps its sum; AD-HH gives to none,
so what is freed is lost. It has a name of its own because a kernel can compute it without handing
masses and partial outputs back.
"""

import math
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
"""Groups whose mass is below this cannot receive; the row then stays as it is."""
CONDITIONS = 2
"""So many conditions fit into a table."""


def at_least(bound: float, *coefficients: float) -> Tensor:
    """The condition sum_g a_g A_g >= bound, as one without a bound: masses sum to 1."""
    return torch.tensor(coefficients) - bound


class Factors(NamedTuple):
    """A redistribution's table, the same for all queries.

    Attributes:
        keep: k [..., 1, G].
        give: e [..., 1, G].
        sums: what masses are multiplied with to get what is freed, what receives, and the
            conditions [..., G, 2 or 4].
        bounds: how large what receives and the conditions must be [..., 1, 1 or 3].
    """

    keep: Tensor
    give: Tensor
    sums: Tensor
    bounds: Tensor

    def on(self, device: torch.device) -> "Factors":
        """The same on a device."""
        return Factors(*(table.to(device) for table in self))


@dataclass(frozen=True)  # no slots: `factors` is kept
class Redistribution:
    """Weights of groups as a closed form of their masses.

    Attributes:
        table: `keep`, `give` and two conditions, [4, G], [H, 4, G] or [B, H, 4, G].
    """

    table: Tensor
    _source: "Redistribution | None" = field(default=None, repr=False, compare=False)
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
        own = self.on(mass.device).factors
        found = mass @ own.sums.to(mass)  # [..., H, Q, 2 or 4]
        freed, receiving = found[..., :1], found[..., 1:2]
        met = (found[..., 1:] >= own.bounds).all(-1, keepdim=True)
        share = freed / receiving.clamp(min=TINY)
        return torch.where(met, torch.addcmul(own.keep, own.give, share), 1.0)

    @cached_property
    def factors(self) -> Factors:
        """The table as the formula has it; made once, since steps share it."""
        if self._source is not None:  # made where values are known without waiting for a device
            return self._source.factors.on(self.table.device)
        keep, give, *when = self.table.float().unsqueeze(-3).unbind(-2)
        conditions = when if any(bool(one.any()) for one in when) else []
        sums = torch.stack([1 - keep, give, *conditions], -1).squeeze(-3)
        none = (give == 0).all(-1, keepdim=True)  # then nothing need receive
        floor = torch.where(none, -math.inf, TINY)
        bounds = torch.cat([floor, *(torch.zeros_like(floor) for _ in conditions)], -1)
        return Factors(keep, give, sums, bounds)

    def on(self, device: torch.device) -> "Redistribution":
        """The same on a device, copied there once."""
        if self.table.device == device:
            return self
        if device not in self._placed:
            self._placed[device] = Redistribution(self.table.to(device), self)
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
