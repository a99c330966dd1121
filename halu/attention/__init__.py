"""Attention by key group: the one primitive on which every attention policy stands.

`grouped_attention` says what it is, for whoever wants the parts: it reads K and V once and returns,
per query and head, the softmax mass of each key group and the partial output of each group. Plain
attention is the sum of the partial outputs. A policy changes scores by group (a score map: PAI,
FIA, VAF), changes scores or values by key (a key map: HGAI, SID, SPARC), or weighs the partial
outputs by functions of the masses (an epilogue: VAR, ZeroTuning, AD-HH, ACT).
`weighted_attention`, through which all steered rows go, is the same with the epilogue inside, so
that an implementation need not keep the partial outputs.

`impl` says how: "reference" is the specification, in torch, on any device; "triton" are kernels
(`halu/attention/triton`); "auto" is what `halu/attention/choice.py` says of the device.

Letters: B batch, H query heads, G key groups, Q queries, K keys, D head width.
"""

from dataclasses import dataclass

from torch import Tensor

from halu.attention.choice import Impl, implementation
from halu.attention.inputs import Inputs, Spans
from halu.attention.maps import KeyMap, ScoreMap, meeting_place
from halu.attention.pages import Pages
from halu.attention.redistribution import Epilogue, Redistribution, at_least
from halu.attention.reference import column_reference, grouped_reference, weighted_reference

__all__ = [
    "Epilogue",
    "Grouped",
    "Impl",
    "KeyMap",
    "Pages",
    "Redistribution",
    "ScoreMap",
    "Spans",
    "at_least",
    "column_mass",
    "grouped_attention",
    "implementation",
    "meeting_place",
    "merge",
    "weighted_attention",
]


@dataclass(frozen=True, slots=True)
class Grouped:
    """Masses A [B, H, Q, G] (they sum to 1), partial outputs O [B, H, Q, G, D] (not divided by A),
    lse [B, H, Q].

    All in float32. An empty group has mass 0 and output 0; a query that sees no key has masses 0.
    """

    mass: Tensor
    out: Tensor
    lse: Tensor


def grouped_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor | Spans,
    groups: int,
    *,
    scale: float,
    mask: Tensor | None = None,
    first: int | None = None,
    within: tuple[Tensor, Tensor] | None = None,
    pages: Tensor | Pages | None = None,
    score_map: ScoreMap | None = None,
    key_map: KeyMap | None = None,
    impl: Impl = "auto",
) -> Grouped:
    """Softmax attention split by key group.

    Args:
        q: [B, H, Q, D].
        k: [B, Hkv, K, D], H a multiple of Hkv; query head h reads key head h // (H / Hkv).
        v: like k.
        labels: group of each key, integers in [0, groups), [B, K] or [B, H, K]; or spans of keys.
        groups: number of groups.
        scale: factor on q.k, usually D ** -0.5.
        mask: true where the query may look, broadcastable to [B, H, Q, K]; none: everywhere. Only
            the reference takes one.
        first: for a causal prompt instead of a mask: the position of the first query among the
            keys; query i sees keys 0 to first + i.
        within: keys [start, stop) that each row of the batch sees, integers [B] each; none: all.
        pages: k and v are pools of pages [P, Hkv, S, D], and key j of row b of the batch is slot
            j % S of page pages[b, j // S], integers [B, K / S], or as `Pages`. Slots that nobody
            has filled must be outside `within`.
        score_map: change of the scores by group.
        key_map: change of the scores and values by key.
        impl: which implementation; never replaced silently.

    Raises:
        BadInput: if shapes disagree; the message prints what came.
        Unavailable: if `impl` does not exist or cannot run here.
        Unsupported: if `impl` does not do this.
    """
    inputs = Inputs(q, k, v, labels, groups, scale, mask, first, within, pages, score_map, key_map)
    inputs.check()
    if implementation(impl, q.device) == "reference":
        return Grouped(*grouped_reference(inputs))
    from halu.attention.triton.launch import grouped

    return Grouped(*grouped(inputs))


def weighted_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor | Spans,
    groups: int,
    *,
    scale: float,
    epilogue: Epilogue | None,
    mask: Tensor | None = None,
    first: int | None = None,
    within: tuple[Tensor, Tensor] | None = None,
    pages: Tensor | Pages | None = None,
    score_map: ScoreMap | None = None,
    key_map: KeyMap | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """`merge` of `grouped_attention` under the weights that the epilogue makes of its masses [B, H,
    Q, D], in the type of q; arguments and errors as there. The epilogue sees whole batches, but
    maybe not all queries at once; a `Redistribution` can run inside a kernel.
    """
    inputs = Inputs(q, k, v, labels, groups, scale, mask, first, within, pages, score_map, key_map)
    inputs.check()
    if implementation(impl, q.device) == "reference":
        return weighted_reference(inputs, epilogue).to(q.dtype)
    from halu.attention.triton.launch import weighted

    return weighted(inputs, epilogue)


def column_mass(
    q: Tensor, k: Tensor, rows: Tensor, scale: float, impl: Impl = "auto"
) -> tuple[Tensor, Tensor]:
    """For a causal prompt [B, H, T, D]: each key's probability summed over the query rows `rows`
    [R], and in its own row (0 in rows not listed), both [B, H, T] in float32.
    """
    if implementation(impl, q.device) == "reference":
        return column_reference(q, k, rows, scale)
    from halu.attention.triton.columns import column_mass as kernel

    return kernel(q, k, rows, scale)


def merge(grouped: Grouped, weights: Tensor | None = None) -> Tensor:
    """Sum of the partial outputs [B, H, Q, D], each times its weight [B, H, Q, G]; without weights
    plain attention.
    """
    if weights is None:
        return grouped.out.sum(-2)
    return (grouped.out * weights.unsqueeze(-1)).sum(-2)
