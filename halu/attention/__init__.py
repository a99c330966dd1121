"""Attention by key group: the one primitive on which every attention policy stands.

`grouped_attention` reads K and V once and returns, per query and head, the softmax mass of each key
group and the partial output of each group. Plain attention is the sum of the partial outputs. A
policy changes scores by group (a score map: PAI, FIA, VAF), changes scores or values by key (a key
map: HGAI, SID, SPARC), or weighs the partial outputs by functions of the masses (an epilogue: VAR,
ZeroTuning, AD-HH, ACT). `weighted_attention` is the same with the epilogue
inside, so that an implementation need not keep the partial outputs.

Letters: B batch, H query heads, G key groups, Q queries, K keys, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from halu.attention.reference import Changes, grouped_reference, weighted_reference
from halu.errors import BadInput, Unavailable, Unsupported

Impl = Literal["reference"]
Epilogue = Callable[[Tensor], Tensor | None]
"""From masses [B, H, Q, G] to the weight of each group's output [B, H, Q, G]; none means 1."""


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A piecewise-linear change of the scaled score x = q.k/sqrt(D), before the mask, chosen by the
    key's group.

    phi_g(x) = up_g max(x, 0) + down_g min(x, 0) + bias_g; the identity is (1, 1, 0). x + a|x| is
    (1 + a, 1 - a, 0). Tensors [G], [H, G] or [B, H, G].
    """

    up: Tensor
    down: Tensor
    bias: Tensor

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


@dataclass(frozen=True, slots=True)
class Grouped:
    """Masses A [B, H, Q, G] (they sum to 1), partial outputs O [B, H, Q, G, D] (not divided by A),
    lse [B, H, Q].

    All in float32. An empty group has mass 0 and output 0; a query that sees no key has masses 0.
    """

    mass: Tensor
    out: Tensor
    lse: Tensor


def grouped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    groups: int,
    *,
    scale: float,
    mask: Tensor | None = None,
    first: int | None = None,
    score_map: ScoreMap | None = None,
    key_map: KeyMap | None = None,
    impl: Impl = "reference",
) -> Grouped:
    """Softmax attention split by key group.

    Args:
        q: [B, H, Q, D].
        k: [B, Hkv, K, D], H a multiple of Hkv; query head h reads key head h // (H / Hkv).
        v: like k.
        labels: group of each key, integers in [0, groups), [B, K] or [B, H, K].
        groups: number of groups.
        scale: factor on q.k, usually D ** -0.5.
        mask: true where the query may look, broadcastable to [B, H, Q, K]; none: everywhere.
        first: for a causal prompt instead of a mask: the position of the first query among the
            keys; query i sees keys 0 to first + i.
        score_map: change of the scores by group.
        key_map: change of the scores and values by key.
        impl: which implementation; never replaced silently.

    Raises:
        BadInput: if shapes disagree; the message prints what came.
        Unavailable: if `impl` does not exist here.
    """
    _check(q, k, v, labels, impl)
    changes = Changes(score_map, key_map)
    return Grouped(*grouped_reference(q, k, v, labels, groups, scale, mask, first, changes))


def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    groups: int,
    *,
    scale: float,
    epilogue: Epilogue,
    mask: Tensor | None = None,
    first: int | None = None,
    score_map: ScoreMap | None = None,
    key_map: KeyMap | None = None,
    impl: Impl = "reference",
) -> Tensor:
    """`merge` of `grouped_attention` under the weights that the epilogue makes of its masses [B, H,
    Q, D]; arguments and errors as there. The epilogue sees whole batches, but maybe not all queries
    at once.
    """
    _check(q, k, v, labels, impl)
    changes = Changes(score_map, key_map)
    return weighted_reference(q, k, v, labels, groups, scale, mask, first, changes, epilogue)


def meeting_place(*tables: Tensor) -> torch.device:
    """Where tables of several makers meet: the first device that is not the CPU, if there is one.

    What a policy knows from its layout lies on the CPU, what it learns from the model beside it.
    """
    devices = [table.device for table in tables]
    return next((device for device in devices if device.type != "cpu"), devices[0])


def merge(grouped: Grouped, weights: Tensor | None = None) -> Tensor:
    """Sum of the partial outputs [B, H, Q, D], each times its weight [B, H, Q, G]; without weights
    plain attention.
    """
    if weights is None:
        return grouped.out.sum(-2)
    return (grouped.out * weights.unsqueeze(-1)).sum(-2)


def _check(q: Tensor, k: Tensor, v: Tensor, labels: Tensor, impl: str) -> None:
    if impl != "reference":
        raise Unavailable(f"No attention implementation {impl!r}.", hint="There is: reference.")
    shapes = (
        f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, labels {tuple(labels.shape)}"
    )
    fits = (
        q.dim() == k.dim() == v.dim() == 4
        and k.shape == v.shape
        and q.shape[0] == k.shape[0]
        and q.shape[-1] == k.shape[-1]
        and q.shape[1] % k.shape[1] == 0
        and labels.shape[0] == k.shape[0]
        and labels.shape[-1] == k.shape[2]
    )
    if not fits:
        raise BadInput(f"Shapes do not fit: {shapes}.")


def _joined(
    a: Tensor | None, b: Tensor | None, op: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return op(a, b)
