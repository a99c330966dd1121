"""Pictures from outside: what is accepted becomes upright RGB, everything else is one error."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from halu.errors import BadImage
from halu.images import FORMATS, MAX_PIXELS, MAX_SIDE, open_image


def drawn(width: int = 40, height: int = 24, mode: str = "RGB") -> Image.Image:
    """Red, green, blue and white quarters."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels).convert(mode)


def written(image: Image.Image, kind: str, **own: Any) -> bytes:
    buffer = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    quality = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, **lossless, **quality, **own)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def quarters(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours at the four quarters' middles, rounded to black or full."""
    width, height = image.size
    places = [(x * width // 4, y * height // 4) for y in (1, 3) for x in (1, 3)]
    return [tuple(255 * (v > 127) for v in image.getpixel(place)) for place in places]


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_picture_from_path_bytes_and_pillow(kind: str, tmp_path: Path) -> None:
    data = written(drawn(), kind)
    path = tmp_path / "picture"
    path.write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    found = [open_image(source) for source in (data, path, str(path), opened)]
    for image in found:
        assert type(image) is Image.Image
        assert (image.mode, image.size) == ("RGB", (40, 24))
        assert quarters(image) == [RED, GREEN, BLUE, WHITE]
        assert image.tobytes() == found[0].tobytes()


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA", "I;16", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        source = Image.fromarray(np.full((24, 40), 65535, dtype=np.uint16))
    else:
        source = drawn(mode=mode)
    image = open_image(source)
    assert image.mode == "RGB"
    assert quarters(image)[3] == WHITE
    if mode in ("P", "CMYK", "RGBA", "YCbCr"):
        assert quarters(image) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("RGBA", "GIF"),
        ("LA", "PNG"),
        ("LA", "WEBP"),
        ("P", "PNG"),
        ("colour key", "PNG"),
    ],
)
def test_what_is_transparent_becomes_white(how: str, kind: str) -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((40, 0, 0, 255), (0, 0, 10, 20))
    own = {}
    if how == "LA":
        image = image.convert("LA")
    if how == "P":
        image = image.quantize(4)
    if how == "colour key":
        image, own = image.convert("RGB"), {"transparency": (0, 0, 0)}
    found = open_image(written(image, kind, **own))
    assert found.getpixel((15, 10)) == WHITE
    assert max(found.getpixel((4, 10))) < 60


@pytest.mark.parametrize(
    ("orientation", "wanted"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_cameras_orientation_is_applied_and_forgotten(
    orientation: int, wanted: list[tuple[int, ...]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera and its owner"
    image = open_image(written(drawn(), "JPEG", exif=exif))
    assert quarters(image) == wanted
    assert image.size == ((24, 40) if orientation in (6, 8) else (40, 24))
    assert not image.getexif()
    assert b"owner" not in repr(image.info).encode()
    assert open_image(image).size == image.size


def test_of_an_animation_the_first_frame_is_taken() -> None:
    second = Image.new("RGB", (40, 24), "black")
    for kind in ("GIF", "WEBP"):
        data = written(drawn(), kind, save_all=True, append_images=[second])
        image = open_image(data)
        assert quarters(image) == [RED, GREEN, BLUE, WHITE]
        assert getattr(image, "n_frames", 1) == 1


# Refusals


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        (b"", "empty_image_file", "empty"),
        (b"no picture at all", "unsupported_image_media_type", "PNG, JPEG, WEBP, GIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image_media_type", "PNG"),
        (b"\x89PNG\r\n\x1a\n", "unsupported_image_media_type", "PNG"),
        (written(drawn(1, 1), "PNG"), "image_too_small", "1x1"),
        (written(drawn(7, 100), "PNG"), "image_too_small", "7x100.*8"),
        (png_header(30_000, 10), "image_too_large", "30000x10"),
        (png_header(10, MAX_SIDE + 1), "image_too_large", f"{MAX_SIDE}"),
        (png_header(8000, 8000), "image_too_large", "8000x8000"),
        (png_header(100_000, 100_000), "image_too_large", "pixels|100000"),
        (png_header(2**31 - 1, 2**31 - 1), "image_too_large", "pixels|2147483647"),
        (png_header(64, 64), "invalid_image", "damaged|truncated"),
        (drawn(1, 1), "image_too_small", "1x1"),
        (Image.new("L", (30_000, 8)), "image_too_large", "30000x8"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, (str, bytes)) else "image",
)
def test_refused_with_code_and_reason(source: Any, code: str, says: str) -> None:
    with pytest.raises(BadImage, match=says) as error:
        open_image(source)
    assert error.value.code == code
    assert error.value.status == 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "EPS"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(BadImage, match="PNG, JPEG, WEBP, GIF") as error:
        open_image(written(drawn(64, 64), kind))
    assert error.value.code == "unsupported_image_media_type"


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_pictures_are_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = written(Image.fromarray(noise), kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage):
            open_image(data[: int(share * len(data))])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_truncated_pictures_that_pillow_has_opened_are_refused(kind: str) -> None:
    """Pillow reads the pixels of an open file when they are first asked for, which is here."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = written(Image.fromarray(noise), kind)
    opened = Image.open(io.BytesIO(data[: len(data) * 2 // 3]))
    with pytest.raises(BadImage):
        open_image(opened)


def test_a_caller_that_lets_pillow_load_half_pictures_gets_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The switch is the host's; we only promise not to crash."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = written(drawn(64, 64), "JPEG")
    assert open_image(data[: len(data) * 9 // 10]).size == (64, 64)


@pytest.mark.parametrize(
    "name",
    [
        "nothing.png",
        ".",
        "x" * 5000,
        "data:image/png;base64," + "A" * 300,
        "a\0b",
        "https://example.com/a.png",
    ],
    ids=lambda name: repr(name)[:20],
)
def test_a_path_without_a_picture_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadImage, match="There is no file") as error:
        open_image(name)
    assert error.value.param == "image"
    assert len(str(error.value)) < 1000


def test_files_are_measured_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(written(drawn(), "PNG"))
    monkeypatch.setattr("halu.images.MAX_BYTES", 50)
    with pytest.raises(BadImage, match=r"big\.png") as error:
        open_image(path)
    assert error.value.code == "image_too_large"


def test_nothing_is_decoded_before_the_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    data = written(Image.new("L", (side, side)), "PNG", compress_level=1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage) as error:
        open_image(data)
    assert error.value.code == "image_too_large"


GOOD = {kind: written(drawn(), kind) for kind in FORMATS}
_exif = Image.Exif()
_exif[0x0112] = 6
GOOD["EXIF"] = written(drawn(), "JPEG", exif=_exif)


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of bad metadata and goes on
@given(data=st.data())
def test_damage_gives_a_picture_or_one_error(kind: str, data: st.DataObject) -> None:
    good = GOOD[kind]
    harmed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(good) - 1))
        harmed[place] = data.draw(st.integers(0, 255))
    try:
        image = open_image(bytes(harmed))
    except BadImage as error:
        assert "\n" not in str(error)  # noqa: PT017  # an answer is as good
    else:
        assert image.mode == "RGB"
        assert image.tobytes()
