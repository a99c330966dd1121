"""Small signs with one printed word, in the font that ships with Pillow."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

# (panel, letters), picked by the word so that a sign looks the same at every size.
PANELS = (
    ((250, 250, 245), (20, 20, 25)),
    ((255, 240, 170), (25, 25, 25)),
    ((30, 60, 120), (250, 250, 250)),
    ((35, 40, 45), (250, 245, 220)),
)


@lru_cache(maxsize=256)
def sign(word: str, length: int) -> Image.Image:
    """A panel `length` pixels wide, RGBA, with `word` across it."""
    panel, letters = PANELS[sum(map(ord, word)) % len(PANELS)]
    drawn = _letters(word)
    pad = drawn.height * 0.45
    scale = length / (drawn.width + 2 * pad)
    height = max(3, round((drawn.height + 2 * pad) * scale))
    image = Image.new("RGBA", (length, height), (*panel, 255))
    ImageDraw.Draw(image).rectangle((0, 0, length - 1, height - 1), outline=letters)
    inner = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    ink = drawn.resize(inner, Image.Resampling.LANCZOS)
    image.paste(letters, ((length - inner[0]) // 2, (height - inner[1]) // 2), ink)
    return image


@lru_cache(maxsize=64)
def _letters(word: str) -> Image.Image:
    """The word's ink, large, as a mask trimmed to the letters."""
    font = ImageFont.load_default(64)
    mask = Image.new("L", (64 * len(word), 96))
    ImageDraw.Draw(mask).text((8, 4), word, 255, font, stroke_width=2)
    return mask.crop(mask.getbbox())
