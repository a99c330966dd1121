"""Whose rows the current forward has: written by the runner before it, read by attention and by the
layers' hooks during it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halu.attention.keys import Keys
from halu.attention.pages import Pages
from halu.attention.placed import picked
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.vllm.newest import Splits


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

    @property
    def curious(self) -> bool:
        """Whether it may want to see residual streams."""
        return bool(self.steering.taps) or self._reads

    def asks(self, layer: int) -> bool:
        """Whether it wants to see the residual streams that enter a layer."""
        return layer in self.steering.taps or self._reads

    @property
    def _reads(self) -> bool:
        wanted = {"all", "prompt"} if self.prompt else {"all"}
        return any(policy.reads in wanted for policy in self.steering.policies)

    def alone(self) -> Steering:
        """The steering of this request's rows by themselves."""
        seen = self.before + self.stop - self.start
        return Steering([self.steering], [seen], prefill=self.prompt)


@dataclass(slots=True)
class Together:
    """Tokens whose attention is computed anew at once.

    Attributes:
        steering: theirs, for all layers of this forward.
        pages: theirs, likewise: the layers' caches share one table of blocks.
        places: their rows of the batch.
    """

    steering: Steering
    pages: Pages
    places: slice | Tensor


class Table:
    """The current forward.

    Attributes:
        rows: requests on which something acts; all others are vLLM's alone.
        aside: whether a prompt is read beside decoding, whose keys are not kept anywhere.
    """

    def __init__(self) -> None:
        self.rows: Sequence[Rows] = ()
        self.aside = False
        self._prompts: Sequence[Rows] = ()
        self._tokens: Sequence[Rows] = ()
        self._splits = Splits()
        self._together: dict[tuple[int, ...], Together] = {}

    def show(self, rows: Sequence[Rows]) -> None:
        """A forward with these rows is about to start; with none: it is over."""
        self.rows = rows
        active = [each for each in rows if each.steering.active]
        self._prompts = [each for each in active if each.prompt]
        self._tokens = [each for each in active if not each.prompt]
        self._together = {}
        if self._tokens:
            self._splits.begin([each.steering for each in self._tokens])

    def replaces(self, layer: int, out: Tensor) -> bool:
        """Whether in a layer all head outputs [N, H, D] will be replaced, whatever they are."""
        if self._prompts or len(self._tokens) < len(out):
            return False
        return self._splits.of(layer, out).changed

    def attend(self, layer: int, q: Tensor, out: Tensor, keys: Keys, scale: float) -> None:
        """Replaces head outputs [N, H, D] of those rows whose attention is steered.

        Args:
            layer: which layer.
            q: queries [N, H, D].
            out: what vLLM's own attention gives, or anything where `replaces` says that nothing of
                that would stay; changed in place.
            keys: keys and values of the requests of the batch.
            scale: factor on q.k.
        """
        for rows in self._prompts:
            own = slice(rows.start, rows.stop)
            seen = Keys(*keys.stretch(rows.number, slice(rows.before + rows.stop - rows.start)))
            plain = _heads_first(out[own]).clone()
            found = rows.alone().attend(layer, _heads_first(q[own]), seen, scale, plain.__getitem__)
            out[own] = found[0].transpose(0, 1)
        if self._tokens:
            split = self._splits.of(layer, out)
            if split.keyed:
                assert keys.pages is not None
                those = self._those(tuple(split.keyed), keys.pages)
                _attend_tokens(layer, those, q, out, replace(keys, pages=those.pages), scale)
            for which, factors in split.scaled:
                out[picked([self._tokens[n].start for n in which], q.device)] *= factors

    def read(self, layer: int, hidden: Tensor, residual: Tensor | None) -> None:
        """Shows the residual streams that enter a layer (hidden + residual, [N, D] each) to the
        policies and taps that ask; what they leave of it is written back.
        """
        for rows in self.rows:
            if not rows.asks(layer):
                continue
            own = slice(rows.start, rows.stop)
            stream = hidden[own] if residual is None else hidden[own] + residual[own]
            found = rows.alone().read(layer, stream[None])[0]
            if found is not stream and not torch.equal(found, stream):
                hidden[own] = found
                if residual is not None:
                    residual[own] = 0

    def _those(self, which: tuple[int, ...], pages: Pages) -> Together:
        """Some of the tokens, and their part of the batch's pages; layers that ask for the same
        ones share them.
        """
        if which not in self._together:
            device, rows = pages.table.device, [self._tokens[n] for n in which]
            lengths = [each.before + 1 for each in rows]
            steering = Steering([each.steering for each in rows], lengths, prefill=False)
            requests = torch.tensor([each.number for each in rows], device=device)
            own = pages.rows(requests).upto(max(lengths))
            filled = torch.tensor(lengths, dtype=torch.int32, device=device)
            places = picked([each.start for each in rows], device)
            self._together[which] = Together(steering, replace(own, stop=filled), places)
        return self._together[which]


def _heads_first(x: Tensor) -> Tensor:
    """[n, H, D] as [1, H, n, D]."""
    return x.transpose(0, 1)[None]


def _attend_tokens(
    layer: int, those: Together, q: Tensor, out: Tensor, keys: Keys, scale: float
) -> None:
    plain = out[those.places][:, :, None]  # [n, H, 1, D]
    queries = q[those.places][:, :, None]
    mixed = those.steering.attend(layer, queries, keys, scale, plain.__getitem__)
    out[those.places] = mixed[:, :, 0]
