"""Tensor parallelism: each rank has some of the heads, a policy knows all of them.

What a policy is shown of attention is gathered from all ranks, so that all make the same of it;
what it answers by head is cut to the rank's own. Every rank asks the same questions in the same
order, since every rank plans the same requests.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
)

from halu.attention import Epilogue, KeyMap, Redistribution, ScoreMap
from halu.attention.policy import AttentionPolicy
from halu.errors import Unsupported
from halu.vllm.contexts import Share, all_heads

ATTRIBUTES = (
    "rows",
    "groups",
    "generated",
    "keyed",
    "key_rows",
    "looks_back",
    "reads",
    "carries",
    "settled",
    "pieces",
)


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of one rank.

    Attributes:
        start: its first.
        stop: the one after its last.
        gather: a tensor of its heads [h, ...] to one of all heads [H, ...].
    """

    start: int
    stop: int
    gather: Callable[[Tensor], Tensor]

    def own(self, table: Tensor | None, dims: int) -> Tensor | None:
        """A table by head cut to the rank's heads; one with fewer than `dims` dimensions, or with
        one entry for all heads, stays.
        """
        if table is None or table.dim() < dims or table.shape[0] == 1:
            return table
        return table[self.start : self.stop]


def ranks(heads: int) -> Share:
    """What makes policies those of this process's heads.

    Args:
        heads: heads of a layer, on all ranks together.
    """
    size, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
    if size == 1:
        return all_heads
    share = heads // size
    here = Heads(share * rank, share * (rank + 1), gathered)
    return lambda policy: Ranked(policy, here)


def gathered(x: Tensor) -> Tensor:
    """All ranks' tensors [h, ...], one after another."""
    found: Tensor = tensor_model_parallel_all_gather(x.contiguous(), dim=0)
    return found


class Ranked(AttentionPolicy):
    """A policy on one rank.

    Args:
        policy: of all heads.
        heads: those that are here.
    """

    def __init__(self, policy: AttentionPolicy, heads: Heads) -> None:
        self.policy = policy
        self.heads = heads
        for name in ATTRIBUTES:
            setattr(self, name, getattr(policy, name))

    def fork(self) -> AttentionPolicy:
        """Of the policy's fork."""
        return Ranked(self.policy.fork(), self.heads)

    def read(self, layer: int, hidden: Tensor) -> Tensor | None:
        """Residual streams are the same on all ranks."""
        return self.policy.read(layer, hidden)

    def watch(self, layer: int) -> Tensor | None:
        """As the policy."""
        return self.policy.watch(layer)

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Columns of all heads."""
        self.policy.watched(layer, self.heads.gather(mass), self.heads.gather(own))

    def looks(self, layer: int) -> bool:
        """As the policy."""
        return self.policy.looks(layer)

    def look(self, layer: int, x: Tensor) -> None:
        """Scores of all heads."""
        self.policy.look(layer, self.heads.gather(x))

    def heard(self, scores: Tensor) -> None:
        """As the policy."""
        self.policy.heard(scores)

    def borrowed_heads(self, layer: int) -> Tensor | None:
        """Refused, if there are any: a head's queries and keys lie on its own rank.

        Raises:
            Unsupported: with the reason.
        """
        if self.policy.borrowed_heads(layer) is not None:
            raise Unsupported(
                "This strategy lends heads to each other, and they lie on several ranks.",
                hint="--tensor-parallel-size 1",
                param="strategy",
            )
        return None

    def labels(self, layer: int) -> Tensor | None:
        """[T] or the rank's [h, T]."""
        return self.heads.own(self.policy.labels(layer), 2)

    def score_map(self, layer: int) -> ScoreMap | None:
        """Of the rank's heads."""
        found, own = self.policy.score_map(layer), self.heads.own
        if found is None or max(found.up.dim(), found.down.dim(), found.bias.dim()) < 2:
            return found
        tables = (own(table, 2) for table in (found.up, found.down, found.bias))
        return ScoreMap(*tables)  # type: ignore[arg-type]  # none is none

    def key_map(self, layer: int) -> KeyMap | None:
        """Of the rank's heads."""
        found, own = self.policy.key_map(layer), self.heads.own
        if found is None:
            return None
        return KeyMap(*(own(table, 2) for table in (found.factor, found.bias, found.gain)))

    def epilogue(self, layer: int) -> Epilogue | None:
        """A closed form of the rank's heads; any other function is asked about all heads."""
        found, heads = self.policy.epilogue(layer), self.heads
        if found is None:
            return None
        if isinstance(found, Redistribution):
            table = heads.own(found.table, 3)
            return found if table is found.table or table is None else Redistribution(table)
        return lambda mass: heads.own(found(heads.gather(mass)), 3)

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """Of the rank's heads, judged by those of all."""
        seen = None if last is None else self.heads.gather(last)
        return self.heads.own(self.policy.head_scale(layer, seen), 1)
