"""A model's layers and heads by number: how parameters name them, and which of them there are."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from halu.errors import BadInput
from halu.strategy import ModelFacts

Index = Annotated[int, Field(ge=0, lt=1000)]
"""Number of a layer or head, from 0."""
Indices = Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)]
"""Layers, or heads of each layer."""
Pair = Annotated[tuple[Index, ...], Field(min_length=2, max_length=2)]
"""A head: its layer, and its number there."""


def check_range(name: str, value: Any, count: int) -> None:
    """Refuses a parameter, one number or several, that counts further than there is.

    Raises:
        BadInput: if a number is not below `count`.
    """
    most = value if isinstance(value, int) else max(value)
    if most >= count:
        raise BadInput(
            f"Parameter {name}={value} is out of range, there are {count}.", param=f"params.{name}"
        )


def layers_between(start: int, end: int | None, count: int) -> range:
    """Layers [start_layer, end_layer) of `count`; no end: to the last.

    Raises:
        BadInput: if there is none, or if the model has fewer.
    """
    layers = range(start, count if end is None else end)
    if not layers or layers.stop > count:
        raise BadInput(
            f"Parameters start_layer={layers.start} and end_layer={layers.stop} name no layers"
            f" of a model of {count}.",
            param="params.start_layer",
        )
    return layers


def proportional(layers: int, first: int, last: int) -> range:
    """Layers `first` to `last` of 32, counted from 0, or as many and as deep in proportion: for
    what was published for one depth alone.
    """
    start = round(first * layers / 32)
    return range(start, start + max(1, round((last - first + 1) * layers / 32)))


def heads_by_layer(
    name: str, pairs: Iterable[Sequence[int]], model: ModelFacts
) -> dict[int, Tensor]:
    """Which heads [H] of each layer the pairs of layer and head name.

    Raises:
        BadInput: if the model does not have one; parameter `name` is to blame.
    """
    found: dict[int, Tensor] = {}
    for layer, head in pairs:
        if layer >= model.layers or head >= model.heads:
            raise BadInput(
                f"Parameter {name} names ({layer}, {head}), the model has {model.layers}"
                f" layers of {model.heads} heads.",
                param=f"params.{name}",
            )
        found.setdefault(layer, torch.zeros(model.heads, dtype=torch.bool))[head] = True
    return found
