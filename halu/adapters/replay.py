"""A decoding step with fixed shapes and addresses, recorded once and repeated: CUDA graphs.

What a step computes depends on how many rows there are, on the memory of their keys, and on what
steers them. As long as those stay, a repetition needs only the new tokens, lengths and positions.
Rows are padded to a power of 2, and queries see all slots of the memory behind a mask, so that
recordings serve many steps; the plain ones serve many requests. A row takes part if its steering is
settled (`Steered.settled`); a step with any other row is not recorded and runs as usual.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from halu.adapters.cache import RowCache
from halu.adapters.static_cache import StaticCache, doubled
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.layout import Layout

_log = logging.getLogger(__name__)

KEPT = 16
"""Recordings kept, least recently used out first."""
PATIENCE = 2
"""Steps that the same steered rows must last before they are recorded: recording costs some."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records a call that reads and writes memory in place; what it returns repeats the call. It need
not keep the call: what that reads and writes is kept by its `Recording`."""
Forward = Callable[[Tensor, Tensor, Tensor, StaticCache, Steering], Tensor]
"""Tokens [n], positions [n] and a mask [n, 1, 1, K] through the model: scores [n, V]."""


def repeated(call: Callable[[], None]) -> Callable[[], None]:
    """Records nothing: repeats by calling again. The same memory and shapes, on any device."""
    return call


class CudaGraphs:
    """Records CUDA graphs. All of one object share their working memory, so only one of them may
    run at a time.

    Args:
        device: where the calls run, whatever the thread's current device is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: tuple[int, int] | None = None

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        """Records after runs on a side stream that let libraries set themselves up."""
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    call()
            torch.cuda.current_stream().wait_stream(side)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate and synchronize meanwhile; that is not this graph's matter.
            shared: Any = {"pool": self._pool, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, stream=side, **shared):
                call()

        def replay() -> None:
            with torch.cuda.device(self._device):
                graph.replay()

        return replay


@dataclass(slots=True)
class Recording:
    """One recorded step: the steering that it is part of, and all memory that it reads and writes,
    which a graph knows by address only.

    Attributes:
        steered: the rows' steering, which keeps its tables.
        own: how many of them are requests' own; the others pad.
        inputs: tokens, lengths and positions [3, n].
        lanes: the rows' numbers [n].
        keys: the slots' numbers [K].
        cache: whose keys and values it reads, as long as those stay in place.
        place: where they lay when it was recorded.
        scores: its output [n, V].
        tapped: for each row the residual streams that it keeps.
        held: tables of this step alone.
        replay: repeats it.
        refused: whether it could not be recorded.
    """

    steered: Sequence[Steered]
    own: int
    inputs: Tensor
    lanes: Tensor
    keys: Tensor
    cache: "weakref.ref[StaticCache]"
    place: int
    scores: Tensor | None = None
    tapped: list[dict[int, Tensor]] = field(default_factory=list)
    held: Sequence[Tensor] = ()
    replay: Callable[[], None] | None = None
    refused: bool = False

    def ended(self, steered: Sequence[Steered], cache: RowCache) -> bool:
        """Whether nobody can ask for it again, now that these are all rows of this cache."""
        mine = self.cache()
        if mine is None or mine.place != self.place:
            return True
        running = set(map(id, steered))
        return mine is cache and any(id(one) not in running for one in self.steered[: self.own])


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
        self.forget(steered, cache)
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
            found = self._recording(count, () if plain else steered, cache)
        self._kept[key] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._run(found, (tokens, lengths, positions), cache)

    def forget(self, steered: Sequence[Steered], cache: RowCache) -> None:
        """Drops recordings whose memory is gone or whose rows have ended, now that these are all
        rows of this cache.
        """
        for key, one in list(self._kept.items()):
            if one.ended(steered, cache):
                del self._kept[key]

    def _recording(self, count: int, steered: Sequence[Steered], cache: StaticCache) -> Recording:
        bare = [Steered(Layout(0)) for _ in range(count - len(steered))]
        return Recording(
            [*steered, *bare],
            len(steered),
            inputs=torch.zeros(3, count, dtype=torch.long, device=self._device),
            lanes=torch.arange(count, device=self._device),
            keys=torch.arange(cache.slots, device=self._device),
            cache=weakref.ref(cache),
            place=cache.place,
        )

    def _run(
        self, found: Recording, given: Sequence[Sequence[int]], cache: StaticCache
    ) -> Tensor | None:
        count = len(given[0])
        if not found.refused:
            found.inputs.zero_()
            found.inputs[:, :count] = torch.tensor(given).to(self._device, non_blocking=True)
            self._play(found)
        if found.refused:
            return None
        for one, tapped in zip(found.steered, found.tapped, strict=True):
            one.tapped.update(tapped)
        assert found.scores is not None
        return found.scores[:count].clone()

    def _play(self, found: Recording) -> None:
        """Runs it, the first time to record it. What cannot be recorded is remembered: such steps
        run as usual, where an error is told of the row that it belongs to.
        """
        if found.replay is not None:
            found.replay()
            return
        try:
            replay = self._capture(lambda: self._call(found))
            replay()
        except Exception as error:
            _log.warning("A decoding step cannot be recorded and runs as usual: %s", error)
            found.refused, found.scores, found.tapped, found.held = True, None, [], ()
        else:
            found.replay = replay

    def _call(self, found: Recording) -> None:
        """The step itself, from its inputs to its outputs."""
        (tokens, lengths, positions), cache = found.inputs, found.cache()
        count, slots = len(found.lanes), len(found.keys)
        assert cache is not None
        cache.fill_lanes(found.lanes, lengths, slots)
        mask = (found.keys <= lengths[:, None])[:, None, None]
        steering = Steering(found.steered, [slots] * count, prefill=False, stop=lengths + 1)
        scores = self._forward(tokens, positions, mask, cache, steering)
        if found.scores is None:
            found.scores = torch.empty_like(scores)
        found.scores.copy_(scores)
        found.tapped = [dict(one.tapped) for one in found.steered]
        found.held = steering.held
