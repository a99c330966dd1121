"""Which module of halu imports which: read from the source, nothing is run.

    python tools/arrows.py [MODULE]

Prints the layers of parts, lowest first, each part with what it imports; or what one module imports
and who imports it. A part is a package of halu or a module that lies in none. Imports inside
functions and for types alone count like any other.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "halu": "halu",
    "decoders": "halu.decoders",
    "detectors": "halu.detectors",
    "eval": "halu.eval",
    "service": "halu.service",
}

Graph = Mapping[str, set[str]]
"""Each node's targets."""


@dataclass(frozen=True)
class Import:
    """One imported name: the module (or a name in it), and where the import stands."""

    target: str
    line: int


def code_files(*folders: str) -> list[Path]:
    """The Python files in these folders of the checkout."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    """A file's module by its installed name."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[top], *rest]).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Every module of halu by its installed name."""
    return {module_name(path): path for path in code_files(*PACKAGES)}


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """What a file imports, inside functions too; `from a import b` counts as a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def within(name: str, part: str) -> bool:
    """Whether a module is a part or lies in it."""
    return name == part or name.startswith(f"{part}.")


def arrows() -> dict[str, set[str]]:
    """Each module of halu with the modules of halu that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        targets = {_module(each.target) for each in imports(path)}
        found[name] = {target for target in targets if target is not None and target != name}
    return found


def _module(target: str) -> str | None:
    """The module of halu that an imported name is or lies in."""
    if target in modules():
        return target
    above = target.rpartition(".")[0]
    return above if above in modules() else None


def part_of(module: str) -> str:
    """The package of halu in which a module lies, or itself."""
    package = ".".join(module.split(".")[:2])
    return package if modules()[package].name == "__init__.py" else module


def parts(graph: Graph) -> dict[str, set[str]]:
    """The arrows between parts."""
    found: dict[str, set[str]] = {}
    for name, targets in graph.items():
        own = found.setdefault(part_of(name), set())
        own |= {part_of(target) for target in targets} - {part_of(name)}
    return found


def layers(graph: Graph) -> Iterator[list[str]]:
    """The nodes from the ground up: each imports only what came before.

    Raises:
        ValueError: where there is a circle; the message names who is in it or above it.
    """
    left, done = dict(graph), set[str]()
    while left:
        layer = sorted(name for name, targets in left.items() if targets <= done)
        if not layer:
            raise ValueError(f"imports go in a circle among or below: {', '.join(sorted(left))}")
        yield layer
        done.update(layer)
        left = {name: targets for name, targets in left.items() if name not in done}


def drawn(graph: Graph) -> str:
    """The layers, a line for each part."""
    lines = []
    for level, layer in enumerate(layers(graph)):
        for name in layer:
            below = " ".join(sorted(map(_short, graph[name])))
            lines.append(f"{level:2}  {_short(name)}{' <- ' if below else ''}{below}")
    return "\n".join(lines)


def _short(name: str) -> str:
    return name.removeprefix("halu.")


def main() -> int:
    """Prints the graph, or one module's part in it."""
    parser = argparse.ArgumentParser(description="Which module of halu imports which.")
    parser.add_argument("module", nargs="?", help="one module, e.g. halu.job")
    module: str | None = parser.parse_args().module
    graph = arrows()
    if module is None:
        print(drawn(parts(graph)))
        return 0
    if module not in graph:
        print(f"There is no module {module!r}.", file=sys.stderr)
        return 1
    print("imports:", *sorted(graph[module]))
    print("imported by:", *sorted(name for name, targets in graph.items() if module in targets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
