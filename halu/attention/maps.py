"""What may happen to scores and values before the softmax: by group, or key by key.

Letters: B batch, H query heads, G key groups, K keys.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.errors import Unsupported


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A piecewise-linear change of the scaled score x = q.k/sqrt(D), before the mask, chosen by the
    key's group.

    phi_g(x) = up_g max(x, 0) + down_g min(x, 0) + bias_g; the identity is (1, 1, 0). x + a|x| is
    (1 + a, 1 - a, 0). Tensors [G], [H, G] or [B, H, G]. A bias of -inf hides the group.
    """

    up: Tensor
    down: Tensor
    bias: Tensor
    _placed: dict[torch.device, "ScoreMap"] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def on(self, device: torch.device) -> "ScoreMap":
        """The same on a device, copied there once."""
        if self.up.device == self.down.device == self.bias.device == device:
            return self
        if device not in self._placed:
            moved = (table.to(device) for table in (self.up, self.down, self.bias))
            self._placed[device] = ScoreMap(*moved)
        return self._placed[device]

    def then(self, other: "ScoreMap") -> "ScoreMap":
        """This change, then another, which sees the sign that this one leaves.

        Raises:
            Unsupported: if this one has a bias, which moves the sign's change away from 0.
        """
        if bool((self.bias != 0).any()):
            raise Unsupported("A score map with a bias cannot come before another.")
        device = meeting_place(self.up, other.up)
        own_up, own_down = self.up.to(device), self.down.to(device)
        up, down = other.up.to(device), other.down.to(device)
        return ScoreMap(
            own_up * torch.where(own_up >= 0, up, down),
            own_down * torch.where(own_down >= 0, down, up),
            other.bias.to(device),
        )


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A change key by key, after the score map: x becomes `factor` x + `bias`, and the value is
    taken times `gain`; the masses do not see the gain.

    Tensors that broadcast to [H, K] or [B, H, K]; none: 1, 0, 1. A bias of -inf hides the key.
    """

    factor: Tensor | None = None
    bias: Tensor | None = None
    gain: Tensor | None = None

    def then(self, other: "KeyMap") -> "KeyMap":
        """This change, then another."""
        moved = _joined(self.bias, other.factor, torch.mul) if self.bias is not None else None
        return KeyMap(
            _joined(self.factor, other.factor, torch.mul),
            _joined(moved, other.bias, torch.add),
            _joined(self.gain, other.gain, torch.mul),
        )


def meeting_place(*tables: Tensor) -> torch.device:
    """Where tables of several makers meet: the first device that is not the CPU, if there is one.

    What a policy knows from its layout lies on the CPU, what it learns from the model beside it.
    """
    devices = [table.device for table in tables]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def _joined(
    a: Tensor | None, b: Tensor | None, op: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return op(a, b)
