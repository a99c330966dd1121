"""One forward's steering: which row of the batch runs under which policies, applied layer by layer.

Built anew for each forward and passed down to the attention function as an argument, so nothing is
stored on the model and two requests cannot meet. Where nothing of a row changes in a layer it keeps
the host's own attention, but for generated tokens' rows where the kernels run: those take all rows
of a layer in which one changes, the others as a single group of weight 1.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from halu.attention import choice
from halu.attention.head_scaling import head_factors
from halu.attention.keys import Keys
from halu.attention.placed import picked
from halu.attention.prompt_rows import prompt_outputs
from halu.attention.regrouped import record, regrouped
from halu.attention.stacking import Stack, stacked, stacked_keys
from halu.attention.steered import Steered

Plain = Callable[[slice | Tensor], Tensor]
"""The host's attention for some rows of the batch, a slice or indices: outputs [n, H, Q, D]."""


class Steering:
    """All rows of one forward.

    Args:
        rows: the steering of each row of the batch.
        lengths: keys that each row sees after this forward, padding not counted.
        pads: padding slots before each row's first key (left padding).
        prefill: whether this forward carries prompts (any number of queries) or one new token a
            row.
        stop: one after the last key that each row's token sees [B], where only the device knows it,
            because the forward is being recorded; `lengths` are then the room that there is, and
            there are no `pads`. An error then ends the recording, and no row is blamed.

    Attributes:
        held: tables on the device that this forward shares with others, to be kept for as long as a
            recording of it is repeated.
    """

    def __init__(
        self,
        rows: Sequence[Steered],
        lengths: Sequence[int],
        *,
        prefill: bool,
        pads: Sequence[int] | None = None,
        stop: Tensor | None = None,
    ) -> None:
        self.rows = rows
        self.lengths = lengths
        self.pads = pads or [0] * len(rows)
        self.prefill = prefill
        self.stop = stop
        self.held: list[Tensor] = []
        self._edges: tuple[Tensor, Tensor] | None = None
        self._stack = Stack()

    def read(self, layer: int, hidden: Tensor) -> Tensor:
        """Shows the residual streams [B, T, D] that enter a layer to the policies that ask for
        them; returns them as the policies leave them.
        """
        for index, row in enumerate(self.rows):
            span = self._span(index) if self.prefill else slice(None)
            try:
                hidden = self._replaced(layer, index, span, hidden)
            except Exception as error:
                self._blame(row, error)
            if layer in row.taps:
                row.tapped[layer] = hidden[index, span][-1]
        return hidden

    def _replaced(self, layer: int, index: int, span: slice, hidden: Tensor) -> Tensor:
        for policy in self.rows[index].policies:
            if policy.reads == "all" or (policy.reads == "prompt" and self.prefill):
                found = policy.read(layer, hidden[index, span])
                if found is not None:
                    hidden = hidden.clone()
                    hidden[index, span] = found
        return hidden

    def attend(self, layer: int, q: Tensor, keys: Keys, scale: float, plain: Plain) -> Tensor:
        """Head outputs [B, H, Q, D] of one layer.

        Args:
            layer: which layer.
            q: queries [B, H, Q, D].
            keys: keys and values, the cached ones included.
            scale: factor on q.k.
            plain: the host's own attention.
        """
        return (
            self._prompts(layer, q, keys, scale, plain)
            if self.prefill
            else self._tokens(layer, q, keys, scale, plain)
        )

    def _blame(self, row: Steered, error: Exception) -> None:
        if self.stop is not None:
            raise error
        row.fail(error)

    def _pick(self, rows: Sequence[int], device: torch.device) -> slice | Tensor:
        """Some of the rows, in ascending order."""
        if len(rows) == len(self.rows):
            return slice(None)
        found = picked(rows, device)
        if isinstance(found, Tensor):
            self.held.append(found)
        return found

    def _span(self, index: int) -> slice:
        return slice(self.pads[index], self.pads[index] + self.lengths[index])

    def _prompts(self, layer: int, q: Tensor, keys: Keys, scale: float, plain: Plain) -> Tensor:
        out = plain(slice(None))
        for index, row in enumerate(self.rows):
            if row.active:
                span, one = self._span(index), slice(index, index + 1)
                mine = out[one, :, span]
                own = (q[one, :, span], *keys.stretch(index, span))
                try:
                    out[one, :, span] = prompt_outputs(layer, row, *own, scale, mine)
                except Exception as error:
                    self._blame(row, error)
        return out

    def _tokens(self, layer: int, q: Tensor, keys: Keys, scale: float, plain: Plain) -> Tensor:
        self._show(layer, q, keys, scale)
        changed = []
        for index, row in enumerate(self.rows):
            try:
                changed += [index] * row.regrouping.changes(layer)
            except Exception as error:
                self._blame(row, error)
        if changed and keys.pages is None and choice.best(q.device) == "triton":
            # For a kernel a row is cheaper than the copy of the keys that leaves it out; pages are
            # left out without one.
            changed = list(range(len(self.rows)))
        out = self._outputs(layer, changed, q, keys, scale, plain)
        for which, factors in head_factors(layer, self.rows, out, self._blame):
            out[self._pick(which, q.device)] *= factors[..., None, None]
        for index, row in enumerate(self.rows):
            one = slice(index, index + 1)
            try:
                if row.trace is not None:
                    own, _ = keys.stretch(index, self._span(index))
                    record(layer, row.trace, row.regrouping, q[one], own, scale)
            except Exception as error:
                self._blame(row, error)
        return out

    def _outputs(
        self, layer: int, changed: list[int], q: Tensor, keys: Keys, scale: float, plain: Plain
    ) -> Tensor:
        """Head outputs, those of the rows whose attention changes computed anew."""
        if not changed:
            return plain(slice(None))
        out = torch.empty_like(q)
        rest = [index for index in range(len(self.rows)) if index not in changed]
        if rest:
            others = self._pick(rest, q.device)
            out[others] = plain(others)
        self._regrouped(layer, changed, q, keys, scale, out)
        return out

    def _show(self, layer: int, q: Tensor, keys: Keys, scale: float) -> None:
        """Shows the tokens' scores to the policies that look at them."""
        curious = []
        for index, row in enumerate(self.rows):
            try:
                curious += [index] * row.curious(layer)
            except Exception as error:
                self._blame(row, error)
        if not curious:
            return
        pick = self._pick(curious, q.device)
        try:
            x = keys.rows(pick).dot(q[pick]) * scale  # [n, H, 1, K]
        except Exception as error:
            for index in curious:
                self._blame(self.rows[index], error)
            return
        for n, index in enumerate(curious):
            try:
                self.rows[index].show(layer, x[n, :, 0, self._span(index)])
            except Exception as error:
                self._blame(self.rows[index], error)

    def _regrouped(
        self, layer: int, changed: list[int], q: Tensor, keys: Keys, scale: float, out: Tensor
    ) -> None:
        """Fills the outputs of the rows whose attention changes: all at once, or, should a policy
        fail, one by one, which shows whose it was.
        """
        pick = self._pick(changed, q.device)
        try:
            out[pick] = self._mixed(layer, changed, q[pick], keys.rows(pick), scale).to(q.dtype)
        except Exception:
            for index in changed:
                one = slice(index, index + 1)
                try:
                    out[one] = self._mixed(layer, [index], q[one], keys.rows(one), scale).to(out)
                except Exception as error:
                    self._blame(self.rows[index], error)
                    out[one] = 0

    def _mixed(self, layer: int, index: list[int], q: Tensor, keys: Keys, scale: float) -> Tensor:
        room, device = keys.room, q.device
        rows = [self.rows[i].regrouping for i in index]
        own = [room - self.pads[i] for i in index]
        labels = [row.labels(layer, n, device) for row, n in zip(rows, own, strict=True)]
        maps = [row.key_map(layer, n, device) for row, n in zip(rows, own, strict=True)]
        return regrouped(
            layer,
            rows,
            q,
            keys,
            scale,
            stacked(labels, q.shape[1], room, 0),
            stacked_keys(maps, q.shape[1], room),
            within=self._within(index, room, device),
            stack=self._stack,
        )

    def _within(
        self, rows: list[int], room: int, device: torch.device
    ) -> tuple[Tensor, Tensor] | None:
        """Keys [start, stop) that rows see; none: all."""
        if self.stop is None and all(self.lengths[i] == room for i in rows):
            return None
        if self._edges is None:
            self._edges = self._first_and_last(device)
        pick = self._pick(rows, device)
        return self._edges[0][pick], self._edges[1][pick]

    def _first_and_last(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if self.stop is not None:
            return torch.zeros_like(self.stop), self.stop
        start = torch.tensor(self.pads, dtype=torch.int32).to(device)
        return start, start + torch.tensor(self.lengths, dtype=torch.int32).to(device)
