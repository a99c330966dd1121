"""Checking a user's data folder: what is missing, what is not as published, how to get it.

This file knows no benchmark. One is checked by an object in a file of its own:

    @checks.register("amber")
    def check(folder: Path) -> list[Finding]: ...

A benchmark without such an object is checked by listing its samples, which finds what is missing.
Nothing is downloaded. `data/official.json` holds checksums of published files, as facts.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from halu.errors import BadInput, HaluError
from halu.eval.benchmark import benchmarks
from halu.eval.records import unpacked
from halu.registry import Registry


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a folder: `fine`, worth a `note`, `missing`, or `wrong` (damaged, other)."""

    level: Literal["fine", "note", "missing", "wrong"]
    what: str
    hint: str = ""


Check = Callable[[Path], list[Finding]]

checks: Registry[Check] = Registry("benchmark", "halu.eval", "halu.checks")


def check(folder: Path, name: str) -> list[Finding]:
    """Check the data folder of a benchmark.

    Raises:
        Unknown: if there is no such benchmark.
        BadInput: if there is no such folder.
    """
    benchmark = benchmarks.get(name)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder.", param="folder")
    if benchmark.builtin:
        return [Finding("fine", f"{name} lives in halu's built-in world and needs no folder")]
    try:
        if name in checks.names():
            return checks.get(name)(folder)
        samples = benchmark.samples(folder, None, 0, None)
    except HaluError as error:
        level: Literal["missing", "wrong"] = "wrong" if name in checks.names() else "missing"
        return [Finding(level, error.message, error.hint)]
    return [Finding("fine", f"{len(samples)} samples")]


def whole(findings: Iterable[Finding]) -> bool:
    """Tell whether nothing is missing or wrong."""
    return not any(finding.level in ("missing", "wrong") for finding in findings)


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, of its contents if gzip packed it.

    Raises:
        BadInput: if it cannot be read.
    """
    return hashlib.sha256(unpacked(path)).hexdigest()


def digest(lines: Iterable[Sequence[str]]) -> str:
    """Compute a SHA-256 of what lines say, however the file spells it."""
    text = "\n".join("\t".join(line) for line in lines)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Load the checksums of published files."""
    text = files("halu.eval").joinpath("data/official.json").read_text("utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def pictures(found: Sequence[Path | None], what: str, hint: str) -> list[Finding]:
    """Report missing pictures (None), and pictures that are there twice under different names."""
    missing = sum(path is None for path in found)
    there = [path for path in dict.fromkeys(found) if path is not None]
    told = [Finding("fine", f"{what}: {len(there)} pictures")] if there else []
    if missing:
        told.append(Finding("missing", f"{what}: {missing} of {len(found)} pictures", hint))
    for one, other in twins(there):
        told.append(Finding("wrong", f"{one.name} and {other.name} are the same picture", hint))
    return told


def twins(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Find files with equal contents; only files of equal size are read."""
    sizes: dict[int, list[Path]] = {}
    for path in paths:
        sizes.setdefault(path.stat().st_size, []).append(path)
    found, first = [], dict[str, Path]()
    for path in (path for same in sizes.values() if len(same) > 1 for path in same):
        before = first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        if before != path:
            found.append((before, path))
    return found
