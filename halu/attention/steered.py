"""One branch's steering for as long as it lives."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from halu.attention.policy import AttentionPolicy, Rows
from halu.attention.reference import scores
from halu.attention.regrouping import Regrouping
from halu.attention.trace import Trace
from halu.layout import Layout


@dataclass(slots=True)
class Steered:
    """A branch's policies, its prompt, and what is recorded of it.

    Attributes:
        layout: which token of the prompt is what.
        policies: they act in this order.
        trace: records where each token looked, if there is one.
        taps: layers whose input at the newest token is kept in `tapped`; the number of layers
            stands for the input of the final norm.
        tapped: residual stream [D] by layer, of the last forward.
        failure: what a policy raised; from then on the branch goes unsteered, so that the others
            of its forward are not disturbed, and whoever runs it must not go on.
        regrouping: the policies that change attention itself, as generated tokens see them.
        passes: the same for the prompt's rows: from which row on which of them act.
    """

    layout: Layout
    policies: tuple[AttentionPolicy, ...] = ()
    trace: Trace | None = None
    taps: frozenset[int] = frozenset()
    tapped: dict[int, Tensor] = field(default_factory=dict)
    failure: Exception | None = None
    regrouping: Regrouping = field(init=False)
    passes: tuple[tuple[int, Regrouping], ...] = field(init=False)

    def __post_init__(self) -> None:
        rows = {p.rows for p in self.policies if p.groups > 1}
        rows |= {p.rows_of_keys for p in self.policies if p.keyed}
        starts = sorted({self.starts(one) for one in rows})
        self.passes = tuple((start, self._regrouping(start)) for start in starts)
        settled = all(policy.settled for policy in self.policies)
        last = starts[-1] if starts else -1
        self.regrouping = self._regrouping(last, settled=settled)

    def fork(self) -> "Steered":
        """The steering of another hypothesis that goes on from here."""
        policies = tuple(policy.fork() for policy in self.policies)
        return replace(self, policies=policies, tapped=dict(self.tapped))

    def fail(self, error: Exception) -> None:
        """Ends the steering of this branch alone."""
        self.failure = error
        self.policies, self.trace, self.passes = (), None, ()
        self.regrouping = Regrouping((), (), self.layout.length)

    @property
    def settled(self) -> bool:
        """Whether a recorded step of it can be repeated."""
        quiet = self.trace is None and self.failure is None
        return quiet and all(policy.settled for policy in self.policies)

    @property
    def pieces(self) -> bool:
        """Whether its prompt may be read in pieces."""
        return self.trace is None and all(policy.pieces for policy in self.policies)

    @property
    def active(self) -> bool:
        """Whether attention has anything to do."""
        return bool(self.policies) or self.trace is not None

    def curious(self, layer: int) -> bool:
        """Whether a policy wants to be shown the newest rows' scores in a layer."""
        return any(policy.looks(layer) for policy in self.policies)

    def show(self, layer: int, x: Tensor) -> None:
        """Shows the policies that look a generated token's scores [H, K]."""
        for policy in self.policies:
            if policy.looks(layer):
                policy.look(layer, x)

    def look(self, layer: int, q: Tensor, k: Tensor, scale: float) -> None:
        """Shows the scores of a prompt's newest rows, from q [1, H, Q, D] and k [1, Hkv, K, D], the
        last query being that of the last key.
        """
        curious = [policy for policy in self.policies if policy.looks(layer)]
        deepest = max((policy.looks_back for policy in curious), default=0)
        for back in reversed(range(min(deepest, q.shape[2]))):
            row, seen = q.shape[2] - 1 - back, k.shape[2] - back
            x = scores(q[:, :, row : row + 1], k[:, :, :seen], scale)[0, :, 0]
            for policy in curious:
                if back < policy.looks_back:
                    policy.look(layer, x)

    def heard(self, row: Tensor) -> None:
        """Tells the policies the row of scores [V] that a forward gave."""
        try:
            for policy in self.policies:
                policy.heard(row)
        except Exception as error:
            self.fail(error)

    def _regrouping(self, first: int, *, settled: bool = False) -> Regrouping:
        """Of the policies that act on row `first` of the prompt."""
        grouping = [p for p in self.policies if p.groups > 1 and self.starts(p.rows) <= first]
        keyed = [p for p in self.policies if p.keyed and self.starts(p.rows_of_keys) <= first]
        return Regrouping(grouping, keyed, self.layout.length, settled=settled)

    def starts(self, rows: Rows) -> int:
        """First prompt row of a choice of rows."""
        after = max((span.stop for span in self.layout.images), default=0)
        length = self.layout.length
        return {"all": 0, "after_image": after, "last": length - 1, "decode": length}[rows]
