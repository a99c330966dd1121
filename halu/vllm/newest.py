"""Generated tokens of a forward, one a request: which of them attend otherwise in a layer, and by
what the heads of the others are multiplied.
"""

from collections.abc import Sequence
from operator import is_

import torch
from torch import Tensor

from halu.attention.placed import placed
from halu.attention.steered import Steered


class Split:
    """What is to be done to the tokens in one layer.

    Attributes:
        keyed: tokens for which something depends on keys and values, by number.
        scaled: for the others, turn by turn, which are multiplied, and by which factors [n, H, 1].
    """

    def __init__(self, layer: int, steered: Sequence[Steered], out: Tensor) -> None:
        self.keyed = [n for n, one in enumerate(steered) if _keys_matter(layer, one)]
        factors = {
            n: _factors(layer, one, out) for n, one in enumerate(steered) if n not in self.keyed
        }
        self.scaled: list[tuple[list[int], Tensor]] = []
        for turn in range(max(map(len, factors.values()), default=0)):
            which = [n for n, own in factors.items() if turn < len(own)]
            self.scaled.append((which, torch.stack([factors[n][turn] for n in which])[..., None]))


class Splits:
    """The splits of all layers. They stay from one forward to the next while the same requests run
    together and their policies are settled, which answer the same to every token.
    """

    def __init__(self) -> None:
        self._steered: Sequence[Steered] = ()
        self._known: dict[int, Split] = {}

    def begin(self, steered: Sequence[Steered]) -> None:
        """A forward is about to start whose tokens are steered so."""
        same = len(steered) == len(self._steered) and all(map(is_, steered, self._steered))
        if not same or not all(one.settled for one in steered):
            self._known = {}
        self._steered = steered

    def of(self, layer: int, out: Tensor) -> Split:
        """What is to be done in a layer whose head outputs are [N, H, D]."""
        found = self._known.get(layer)
        if found is None:
            found = self._known[layer] = Split(layer, self._steered, out)
        return found


def _keys_matter(layer: int, steering: Steered) -> bool:
    """Whether anything in this layer depends on keys and values."""
    try:
        return (
            steering.curious(layer)
            or steering.trace is not None
            or steering.regrouping.changes(layer)
        )
    except Exception:  # the steering meets it again, and knows whose it is
        return True


def _factors(layer: int, steering: Steered, out: Tensor) -> list[Tensor]:
    """The policies' factors [H] of head outputs [N, H, D]."""
    try:
        found = [policy.head_scale(layer, None) for policy in steering.policies]
        return [
            placed(one, out.device).to(out).expand(out.shape[1]) for one in found if one is not None
        ]
    except Exception as error:
        steering.fail(error)
        return []
