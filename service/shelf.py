"""The models of one device: loaded when first asked for, put away when another needs the room.

Loading runs in a thread of its own, so that other models go on answering. It knows nothing of
requests.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from halu.batch import Batched
from halu.errors import HaluError, Unavailable
from halu.models import builtin
from halu.service.logs import log, outline

Load = Callable[[str, str | None], Batched]
"""A source and a device to a model."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is offered: its public name, what it is loaded from, and where it runs."""

    name: str
    source: str
    device: str | None
    created: int = field(default_factory=lambda: int(time.time()))


def dealt(sources: Sequence[str], devices: Sequence[str]) -> dict[str | None, list[Served]]:
    """The models by device, dealt in turn; a folder is known by its last name alone."""
    places: Sequence[str | None] = devices or [None]
    found: dict[str | None, list[Served]] = {}
    names: set[str] = set()
    for number, source in enumerate(dict.fromkeys(sources)):
        name = Path(source).name if Path(source).is_dir() else source
        name = name if name not in names else f"{name}-{number}"
        names.add(name)
        place = places[number % len(places)]
        found.setdefault(place, []).append(Served(name, source, place))
    return found


class Shelf:
    """Loaded models, at most so many bytes of weights.

    Args:
        models: what may be loaded here.
        load: loads one.
        limit: most bytes of weights; none: no limit.
        ready: called from the loading thread once a load has ended.

    Attributes:
        loaded: those in memory, by name.
        loading: the one that is on its way.
        warm: whether there ever was one in memory; while it makes room for another the server is as
            ready as before.
    """

    def __init__(
        self,
        models: Sequence[Served],
        load: Load,
        limit: int | None,
        ready: Callable[[], None],
    ) -> None:
        self.models = {model.name: model for model in models}
        self.loaded: dict[str, Batched] = {}
        self._load, self._limit, self._ready = load, limit, ready
        self._sizes: dict[str, int] = {}
        self._used: dict[str, float] = {}
        self._failed: dict[str, HaluError] = {}
        self.loading: str | None = None
        self.warm = False
        self._lock = threading.Lock()

    def take(self, name: str, busy: Collection[str]) -> Batched | None:
        """The model, or none: it is on its way, waits for `loading`, or there is no room yet.

        Args:
            name: one of `models`.
            busy: models that must stay.

        Raises:
            HaluError: if it could not be loaded; the next call tries again.
        """
        with self._lock:
            if name in self._failed:
                raise self._failed.pop(name)
            if name in self.loaded:
                self._used[name] = time.monotonic()
                self._make_room(0, {name, *busy})
                return self.loaded[name]
            if self.loading is None and self._fits(name, busy):
                self.loading = name
                threading.Thread(target=self._bring, args=(name,), daemon=True).start()
        return None

    def _fits(self, name: str, busy: Collection[str]) -> bool:
        """Whether there is room for a model now; its files tell how much it takes until it has been
        loaded once.
        """
        wanted = self._sizes.get(name) or weight_files(self.models[name].source)
        if self._limit is not None and wanted > self._limit:
            raise Unavailable(
                f"Model {name!r} does not fit into this server's memory limit.", param="model"
            )
        return self._make_room(wanted, busy)

    def _make_room(self, wanted: int, busy: Collection[str]) -> bool:
        """Puts idle models away, least recently used first; whether that is enough."""
        if self._limit is None:
            return True
        for other in sorted(set(self.loaded) - set(busy), key=lambda one: self._used[one]):
            if self._taken + wanted <= self._limit:
                break
            self.loaded.pop(other).close()
            log.info("put away", extra={"told": {"model": other}})
        return self._taken + wanted <= self._limit

    @property
    def _taken(self) -> int:
        return sum(self._sizes[name] for name in self.loaded)

    def _bring(self, name: str) -> None:
        model = self.models[name]
        start = time.monotonic()
        try:
            vlm = self._load(model.source, model.device)
        except Exception as error:
            log.error("not loaded", extra={"told": {"model": name, "why": outline(error)}})
            refused = Unavailable(f"Model {name!r} cannot be loaded.", param="model")
            with self._lock:
                self._failed[name], self.loading = refused, None
        else:
            seconds = round(time.monotonic() - start, 2)
            log.info("loaded", extra={"told": {"model": name, "seconds": seconds}})
            with self._lock:
                self.loaded[name], self.loading = vlm, None
                self.warm = True
                self._sizes[name], self._used[name] = vlm.weights, time.monotonic()
        self._ready()


def weight_files(source: str) -> int:
    """Bytes of the weight files of a folder or a built-in model; 0 for what is not here."""
    folder = builtin().get(source) or Path(source)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
