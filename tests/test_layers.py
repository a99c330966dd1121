"""Layers and heads by number."""

from typing import Any

import pytest
import torch

from halu.errors import BadInput
from halu.layers import check_range, heads_by_layer, layers_between, proportional
from halu.strategy import ModelFacts

FACTS = ModelFacts("stub", "llava", layers=4, heads=3, kv_heads=3, hidden=48)


@pytest.mark.parametrize("value", [4, (0, 4), (9,)])
def test_numbers_that_the_model_does_not_have(value: Any) -> None:
    with pytest.raises(BadInput, match="there are 4") as caught:
        check_range("layers", value, 4)
    assert caught.value.param == "params.layers"


def test_numbers_that_it_has() -> None:
    check_range("layer", 3, 4)
    check_range("layers", (0, 3), 4)


def test_heads_by_layer() -> None:
    found = heads_by_layer("heads", [(0, 2), (3, 0), (0, 0)], FACTS)
    assert all(heads.dtype == torch.bool for heads in found.values())
    assert {layer: heads.tolist() for layer, heads in found.items()} == {
        0: [True, False, True],
        3: [True, False, False],
    }
    for pair in ((4, 0), (0, 3)):
        with pytest.raises(BadInput, match="4 layers of 3 heads") as caught:
            heads_by_layer("pairs", [pair], FACTS)
        assert caught.value.param == "params.pairs"


def test_layers_between() -> None:
    assert layers_between(1, 3, 4) == range(1, 3)
    assert layers_between(2, None, 3) == range(2, 3)
    assert layers_between(0, 1, 1) == range(1)


@pytest.mark.parametrize(("start", "end", "count"), [(2, None, 2), (2, 2, 4), (3, 2, 4), (0, 5, 4)])
def test_no_layers_between(start: int, end: int | None, count: int) -> None:
    named = f"start_layer={start} and end_layer={count if end is None else end} .* {count}"
    with pytest.raises(BadInput, match=named) as caught:
        layers_between(start, end, count)
    assert caught.value.param == "params.start_layer"


def test_published_layers_in_other_depths() -> None:
    assert proportional(32, 5, 18) == range(5, 19)
    assert (proportional(40, 5, 18), proportional(28, 5, 18)) == (range(6, 24), range(4, 16))
    assert proportional(4, 5, 18) == range(1, 3)
    assert proportional(80, 17, 17) == range(42, 44)
    for first, last in ((5, 18), (9, 14), (15, 15), (0, 31)):
        for layers in range(1, 130):
            found = proportional(layers, first, last)
            assert 0 <= found.start < found.stop <= layers
