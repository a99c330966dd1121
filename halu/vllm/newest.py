"""Generated tokens of a forward, one a request: which of them attend otherwise in a layer, and by
what the heads of the others are multiplied.
"""

from collections.abc import Sequence
from operator import is_

from torch import Tensor

from halu.attention.head_scaling import head_factors
from halu.attention.steered import Steered


class Split:
    """What is to be done to the tokens in one layer.

    Attributes:
        keyed: tokens for which something depends on keys and values, by number.
        changed: whether the attention of all tokens changes, whatever a look may bring.
        scaled: for the others, turn by turn, which are multiplied, and by which factors [n, H, 1].
    """

    def __init__(self, layer: int, steered: Sequence[Steered], out: Tensor) -> None:
        wants = [_wants(layer, one) for one in steered]
        self.keyed = [n for n, one in enumerate(wants) if any(one)]
        self.changed = all(changes and not looks for looks, changes in wants)
        others = [n for n in range(len(steered)) if n not in self.keyed]
        turns = head_factors(layer, [steered[n] for n in others], out, Steered.fail)
        self.scaled = [([others[n] for n in which], each[..., None]) for which, each in turns]


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


def _wants(layer: int, steering: Steered) -> tuple[bool, bool]:
    """Whether a token's scores are looked at or recorded in a layer, and whether its attention
    changes, as far as is known before the look.
    """
    try:
        looks = steering.curious(layer) or steering.trace is not None
        return looks, steering.regrouping.changes(layer)
    except Exception:  # the steering meets it again, and knows whose it is
        return True, False
