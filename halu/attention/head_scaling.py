"""The factors of head outputs that the policies of several rows give, as few products.

Letters: B batch, H query heads, n some of the rows.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from halu.attention.placed import placed
from halu.attention.steered import Steered

Turn = tuple[list[int], Tensor]
"""Which rows are multiplied, and by which factors [n, H]."""


def head_factors(
    layer: int, rows: Sequence[Steered], out: Tensor, blame: Callable[[Steered, Exception], None]
) -> Iterator[Turn]:
    """What generated tokens' head outputs [B, H, ...] are multiplied with in a layer: first by
    every row's first policy that scales heads, then by the second ones.

    Args:
        layer: which layer.
        rows: the steering of each row.
        out: the head outputs, of which size, type and device are read.
        blame: is told of a row whose policies fail; it is left out.
    """
    factors = {}
    for index, row in enumerate(rows):
        try:
            found = [policy.head_scale(layer, None) for policy in row.policies]
            factors[index] = [
                placed(one, out.device).to(out).expand(out.shape[1])
                for one in found
                if one is not None
            ]
        except Exception as error:
            blame(row, error)
    for turn in range(max(map(len, factors.values()), default=0)):
        which = [index for index, own in factors.items() if turn < len(own)]
        yield which, torch.stack([factors[index][turn] for index in which])
