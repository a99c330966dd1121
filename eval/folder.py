"""A benchmark's data folder: the files it holds and its pictures. Nothing is downloaded.

Projects unpack the same archives in different places, so a file is looked for by name in the folder
and up to two folders below, and a picture in the places that the benchmark names.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

from halu.errors import BadImage, BadInput
from halu.eval.benchmark import Sample
from halu.images import open_image


class Missing(BadInput):
    """Files or pictures that a benchmark needs do not lie in its folder."""


def needed(data: Path | None, benchmark: str, hint: str) -> Path:
    """Return the data folder of a benchmark that cannot do without.

    Raises:
        BadInput: if none was given or it is not a folder; `hint` says what to put there.
    """
    if data is None or not data.is_dir():
        given = "None was given." if data is None else f"{data} is not a folder."
        raise BadInput(
            f"Benchmark {benchmark!r} needs a data folder. {given}", hint=hint, param="data"
        )
    return data


def file(folder: Path, *names: str) -> Path:
    """Find the first of `names` that lies in the folder or up to two folders below.

    Raises:
        Missing: if none does.
        BadInput: if one lies there twice.
    """
    for name in names:
        found = _lying(folder, name)
        if len(found) > 1:
            raise BadInput(f"Two files are {name}: {found[0]} and {found[1]}.", param="data")
        if found:
            return found[0]
    raise Missing(
        f"There is no {' or '.join(names)} in {folder}.",
        hint="Looked there and two folders below.",
        param="data",
    )


def lies_in(folder: Path, *names: str) -> bool:
    """Tell whether any of `names` lies in the folder or up to two folders below."""
    return any(_lying(folder, name) for name in names)


def _lying(folder: Path, name: str) -> list[Path]:
    return sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(depth + name))


def limited(
    folder: Path,
    samples: Iterable[Sample],
    splits: Sequence[str],
    limit: int | None,
    places: Sequence[str],
) -> list[Sample]:
    """Keep the first `limit` samples of each of `splits`, in that order, and check their pictures.

    Raises:
        BadInput: if a picture is missing.
    """
    by_split: dict[str, list[Sample]] = {split: [] for split in splits}
    for sample in samples:
        if sample.split in by_split:
            by_split[sample.split].append(sample)
    found = [sample for own in by_split.values() for sample in islice(own, limit)]
    check_pictures(folder, [s.image for s in found if s.image is not None], places)
    return found


def check_pictures(folder: Path, names: Iterable[str], places: Sequence[str]) -> None:
    """Check that every picture is in one of the `places`, which are folders below.

    Raises:
        Missing: with the number of missing pictures and an example.
    """
    wanted = set(names)
    missing = sorted(name for name in wanted if _picture(folder, name, tuple(places)) is None)
    if missing:
        raise Missing(
            f"{len(missing)} of {len(wanted)} pictures are missing from {folder},"
            f" such as {missing[0]}.",
            hint=f"Looked in {', '.join(str(folder / place) for place in places)}.",
            param="data",
        )


def open_picture(folder: Path, name: str, places: Sequence[str]) -> Image.Image:
    """Open a picture from the first of the `places` that has it.

    Raises:
        BadImage: if it is missing, truncated or not a picture.
    """
    path = _picture(folder, name, tuple(places))
    if path is None:
        raise BadImage(f"There is no picture {name} in {folder}.")
    return open_image(path)


def find_picture(folder: Path, name: str, places: Sequence[str]) -> Path | None:
    """Find a picture in the first of the `places` that has it."""
    return _picture(folder, name, tuple(places))


@lru_cache(maxsize=16384)
def _picture(folder: Path, name: str, places: tuple[str, ...]) -> Path | None:
    return next((path for place in places if (path := folder / place / name).is_file()), None)
