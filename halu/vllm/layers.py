"""Where halu meets the modules of vLLM's language model: its layers, its norm, its attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.attention import Attention

from halu.errors import Failed
from halu.strategy import Tap
from halu.vllm import internals
from halu.vllm.attention import SteeredImpl, check_plain
from halu.vllm.internals import check, lacking
from halu.vllm.table import Table


class Layers:
    """The language model's decoder layers, joined to the table of the current forward.

    Args:
        model: vLLM's model.
        table: whose rows each forward has.
        count: how many layers there are.

    Raises:
        Failed: if the model is built in an unknown way.
        Unavailable: if this vLLM is not one that halu knows.
    """

    def __init__(self, model: Any, table: Table, count: int) -> None:
        check(lacking(model, internals.MODEL))
        self.model = model
        text = model.get_language_model()
        self.text = text.model
        attentions = [_attention(layer) for layer in self.text.layers]
        if len(attentions) != count:
            raise Failed(f"vLLM's model has {len(attentions)} layers here, not {count}.")
        for number, attention in enumerate(attentions):
            attention.impl.table, attention.impl.number = table, number
        self.attentions = attentions
        self._table = table
        self._hooks: list[Any] = []

    def listen(self, curious: bool) -> None:
        """Has the table shown the residual streams, or not: a hook costs each layer something even
        if nobody asks.
        """
        if curious and not self._hooks:
            modules = enumerate((*self.text.layers, self.text.norm))
            self._hooks = [
                module.register_forward_pre_hook(_reader(self._table, number))
                for number, module in modules
            ]
        elif not curious:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []

    def early(self, tapped: Mapping[int, Tensor], taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """Rows of scores [V] in float32 that the output head makes of residual streams [D]."""
        hidden = torch.stack([tapped[tap.layer] for tap in taps])
        normed = torch.tensor([tap.normed for tap in taps], device=hidden.device)[:, None]
        rows = self.scores(torch.where(normed, self.text.norm(hidden), hidden))
        return dict(zip(taps, rows, strict=True))

    def scores(self, hidden: Tensor) -> Tensor:
        """Rows of scores [n, V] in float32 of residual streams [n, D] after the norm."""
        rows: Tensor = self.model.compute_logits(hidden)
        return rows.float()


def _attention(layer: Any) -> Any:
    found = [module for module in layer.modules() if isinstance(module, Attention)]
    if len(found) != 1 or not isinstance(found[0].impl, SteeredImpl):
        kinds = ", ".join(type(each.impl).__name__ for each in found) or "nothing"
        raise Failed(
            f"A decoder layer's attention is {kinds}, not halu's.",
            hint="VLLM_PLUGINS must be unset or name halu; on GPUs --attention-backend must be"
            " FLASH_ATTN or TRITON_ATTN.",
        )
    impl: Any = found[0].impl
    stock = type(impl).__mro__[2]  # after halu's own class and `SteeredImpl`
    check(
        lacking(stock, internals.ATTENTION),
        lacking(impl, fields=internals.ATTENTION_FIELDS),
        lacking(impl.metadata, fields=internals.METADATA),
    )
    check_plain(impl)
    return found[0]


def _reader(table: Table, number: int) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> Any:
        if not any(rows.asks(number) for rows in table.rows):
            return None
        # A layer is called with (positions, hidden, residual), the norm with (hidden, residual).
        hidden, residual = args[-2].clone(), args[-1]
        residual = None if residual is None else residual.clone()
        table.read(number, hidden, residual)
        return (*args[:-2], hidden, residual)

    return hook
