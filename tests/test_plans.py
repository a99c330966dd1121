"""What attention strategies plan, without a model: which layers, heads and tokens take part."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_parity import Stub, heads, plan_of, prompt_of
from test_parity_more import policy_of, stub

from halu.attention.policy import AttentionPolicy
from halu.decoders.var import sink_tokens
from halu.decoders.vhr import VHR, reinforced_layers, vision_aware
from halu.errors import BadInput, Unsupported
from halu.strategy import Branch

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


class Blind(Stub):
    """Shows whoever reads a prompt beside decoding head outputs of norm 1."""

    def prefill(self, branch: Branch, policies: Sequence[AttentionPolicy]) -> None:
        self.read = branch
        for layer in range(self.model.layers):
            for policy in policies:
                policy.head_scale(layer, heads(1, 1, 1, 1))
                assert policy.head_scale(layer, None) is None


def test_vhr_scales_heads_from_the_prompt_on_after_reading_it_without_the_picture() -> None:
    ctx = Blind(PROMPT)
    plan = plan_of("vhr", ctx)
    assert plan.main is ctx.main
    (make,) = plan.policies
    policy = make(PROMPT)
    assert ctx.read.name == "blind"
    assert ctx.asked == {"blind": {"blind": True, "steered": True}}
    assert (policy.rows, policy.pieces) == ("all", False)
    seeing = heads(1.1, 1.5, 1.2, 1.9)
    assert policy.head_scale(0, seeing) is None
    assert policy.head_scale(1, None) is None
    for last in (seeing, None):
        assert [float(one) for one in policy.head_scale(1, last)] == [1, 2, 1, 2]
    assert policy.head_scale(2, None) is None


def test_vhr_of_the_last_row_may_read_the_prompt_in_pieces() -> None:
    (make,) = plan_of("vhr", Blind(PROMPT), rows="last", alpha=3).policies
    policy = make(PROMPT)
    assert (policy.rows, policy.pieces) == ("last", True)
    assert policy.head_scale(3, heads(2, 1, 1, 2)).tolist() == [3, 1, 1, 3]


@pytest.mark.parametrize(
    ("blind", "moved", "params", "chosen"),
    [
        ([2, 3, 7, 4, 4], [5, 1, 9, 9, 7], {"squared_distance": True}, [0, 0, 1, 1, 0]),
        ([5, 8, 8, 6, 2], [6, 2, 8, 6, 4], {}, [0, 0, 1, 0, 0]),
        ([8, 2, 5, 9, 5], [2, 9, 6, 9, 4], {"ddof": 0}, [0, 1, 1, 0, 0]),
        ([5, 8, 8, 6, 2], [6, 2, 8, 6, 4], {"ddof": 0}, [1, 0, 0, 1, 0]),
    ],
)
def test_vhr_outliers_rest_on_squares_and_on_the_deviation_that_one_names(
    blind: list[float], moved: list[float], params: dict[str, Any], chosen: list[int]
) -> None:
    given = VHR.Params(**({"squared_activation": "squared_distance" not in params} | params))
    seeing = heads(*blind) + heads(*moved)
    assert vision_aware(seeing, heads(*blind), given).tolist() == [bool(one) for one in chosen]


def test_a_vhr_outlier_counts_as_nothing_however_small_the_others_are() -> None:
    blind = heads(1, 1, 1, 1, 9)
    found = vision_aware(blind + heads(0.01, 0.02, 0.03, 0.04, 0.9), blind, VHR.Params())
    assert found.tolist() == [False, False, True, True, False]


def test_vhr_leaves_the_head_in_the_middle_alone() -> None:
    blind = heads(1, 1, 1)
    assert vision_aware(blind + heads(1, 2, 3), blind, VHR.Params()).tolist() == [
        False,
        False,
        True,
    ]
    assert reinforced_layers(VHR.Params(last_layers=0), 2) == {1}


def test_var_knows_the_sinks_of_published_models_and_takes_others_by_parameter() -> None:
    ctx = stub(PROMPT, 32, 32)
    ctx.model = replace(ctx.model, kv_heads=32, hidden=4096)
    assert plan_of("var", ctx).main is ctx.main
    for params, dimensions, tau in (
        ({}, (1415, 2533), 20.0),
        ({"tau": 2}, (1415, 2533), 2),
        ({"dimensions": [4095]}, (4095,), 20.0),
        ({"tau": 3, "dimensions": [7]}, (7,), 3),
    ):
        (make,) = plan_of("var", ctx, **params).policies
        policy: Any = make(PROMPT)
        assert (policy.dimensions, policy.tau) == (dimensions, tau)
    with pytest.raises(
        BadInput, match=r"dimensions=\(1, 4096\) is beyond the model's 4096"
    ) as caught:
        plan_of("var", ctx, dimensions=[1, 4096])
    assert caught.value.param == "params.dimensions"


@pytest.mark.parametrize("given", [{"tau": 2}, {"dimensions": [1]}, {}])
def test_var_says_what_is_not_known_of_a_model(given: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="sink dimensions are not known"):
        plan_of("var", stub(PROMPT, *ALL), **given)


SINKS = {"tau": 1.0, "dimensions": [0]}


def weights(mass: list[float], **params: Any) -> list[float]:
    """What VAR makes of the masses of text, picture, picture sinks and other sinks."""
    policy = policy_of("var", PROMPT, ALL, **SINKS, **params)
    found: list[float] = policy.epilogue(2)(torch.tensor([[mass]]))[0, 0].tolist()
    return found


def test_var_moves_a_share_of_the_sinks_to_the_picture() -> None:
    moved = weights([0.4, 0.3, 0.1, 0.2])
    assert moved == pytest.approx([1, 1 + 0.4 * 0.3 / 0.3, 0.6, 0.6])
    assert weights([0.61, 0.1, 0.09, 0.2]) == [1, 1, 1, 1]  # too little picture in sight


def test_var_allows_the_released_codes_padding_of_the_picture() -> None:
    mass = [0.399999, 0.3, 0.300001, 0.0]  # over rho by less than 3 picture keys of 1e-6
    assert weights(mass, mode="official")[2] == pytest.approx(0.6)
    assert weights(mass, mode="paper")[2] == 1


def test_a_var_sink_may_be_faint() -> None:
    assert sink_tokens(torch.tensor([[1e-3, 0, 0, 0]]), (0,), 0.5).tolist() == [True]
