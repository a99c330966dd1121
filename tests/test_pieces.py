"""A policy that says it takes its prompt in pieces does the same with pieces as with the whole."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from recorder import PARAMS
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from halu.attention.keys import Keys
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.planning import choose, steered
from halu.vlm import asking

SCALE = 0.3
TAKES = {"adhh", "caac", "fia", "hgai", "pai", "sparc", "spin", "vaf", "vhr-last", "zerotuning"}
"""Strategies whose prompts may be read in pieces."""
WHOLE = {"act", "eah", "glc", "sid", "var", "vhr"}
"""Strategies that must see theirs at once."""


def makers(adapter: Any, picture: Any, name: str) -> list[Callable[[], Steered]]:
    """Makes the steering of each branch that a strategy acts on."""
    strategy, _, rows = name.partition("-")
    params = {**PARAMS.get(strategy, {}), **({"rows": rows} if rows else {})}
    request = asking(picture(), "Is there a dog?", strategy=strategy, params=params)
    plan, _ = choose(request).plan(adapter, request)
    found = [(branch.prompt.layout, steered(plan, branch)) for branch in (plan.main, *plan.extra)]
    made = [lambda layout=layout, make=make: Steered(layout, make()) for layout, make in found]
    return [make for make in made if make().policies]


def read(steering: Steered, layer: int, qkv: Sequence[Tensor], cuts: Sequence[int]) -> Tensor:
    """Head outputs [H, T, D] of a prompt that comes in pieces which end at `cuts`."""
    q, k, v = qkv
    outs, start = [], 0
    for stop in cuts:
        some, keys = q[:, :, start:stop], Keys(k, v).upto(stop)
        later = torch.arange(stop) > torch.arange(start, stop)[:, None]
        how = {"attn_mask": ~later, "scale": SCALE, "enable_gqa": True}
        plain = scaled_dot_product_attention(some, keys.k, keys.v, **how)
        one = Steering([steering], [stop], prefill=True)
        outs.append(one.attend(layer, some, keys, SCALE, lambda pick, plain=plain: plain[pick])[0])
        start = stop
    assert steering.failure is None
    return torch.cat(outs, 1)


@pytest.mark.parametrize("name", sorted(TAKES))
def test_pieces_are_as_the_whole(adapter: Any, picture: Any, name: str) -> None:
    model = adapter("llava")
    for make in makers(model, picture, name):
        whole, pieces = make(), make()
        assert pieces.pieces
        length, facts = whole.layout.length, model.facts
        width = facts.hidden // facts.heads
        for layer in range(facts.layers):
            rng = torch.Generator().manual_seed(layer)
            q = torch.randn(1, facts.heads, length, width, generator=rng)
            k, v = torch.randn(2, 1, facts.heads // 2, length, width, generator=rng)
            for last in (1, 5):
                cuts = (3, length // 2, length - last, length)
                expected = read(whole, layer, (q, k, v), (length,))
                found = read(pieces, layer, (q, k, v), cuts)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_others_say_that_they_need_the_whole(adapter: Any, picture: Any, name: str) -> None:
    assert not all(make().pieces for make in makers(adapter("llava"), picture, name))
