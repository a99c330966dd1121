"""Pictures come in here, and only here: header first, limits before decoding, RGB out.

Formats are an allow-list, sizes are read from the header before any pixel is decoded, orientation
is applied, metadata and further frames are dropped. Messages never carry a decoder's own text.
"""

import io
import warnings
from os import PathLike
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from halu.errors import BadImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000
MIN_SIDE = 8
MAX_BYTES = 32 * 2**20

ImageLike = str | bytes | PathLike[str] | Image.Image


def open_image(source: ImageLike) -> Image.Image:
    """A checked RGB picture from a path, from bytes, or from a Pillow image.

    Raises:
        BadImage: not a picture, of another format, truncated, too small or too large; nothing is
            decoded before the size is known to be acceptable.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size)
        return _rgb(source)
    if isinstance(source, bytes):
        if not source:
            raise BadImage("The picture is empty.", code="empty_image_file")
        return _decoded(io.BytesIO(source), "The data")
    path = Path(source)
    if not path.is_file():
        raise BadImage(f"There is no file {str(path)!r}.", param="image")
    if path.stat().st_size > MAX_BYTES:
        raise BadImage(
            f"{str(path)!r} has more than {MAX_BYTES // 2**20} MiB.", code="image_too_large"
        )
    with path.open("rb") as file:
        return _decoded(file, repr(str(path)))


def _decoded(file: IO[bytes], what: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(
            f"{what}: the picture has too many pixels.", code="image_too_large"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise BadImage(
            f"{what} is not a {', '.join(FORMATS)} picture.", code="unsupported_image_media_type"
        ) from None
    _check_size(picture.size)
    try:
        return _rgb(picture)
    except (OSError, ValueError, SyntaxError, EOFError):
        raise BadImage(f"{what}: the picture is damaged or truncated.") from None


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise BadImage(
            f"The picture is {width}x{height}; the least side is {MIN_SIDE}.",
            code="image_too_small",
        )
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise BadImage(
            f"The picture is {width}x{height}; at most {MAX_SIDE} a side, {MAX_PIXELS:,} pixels.",
            code="image_too_large",
        )


def _rgb(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture) or picture
    if upright.mode in ("RGBA", "LA", "PA") or (
        upright.mode == "P" and "transparency" in upright.info
    ):
        rgba = upright.convert("RGBA")
        flat = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(flat, rgba).convert("RGB")
    return upright.convert("RGB").copy()
