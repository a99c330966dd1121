"""Starts some attention heads as "find what equals me", the first thing a model that answers
about pictures must learn.
"""

from typing import Any

import torch
from torch import nn

STRENGTH = 0.055


@torch.no_grad()
def match(layers: nn.ModuleList, count: int, seed: int) -> None:
    """In the first `count` layers, one query head of each key head starts with that key head's
    weights.

    A word then looks at image tokens that point at the same word, which stage (b) has arranged.
    """
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        attention: Any = layers[number].self_attn
        width = attention.head_dim
        keys = attention.k_proj.weight
        keys.copy_(torch.randn(keys.shape, generator=generator) * STRENGTH)
        step = attention.q_proj.weight.shape[0] // keys.shape[0]
        for group in range(keys.shape[0] // width):
            rows = slice(group * step * width, group * step * width + width)
            attention.q_proj.weight[rows] = keys[group * width : (group + 1) * width]
