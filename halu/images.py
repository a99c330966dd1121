"""Pictures come in here, and only here: header first, limits before decoding, RGB out.

Formats are an allow-list, sizes are read from the header before any pixel is decoded, orientation
is applied, metadata and further frames are dropped. Messages never carry a decoder's own text.
"""

import io
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps

from halu.errors import BadImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000
MIN_SIDE = 8
MAX_BYTES = 32 * 2**20

ImageLike = str | bytes | PathLike[str] | Image.Image


def open_image(source: ImageLike, *, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """A checked RGB picture from a path, from bytes, or from a Pillow image.

    Args:
        source: the picture.
        most_pixels: a limit below the usual one.

    Raises:
        BadImage: not a picture, of another format, truncated, too small or too large; nothing is
            decoded before the size is known to be acceptable.
    """
    if isinstance(source, Image.Image):
        return _checked(source, "The data", most_pixels)
    if isinstance(source, bytes):
        if not source:
            raise BadImage("The picture is empty.", code="empty_image_file")
        _check_bytes(len(source), "The data")
        return _decoded(io.BytesIO(source), "The data", most_pixels)
    if not isinstance(source, (str, PathLike)):
        raise BadImage(
            f"A {type(source).__name__} is not a picture.",
            hint="Give a path, bytes or a Pillow image.",
        )
    path = Path(source)
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name too long for a file, for example the data themselves
        there = False
    if not there:
        shown = repr(str(path)) if len(str(path)) <= 200 else f"{str(path)[:80]!r}..."
        raise BadImage(f"There is no file {shown}.", param="image")
    _check_bytes(path.stat().st_size, repr(str(path)))
    with path.open("rb") as file:
        return _decoded(file, repr(str(path)), most_pixels)


def open_images(source: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    """Checked pictures: one, several, or none."""
    if source is None:
        return []
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        return [open_image(one) for one in source]
    return [open_image(source)]


def _decoded(file: IO[bytes], what: str, most_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(
            f"{what}: the picture has too many pixels.", code="image_too_large"
        ) from None
    except Exception:  # decoders of untrusted data raise whatever they like
        raise BadImage(
            f"{what} is not a {', '.join(FORMATS)} picture.", code="unsupported_image_media_type"
        ) from None
    return _checked(picture, what, most_pixels)


def _checked(picture: Image.Image, what: str, most_pixels: int) -> Image.Image:
    _check_size(picture.size, min(most_pixels, MAX_PIXELS))
    try:
        return _rgb(picture)
    except Exception:  # decoders of untrusted data raise whatever they like
        raise BadImage(f"{what}: the picture is damaged or truncated.") from None


def _check_bytes(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise BadImage(f"{what} has more than {MAX_BYTES // 2**20} MiB.", code="image_too_large")


def _check_size(size: tuple[int, int], most: int) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise BadImage(
            f"The picture is {width}x{height}; the least side is {MIN_SIDE}.",
            code="image_too_small",
        )
    if max(size) > MAX_SIDE or width * height > most:
        raise BadImage(
            f"The picture is {width}x{height}; at most {MAX_SIDE} a side, {most:,} pixels.",
            code="image_too_large",
        )


def _rgb(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture) or picture
    if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey instead of scaling it
        upright = upright.point(lambda level: level / 256, "L")
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = Image.new("RGB", upright.size)  # new, so that no metadata come along
    rgb.paste(upright.convert("RGB"))
    return rgb
