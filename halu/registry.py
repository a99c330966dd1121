"""Names to things: strategies, detectors, benchmarks. Filled at import, then read-only.

First-party code and third parties use the same door: a class decorated with `register` in a module
that is imported, either because it lies in halu's own folder or because an installed package names
it in the entry point group.
"""

import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from halu.errors import Unavailable, Unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """The things of one kind, by name; `package` is imported on first use, then the entry point
    `group`.
    """

    def __init__(self, kind: str, package: str, group: str) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._things: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._loaded = False
        self._lock = threading.RLock()

    def register(self, name: str, *, aliases: tuple[str, ...] = ()) -> Callable[[T], T]:
        """Decorator that files a thing under `name`.

        Raises:
            ValueError: if the name is taken, so that two packages cannot shadow each other
                silently.
        """

        def keep(thing: T) -> T:
            for taken in (name, *aliases):
                if taken in self._things or taken in self._aliases:
                    raise ValueError(f"{self.kind} {taken!r} is already registered")
            self._things[name] = thing
            self._aliases.update(dict.fromkeys(aliases, name))
            return thing

        return keep

    def get(self, name: str) -> T:
        """The thing of that name or alias.

        Raises:
            Unknown: with near matches.
        """
        self._load()
        key = self._aliases.get(name, name)
        if key not in self._things:
            raise Unknown(self.kind, name, self._things, aliases=self._aliases, param=self.kind)
        return self._things[key]

    def names(self) -> list[str]:
        """Registered names in order, without aliases."""
        self._load()
        return sorted(self._things)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._things or name in self._aliases

    def __iter__(self) -> Iterator[T]:
        return iter([self.get(name) for name in self.names()])

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
                importlib.import_module(module.name)
            for entry in entry_points(group=self.group):
                _load_entry(entry)
            self._loaded = True  # last, so that a failure is met again


def _load_entry(entry: EntryPoint) -> None:
    try:
        entry.load()
    except Exception as error:
        owner = entry.dist.name if entry.dist else "?"
        raise Unavailable(
            f"Plug-in {entry.name!r} of package {owner!r} cannot be loaded:"
            f" {type(error).__name__}: {error}."
        ) from error
