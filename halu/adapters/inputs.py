"""What a batch of processor outputs says of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from halu.errors import Failed


def how_many(tokens: int, sizes: Sequence[int]) -> int:
    """How many of the next pictures fill this many image tokens."""
    count = 0
    while tokens > sum(sizes[:count]):
        if count == len(sizes):
            raise Failed(f"The prompt has {tokens} image tokens, its pictures give {sum(sizes)}.")
        count += 1
    return count


def unpadded_rows(inputs: Mapping[str, Any]) -> list[Tensor]:
    """The ids of each row [T], padding on either side removed."""
    ids = inputs["input_ids"].cpu()
    mask = inputs.get("attention_mask")
    if mask is None:
        return list(ids)
    return [row[keep] for row, keep in zip(ids, mask.cpu().bool(), strict=True)]
