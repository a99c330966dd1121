"""Attention methods once more, slow and obvious: whole maps, one key at a time, no cache.

Written from the equations of the papers, not from halu's code; they only share the stock model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from recorder import full_rows
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from halu.prompt import Prompt

Edit = Callable[[int, Tensor, Tensor], Tensor]
"""Layer, probabilities [H, Q, K] and values [H, K, D] to head outputs [H, Q, D], all in float64."""


def oracle_rows(model: Any, prompt: Prompt, tokens: Sequence[int], edit: Edit) -> Tensor:
    """Rows [n + 1, V] of a stock model whose attention is computed by `edit`."""
    AttentionInterface.register("oracle", _attend)
    AttentionMaskInterface.register("oracle", sdpa_mask)
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "oracle"})
    try:
        return full_rows(model, prompt, tokens, oracle=edit)
    finally:
        model.set_attn_implementation({"text_config": before})


def _attend(
    module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    groups = q.shape[1] // k.shape[1]
    keys = k[0].double().repeat_interleave(groups, 0)
    values = v[0].double().repeat_interleave(groups, 0)
    scores = q[0].double() @ keys.transpose(-1, -2) * kwargs["scaling"]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    p = torch.softmax(scores.masked_fill(later, float("-inf")), -1)
    out = kwargs["oracle"](module.layer_idx, p, values)
    return out.transpose(0, 1)[None].to(q.dtype), None


def plain(layer: int, p: Tensor, v: Tensor) -> Tensor:
    """Attention as it is."""
    return p @ v


class VarOracle:
    """VAR on whole maps (Kang et al., sections 4 and 5; design: methods-attention 3.1)."""

    def __init__(self, model: Any, prompt: Prompt, params: Mapping[str, Any]) -> None:
        self.prompt = prompt
        self.params = params
        self.layers = model.config.text_config.num_hidden_layers
        self.entering: dict[int, Tensor] = {}
        self.changed = 0
        self._hooks = [
            layer.register_forward_pre_hook(self._reader(index))
            for index, layer in enumerate(model.model.language_model.layers)
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _reader(self, index: int) -> Callable[[Any, Any], None]:
        def read(module: Any, args: Any) -> None:
            self.entering[index] = args[0][0].double()

        return read

    def sinks(self, layer: int) -> list[bool]:
        """Whether each prompt token is a sink of the layer."""
        found = []
        for r in self.entering[layer][: len(self.prompt.ids)]:
            rms = float((r**2).mean() + 1e-6) ** 0.5
            peak = max(abs(float(r[d])) for d in self.params["dimensions"])
            found.append(peak / rms > self.params["tau"])
        return found

    def __call__(self, layer: int, p: Tensor, v: Tensor) -> Tensor:
        official = self.params["mode"] == "official"
        if layer < 2 or (layer == self.layers - 1 and not official):
            return p @ v
        sink = self.sinks(layer)
        image = self.prompt.layout.is_image()
        v1 = [j for j in range(len(sink)) if image[j] and not sink[j]]
        v2 = [j for j in range(len(sink)) if image[j] and sink[j]]
        t3 = [j for j in range(len(sink)) if not image[j] and sink[j]]
        if not v2:
            return p @ v
        p = p.clone()
        after = self.prompt.layout.images[-1].stop
        for head in range(p.shape[0]):
            for query in range(after, p.shape[1]):
                self._redistribute(p[head, query], v1, v2, t3, official)
        return p @ v

    def _redistribute(
        self, row: Tensor, v1: list[int], v2: list[int], t3: list[int], official: bool
    ) -> None:
        seen = float(row[v1].sum() + row[v2].sum())
        if official:
            portion = float(row[v2].sum()) / (seen + (len(v1) + len(v2)) * 1e-6)
            chosen = portion <= self.params["rho"]
        else:
            chosen = float(row[v1].sum()) / seen >= self.params["rho"]
        if not chosen or seen < self.params["summ"]:
            return
        self.changed += 1
        budget = self.params["move_fraction"] * float(row[v2].sum() + row[t3].sum())
        total = float(row[v1].sum())
        for j in v1:
            row[j] += budget * row[j] / total
        for j in v2 + t3:
            row[j] *= 1 - self.params["move_fraction"]


class VhrOracle:
    """VHR layer by layer (He et al., equations 4, 6, 7); `two_pass` judges unreinforced outputs."""

    def __init__(
        self, model: Any, prompt: Prompt, blind: Prompt, params: Mapping[str, Any]
    ) -> None:
        self.params = params
        self.last = len(prompt.ids) - 1
        self.blind = self._outputs(model, blind)
        self.seeing = self._outputs(model, prompt)
        layers = model.config.text_config.num_hidden_layers
        first = layers - round(params["last_layers"] * layers)
        self.layers = {*range(first, layers)} | ({1} if params["second_layer"] else set())
        self.chosen: dict[int, list[bool]] = {}
        self.two_pass = {
            layer: self._choose(self.seeing[layer], self.blind[layer]) for layer in self.layers
        }

    def _outputs(self, model: Any, prompt: Prompt) -> dict[int, Tensor]:
        found = {}

        def keep(layer: int, p: Tensor, v: Tensor) -> Tensor:
            found[layer] = (p @ v)[:, len(prompt.ids) - 1]
            return p @ v

        oracle_rows(model, prompt, [], keep)
        return found

    def _choose(self, a: Tensor, b: Tensor) -> list[bool]:
        p = self.params
        distance = [float(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True)]
        if not p["squared_distance"]:
            distance = [value**0.5 for value in distance]
        text = [float((y**2).sum()) for y in b]
        if not p["squared_activation"]:
            text = [value**0.5 for value in text]
        high = [_high(distance, p["ddof"]), _high(text, p["ddof"])]
        if p["outliers"]:
            outlier = [d and t for d, t in zip(*high, strict=True)]
            distance = [0.0 if out else d for d, out in zip(distance, outlier, strict=True)]
        ordered = sorted(distance)
        half = len(ordered) // 2
        median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return [d > median for d in distance]

    def __call__(self, layer: int, p: Tensor, v: Tensor) -> Tensor:
        out = p @ v
        if layer not in self.layers:
            return out
        self.chosen[layer] = self._choose(out[:, self.last], self.blind[layer])
        first = 0 if self.params["rows"] == "all" else self.last
        for head, chosen in enumerate(self.chosen[layer]):
            if chosen:
                out[head, first:] *= self.params["alpha"]
        return out


def _high(values: list[float], ddof: int) -> list[bool]:
    mean = sum(values) / len(values)
    deviation = (sum((x - mean) ** 2 for x in values) / (len(values) - ddof)) ** 0.5
    return [x > mean + deviation for x in values]
