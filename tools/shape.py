"""How large halu's files and functions are, how much is typed and said, and what imports what.

    python tools/shape.py [--check | --write]

Prints a row for each part, every import between parts, and what is over the size that we aim at.
The figures stand in CONTRIBUTING.md too: `--write` renews them there, `--check` says whether what
stands there is still right to a tenth, so that not every line written moves it.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from arrows import (
    PACKAGES,
    ROOT,
    Graph,
    arrows,
    code_files,
    drawn,
    layers,
    modules,
    part_of,
    parts,
)

PAGE = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"(<!-- generated: shape -->\n).*?(<!-- /generated -->)", re.DOTALL)
SCRIPTS = ("tools", "examples", "benchmarks")

# Aims, and limits that tests hold. In lines.
FILE_AIM, FILE_LIMIT, KERNEL_LIMIT = 250, 300, 350
FUNCTION_AIM, FUNCTION_LIMIT = 40, 60
STRATEGY_AIM = 80

HEAD = """\
| part | files | lines | file | function | typed | docstrings | comments | names |
|---|--:|--:|---|---|--:|--:|--:|--:|
"""
LEGEND = """\
`file` and `function`: lines, as median / 90th percentile / longest. `typed`: arguments with a
type; `docstrings`: public functions, methods and classes that have one; `comments`: for 100 lines;
`names`: public names of a module, median.
"""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class File:
    """One file as it is measured."""

    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def lines(self) -> int:
        """All of them, blank ones and comments too."""
        return len(self.text.splitlines())

    @property
    def limit(self) -> int:
        """The most lines that it may have."""
        return KERNEL_LIMIT if "triton" in self.path.parts else FILE_LIMIT

    @property
    def functions(self) -> list[Function]:
        """Its functions and methods, inner ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def comments(self) -> int:
        """How many comments it has."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(token.type == tokenize.COMMENT for token in tokens)

    @property
    def names(self) -> list[str]:
        """What it defines for others."""
        return [name for node in self.tree.body for name in _named(node) if name[0] != "_"]

    @property
    def documented(self) -> list[bool]:
        """For each public function, method and class, whether it has a docstring."""
        return [ast.get_docstring(node) is not None for node in _public(self.tree)]


def length(function: Function) -> int:
    """Its lines, decorators left out."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def typed(function: Function) -> list[bool]:
    """For each argument but self and cls, whether it has a type."""
    own = function.args
    every = [*own.posonlyargs, *own.args, *own.kwonlyargs, own.vararg, own.kwarg]
    return [
        argument.annotation is not None
        for argument in every
        if argument is not None and argument.arg not in ("self", "cls")
    ]


def _named(node: ast.stmt) -> list[str]:
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    for each in node.body:
        if isinstance(each, Function | ast.ClassDef) and not each.name.startswith("_"):
            yield each
            if isinstance(each, ast.ClassDef):
                yield from _public(each)


def row(name: str, files: Sequence[File]) -> str:
    """A part's row of the table."""
    functions = [function for file in files for function in file.functions]
    lines = sum(file.lines for file in files)
    cells = (
        name,
        f"{len(files)}",
        f"{lines}",
        _spread([file.lines for file in files]),
        _spread([length(function) for function in functions]),
        _share([each for function in functions for each in typed(function)]),
        _share([each for file in files for each in file.documented]),
        f"{100 * sum(file.comments for file in files) / lines:.1f}",
        f"{_quantile([len(file.names) for file in files], 0.5)}",
    )
    return f"| {' | '.join(cells)} |"


def _quantile(values: Iterable[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0


def _spread(values: Sequence[int]) -> str:
    return " / ".join(str(_quantile(values, share)) for share in (0.5, 0.9, 1))


def _share(values: Sequence[bool]) -> str:
    return f"{100 * sum(values) // len(values)} %" if values else "-"


def table() -> str:
    """A row for each part of halu, then one for all of it, the scripts and the tests."""
    by_part: dict[str, list[File]] = {}
    for name, path in modules().items():
        part = part_of(name)
        own = "halu" if part == name and path.name != "__init__.py" else part
        by_part.setdefault(own, []).append(File(path))
    rows = [row(f"`{part}`", files) for part, files in sorted(by_part.items())]
    rows.append(row("all of halu", [file for files in by_part.values() for file in files]))
    rows += [
        row(f"`{folder}/`", [File(path) for path in code_files(folder)])
        for folder in (*SCRIPTS, "tests")
    ]
    return HEAD + "\n".join(rows) + "\n"


def over_the_aim() -> list[str]:
    """Files, functions and strategies that are longer than we aim at."""
    told = []
    for path in code_files(*PACKAGES, *SCRIPTS):
        file = File(path)
        if file.lines > FILE_AIM and file.limit != KERNEL_LIMIT:
            told.append(f"{file.name}: {file.lines} lines (aim {FILE_AIM})")
        told += [
            f"{file.name}:{each.lineno}: {each.name}: {length(each)} lines (aim {FUNCTION_AIM})"
            for each in file.functions
            if length(each) > FUNCTION_AIM
        ]
    strategies = [File(path) for path in code_files("decoders")]
    long = sum(file.lines > STRATEGY_AIM for file in strategies)
    told.append(f"decoders: {long} of {len(strategies)} files over {STRATEGY_AIM} lines")
    return told


def written() -> str:
    """What stands in CONTRIBUTING.md."""
    levels = (" ".join(name.removeprefix("halu.") for name in layer) for layer in layers(_parts()))
    told = "\n".join(f"{level:2}  {names}" for level, names in enumerate(levels))
    return f"{table()}\n{LEGEND}\n```\n{told}\n```\n"


def _parts() -> Graph:
    return parts(arrows())


def stale(told: str, found: str) -> bool:
    """Whether what is told has other words than what is found, or a figure that is off by more than
    a tenth and two.
    """
    number = re.compile(r"\d+(?:\.\d+)?")
    if number.sub("#", told) != number.sub("#", found):
        return True
    pairs = zip(map(float, number.findall(told)), map(float, number.findall(found)), strict=True)
    return any(abs(then - now) > 2 + 0.1 * now for then, now in pairs)


def main() -> int:
    """Prints the shape, or writes or checks what CONTRIBUTING.md tells of it."""
    parser = argparse.ArgumentParser(description="The size and the layers of halu's code.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    parser.add_argument("--write", action="store_true", help="renew CONTRIBUTING.md")
    arguments = parser.parse_args()
    text, found = PAGE.read_text(encoding="utf-8"), written()
    block = BLOCK.search(text)
    assert block, f"{PAGE.name} has no place for the shape"
    if arguments.write:
        PAGE.write_text(BLOCK.sub(lambda each: each[1] + found + each[2], text), encoding="utf-8")
    elif not arguments.check:
        print(table(), drawn(_parts()), *over_the_aim(), sep="\n")
    elif stale(block[0], block[1] + found + block[2]):
        print("The shape in CONTRIBUTING.md is not current. Run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
