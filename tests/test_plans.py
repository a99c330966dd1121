"""What attention strategies plan, without a model: which layers, heads and tokens take part."""

from typing import Any

import pytest
import torch
from test_parity import plan_of, prompt_of
from test_parity_more import policy_of, stub

from halu.errors import BadInput

PROMPT = prompt_of(8, [2, 5])
ALL = (4, 4)
"""Heads and layers of the usual model."""


def layers_of(policy: Any, layers: int) -> list[int]:
    """Layers in which a policy has groups."""
    return [layer for layer in range(layers) if policy.labels(layer) is not None]


@pytest.mark.parametrize("name", ["pai", "vaf", "zerotuning"])
def test_the_main_branch_is_that_of_plain_decoding(name: str) -> None:
    ctx = stub(PROMPT, *ALL)
    assert plan_of(name, ctx).main is ctx.main


def test_pai_without_a_boost_has_no_policy() -> None:
    assert plan_of("pai", stub(PROMPT, *ALL), alpha=0).policies == ()


def test_pai_starts_at_the_second_token_where_the_code_does_so_under_guidance() -> None:
    assert policy_of("pai", PROMPT, ALL, mode="official", gamma=1.1).rows == "decode"
    assert policy_of("pai", PROMPT, ALL, mode="official", gamma=1.0).rows == "last"
    assert policy_of("pai", PROMPT, ALL, gamma=1.1).rows == "last"


def test_vaf_takes_part_in_the_middle_layers_and_knows_three_groups() -> None:
    policy = policy_of("vaf", PROMPT, (4, 32))
    assert layers_of(policy, 32) == [9, 10, 11, 12, 13, 14]
    assert policy.score_map(9).bias.tolist() == [0, 0, 0]
    assert policy.score_map(9).up.tolist() == pytest.approx([1, 1.15, 0.95])


def test_vaf_takes_part_in_layers_that_one_names() -> None:
    assert layers_of(policy_of("vaf", PROMPT, ALL, layers=[0, 3]), 4) == [0, 3]


def test_zerotuning_scales_the_first_token_in_all_heads() -> None:
    policy = policy_of("zerotuning", PROMPT, (3, 2))
    assert policy.scaled.tolist() == [[True] * 3] * 2
    assert policy.labels(1).dtype == torch.int64
    assert policy.labels(1).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


def test_zerotuning_scales_single_heads_among_those_that_take_part() -> None:
    pairs = [(1, 2), (1, 0), (3, 2)]
    policy = policy_of("zerotuning", PROMPT, (3, 4), pairs=pairs)
    assert policy.scaled.nonzero().tolist() == [[1, 0], [1, 2], [3, 2]]
    assert layers_of(policy, 4) == [1, 3]
    fewer = policy_of("zerotuning", PROMPT, (3, 4), pairs=pairs, layers=[1, 2], heads=[2])
    assert fewer.scaled.nonzero().tolist() == [[1, 2]]


def test_zerotuning_fits_the_smallest_model_and_the_prompts_last_tokens() -> None:
    assert policy_of("zerotuning", PROMPT, (1, 1)).scaled.tolist() == [[True]]
    last = policy_of("zerotuning", PROMPT, ALL, key=6, keys=2)
    assert last.labels(0).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("params", "blamed"),
    [
        ({"layers": [4]}, "layers"),
        ({"heads": [3]}, "heads"),
        ({"pairs": [(4, 0)]}, "pairs"),
        ({"pairs": [(0, 3)]}, "pairs"),
        ({"key": 8}, "key"),
        ({"key": 7, "keys": 2}, "keys"),
    ],
)
def test_zerotuning_names_the_parameter_that_does_not_fit(
    params: dict[str, Any], blamed: str
) -> None:
    with pytest.raises(BadInput, match=f"Parameter {blamed}=") as caught:
        plan_of("zerotuning", stub(PROMPT, 3, 4), **params)
    assert caught.value.param == f"params.{blamed}"
