"""Whose rows the current forward has: written by the runner before it, read by attention and by the
layers' hooks during it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.attention.steered import Steered
from halu.attention.steering import Steering

Gather = Callable[[int, int], tuple[Tensor, Tensor]]
"""Keys and values [Hkv, K, D] of a request: its number in the batch, how many keys."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One request's rows of a forward.

    Attributes:
        steering: its policies and taps.
        number: which request of the batch it is.
        start: its first row.
        stop: the one after its last.
        before: how many keys it had before.
    """

    steering: Steered
    number: int
    start: int
    stop: int
    before: int

    @property
    def prompt(self) -> bool:
        """Whether these are a prompt's rows, or a piece of them, and not a generated token's."""
        return self.before < self.steering.layout.length

    def alone(self) -> Steering:
        """The steering of this request's rows by themselves."""
        seen = self.before + self.stop - self.start
        return Steering([self.steering], [seen], prefill=self.prompt)


@dataclass(slots=True)
class Table:
    """The current forward.

    Attributes:
        rows: requests on which something acts; all others are vLLM's alone.
        aside: whether a prompt is read beside decoding, whose keys are not kept anywhere.
    """

    rows: Sequence[Rows] = field(default_factory=tuple)
    aside: bool = False

    def attend(self, layer: int, q: Tensor, out: Tensor, gather: Gather, scale: float) -> None:
        """Replaces head outputs [N, H, D] of those rows whose attention is steered.

        Args:
            layer: which layer.
            q: queries [N, H, D].
            out: what vLLM's own attention gives, changed in place.
            gather: keys and values from the cache.
            scale: factor on q.k.
        """
        active = [rows for rows in self.rows if rows.steering.active]
        for rows in active:
            if rows.prompt:
                own = slice(rows.start, rows.stop)
                k, v = gather(rows.number, rows.before + rows.stop - rows.start)
                plain = _heads_first(out[own]).clone()
                found = rows.alone().attend(
                    layer, _heads_first(q[own]), k[None], v[None], scale, plain.__getitem__
                )
                out[own] = found[0].transpose(0, 1)
        tokens = [rows for rows in active if not rows.prompt]
        if tokens:
            _attend_tokens(layer, tokens, q, out, gather, scale)

    def read(self, layer: int, hidden: Tensor, residual: Tensor | None) -> None:
        """Shows the residual streams that enter a layer (hidden + residual, [N, D] each) to the
        policies and taps that ask; what they leave of it is written back.
        """
        for rows in self.rows:
            steering, own = rows.steering, slice(rows.start, rows.stop)
            curious = layer in steering.taps or any(p.reads != "none" for p in steering.policies)
            if not curious:
                continue
            stream = hidden[own] if residual is None else hidden[own] + residual[own]
            found = rows.alone().read(layer, stream[None])[0]
            if found is not stream and not torch.equal(found, stream):
                hidden[own] = found
                if residual is not None:
                    residual[own] = 0


def _heads_first(x: Tensor) -> Tensor:
    """[n, H, D] as [1, H, n, D]."""
    return x.transpose(0, 1)[None]


def _attend_tokens(
    layer: int, tokens: Sequence[Rows], q: Tensor, out: Tensor, gather: Gather, scale: float
) -> None:
    lengths = [rows.before + 1 for rows in tokens]
    k, v = q.new_zeros(2, len(tokens), 1, 0, 1)
    if any(_keys_matter(layer, rows.steering) for rows in tokens):
        k, v = _stacked([gather(rows.number, rows.before + 1) for rows in tokens])
    places = torch.tensor([rows.start for rows in tokens], device=q.device)
    plain = out[places][:, :, None]  # [n, H, 1, D]
    steering = Steering([rows.steering for rows in tokens], lengths, prefill=False)
    mixed = steering.attend(layer, q[places][:, :, None], k, v, scale, plain.__getitem__)
    out[places] = mixed[:, :, 0]


def _keys_matter(layer: int, steering: Steered) -> bool:
    """Whether anything in this layer depends on keys and values."""
    try:
        looked_at = any(policy.looks(layer) for policy in steering.policies)
        return looked_at or steering.trace is not None or steering.regrouping.changes(layer)
    except Exception:  # the steering meets it again, and knows whose it is
        return True


def _stacked(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values [Hkv, K, D] of several requests, padded at the end [n, Hkv, K, D]."""
    longest = max(k.shape[1] for k, _ in found)

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1]))

    return torch.stack([padded(k) for k, _ in found]), torch.stack([padded(v) for _, v in found])
