"""Small JPEGs of a run's pictures, kept in its folder: made once, and there when the data is gone.

One file a distinct picture, named by the digest that rows carry.
"""

import io
import os
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

from halu.errors import HaluError
from halu.eval.benchmark import benchmarks
from halu.eval.store import Row

FOLDER = "thumbnails"
SIDE = 224
"""Longer side in pixels."""

MOST = 2000
MOST_BYTES = 12 * 2**20
"""Pictures of a page, and bytes of all of them; beyond it the page shows ids."""


def thumbnails(folder: Path, rows: Iterable[Row], data: Path | None) -> dict[str, bytes]:
    """Make or read the thumbnails of a run by digest, benchmarks in turn, up to both limits.

    A picture that cannot be read any more is left out.
    """
    found: dict[str, bytes] = {}
    size = 0
    for row in _in_turn(rows):
        if row.picture is None or row.picture in found:
            continue
        jpeg = _kept(folder / FOLDER / f"{row.picture}.jpg", row, data)
        if jpeg is None:
            continue
        if len(found) == MOST or size + len(jpeg) > MOST_BYTES:
            break
        found[row.picture] = jpeg
        size += len(jpeg)
    return found


def _in_turn(rows: Iterable[Row]) -> Iterator[Row]:
    """One row of each picture, one of every benchmark and split after the other."""
    groups: dict[tuple[str, str], dict[str | None, Row]] = {}
    for row in rows:
        groups.setdefault((row.benchmark, row.split), {}).setdefault(row.picture, row)
    turns = chain.from_iterable(zip_longest(*(group.values() for group in groups.values())))
    return (row for row in turns if row is not None)


def _kept(path: Path, row: Row, data: Path | None) -> bytes | None:
    if path.exists():
        return path.read_bytes()
    jpeg = _shrunk(row, data)
    if jpeg is not None:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(jpeg)
        os.replace(partial, path)
    return jpeg


def _shrunk(row: Row, data: Path | None) -> bytes | None:
    try:
        picture = benchmarks.get(row.benchmark).picture(row.image_id or "", data)
    except HaluError:
        return None
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()
