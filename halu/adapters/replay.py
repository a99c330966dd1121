"""A decoding step with fixed shapes and addresses, recorded once and repeated: CUDA graphs.

What a step computes depends on how many rows there are, on the memory of their keys, and on what
steers them. As long as those stay, a repetition needs only the new tokens, lengths and positions.
Rows are padded to a power of 2, and queries see all slots of the memory behind a mask, so that
recordings serve many steps; the plain ones serve many requests. A row takes part if its steering is
settled (`Steered.settled`); a step with any other row is not recorded and runs as usual.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.adapters.static_cache import StaticCache, doubled
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.layout import Layout

KEPT = 16
"""Recordings kept, least recently used out first."""
PATIENCE = 2
"""Steps that the same steered rows must last before they are recorded: recording costs some."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records a call that reads and writes memory in place; what it returns repeats the call."""
Forward = Callable[[Tensor, Tensor, Tensor, StaticCache, Steering], Tensor]
"""Tokens [n], positions [n] and a mask [n, 1, 1, K] through the model: scores [n, V]."""


def repeated(call: Callable[[], None]) -> Callable[[], None]:
    """Records nothing: repeats by calling again. The same memory and shapes, on any device."""
    return call


def cuda_graph(call: Callable[[], None]) -> Callable[[], None]:
    """Records a CUDA graph, after runs on a side stream that let libraries set themselves up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


@dataclass(slots=True)
class Recording:
    """One recorded step: the steering that it is part of; its inputs (tokens, lengths and positions
    [3, n]) and outputs in memory; and the cache that it reads, as long as that stays in place.
    """

    steered: Sequence[Steered]
    inputs: Tensor
    cache: "weakref.ref[StaticCache]"
    place: int
    scores: Tensor | None = None
    tapped: list[dict[int, Tensor]] = field(default_factory=list)
    replay: Callable[[], None] | None = None


class Replays:
    """The recordings of one model.

    Args:
        forward: one step of the model.
        device: where it runs.
        capture: how a step is recorded.
    """

    def __init__(self, forward: Forward, device: torch.device, capture: Capture) -> None:
        self._forward = forward
        self._device = device
        self._capture = capture
        self._kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self._last: tuple[Hashable, int] = (None, 0)

    def step(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        positions: Sequence[int],
        steered: Sequence[Steered],
        cache: StaticCache,
    ) -> Tensor | None:
        """The scores [n, V] of one more token on every row; none if the step is not recorded."""
        if not all(one.settled for one in steered):
            return None
        count = doubled(len(tokens))
        cache.reserve(count, max(lengths) + 1)
        kind = tuple(id(one) if one.policies or one.taps else None for one in steered)
        plain = not any(kind)
        key = (count, cache.place, None if plain else kind)
        found = self._kept.pop(key, None)
        if found is None:
            self._last = (key, self._last[1] + 1 if self._last[0] == key else 1)
            if not plain and self._last[1] <= PATIENCE:
                return None
            self._forget()
            found = self._recording(count, () if plain else steered, cache)
        self._kept[key] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._run(found, (tokens, lengths, positions), cache)

    def _forget(self) -> None:
        """Drops recordings whose memory is gone."""
        for key, one in list(self._kept.items()):
            cache = one.cache()
            if cache is None or cache.place != one.place:
                del self._kept[key]

    def _recording(self, count: int, steered: Sequence[Steered], cache: StaticCache) -> Recording:
        bare = [Steered(Layout(0)) for _ in range(count - len(steered))]
        table = torch.zeros(3, count, dtype=torch.long, device=self._device)
        return Recording([*steered, *bare], table, weakref.ref(cache), cache.place)

    def _run(self, found: Recording, given: Sequence[Sequence[int]], cache: StaticCache) -> Tensor:
        count = len(given[0])
        found.inputs.zero_()
        found.inputs[:, :count] = torch.tensor(given).to(self._device, non_blocking=True)
        if found.replay is None:
            found.replay = self._recorded(found, cache)
        found.replay()
        for one, tapped in zip(found.steered, found.tapped, strict=True):
            one.tapped.update(tapped)
        assert found.scores is not None
        return found.scores[:count].clone()

    def _recorded(self, found: Recording, cache: StaticCache) -> Callable[[], None]:
        (tokens, lengths, positions), slots, cache_ref = found.inputs, cache.slots, found.cache
        count = len(tokens)
        lanes = torch.arange(count, device=self._device)
        keys = torch.arange(slots, device=self._device)

        def call() -> None:
            cache = cache_ref()
            assert cache is not None
            cache.fill_lanes(lanes, lengths, slots)
            mask = (keys <= lengths[:, None])[:, None, None]
            steering = Steering(found.steered, [slots] * count, prefill=False, stop=lengths + 1)
            scores = self._forward(tokens, positions, mask, cache, steering)
            if found.scores is None:
                found.scores = torch.empty_like(scores)
            found.scores.copy_(scores)
            found.tapped = [dict(one.tapped) for one in found.steered]

        return self._capture(call)
