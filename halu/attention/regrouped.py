"""One pass over keys for several rows: their groups, maps and weights as one call."""

from collections.abc import Sequence

from torch import Tensor

from halu.attention import KeyMap, weighted_attention
from halu.attention.keys import Keys
from halu.attention.reference import Changes, masses, members, probabilities, scores, spread
from halu.attention.regrouping import Regrouping
from halu.attention.stacking import Stack
from halu.attention.trace import Trace


def regrouped(
    layer: int,
    rows: Sequence[Regrouping],
    q: Tensor,
    keys: Keys,
    scale: float,
    labels: Tensor,
    key_map: KeyMap | None,
    *,
    within: tuple[Tensor, Tensor] | None = None,
    first: int | None = None,
    stack: Stack | None = None,
) -> Tensor:
    """Head outputs [n, H, Q, D] of rows under their own regroupings.

    Args:
        layer: which layer.
        rows: the regrouping of each row.
        q: queries [n, H, Q, D].
        keys: keys and values of these rows.
        scale: factor on q.k.
        labels: group of each key [n, K] or [n, H, K].
        key_map: changes key by key, of all rows.
        within: keys [start, stop) that each row sees, [n] each; none: all.
        first: for a causal prompt the position of the first query.
        stack: of the layers that share it.
    """
    stack = stack or Stack()
    groups = max(row.groups for row in rows)
    return weighted_attention(
        q,
        keys.k,
        keys.v,
        labels,
        groups,
        scale=scale,
        epilogue=stack.epilogue(layer, rows, groups, q),
        within=within,
        first=first,
        pages=keys.pages,
        score_map=stack.score_map(layer, rows, groups, q),
        key_map=key_map,
    )


def tables(layer: int, part: Regrouping, k: Tensor) -> tuple[Tensor, KeyMap | None]:
    """Labels [1, K] or [1, H, K] and key map of one row."""
    keys = k.shape[2]
    return part.labels(layer, keys, k.device)[None], part.key_map(layer, keys, k.device)


def record(layer: int, trace: Trace, part: Regrouping, q: Tensor, k: Tensor, scale: float) -> None:
    """Records where one query row looked, as its policies left it."""
    x = scores(q, k, scale)
    if not part.changes(layer):
        trace.add(probabilities(x)[0, :, 0])
        return
    labels, key_map = tables(layer, part, k)
    changes = Changes(part.score_map(layer), key_map)
    p = probabilities(changes.scores(x, labels))  # [1, H, 1, K]
    member = members(labels, part.groups)
    weigh = part.epilogue(layer)
    weights = None if weigh is None else weigh(masses(p, member)[0])
    if weights is not None:
        p = p * spread(weights[None], member)
    trace.add(p[0, :, 0])
