"""Pack the sprites of the built-in world into one atlas: `halu/scenes/atlas.webp` and `.json`.

    python tools/make_atlas.py TWEMOJI.tgz NOTO.tgz FLUENT.tgz [--sheet sheet.png]

The three arguments are the npm tarballs `emoji-datasource-twitter` (Twemoji, CC-BY 4.0),
`emoji-datasource-google` (Noto, Apache-2.0) and `@lobehub/fluent-emoji-3d` (Fluent, MIT).
A category is here only if the picture is an honest one of that COCO object; an emoji that some
style draws as something else is left out for that style (`SKIP`).
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

CELL = 64
COLUMNS = 24
STYLES = ("twemoji", "noto", "fluent")
FOLDERS = {
    "twemoji": ("package/img/twitter/64/", ".png"),
    "noto": ("package/img/google/64/", ".png"),
    "fluent": ("package/assets/", ".webp"),
}

# COCO name -> emoji code points.
CATEGORIES: dict[str, str] = {
    "person": "1f468-1f3fb 1f469-1f3fd 1f466-1f3fe 1f467-1f3fc 1f9cd-1f3fd 1f6b6-1f3fb 1f475-1f3fc",
    "bicycle": "1f6b2",
    "car": "1f697 1f699 1f698",
    "motorcycle": "1f3cd-fe0f 1f6f5",
    "airplane": "2708-fe0f 1f6e9-fe0f",
    "bus": "1f68c 1f68d",
    "train": "1f682 1f686 1f684",
    "truck": "1f69a 1f69b 1f6fb",
    "boat": "26f5 1f6a4",
    "traffic light": "1f6a6 1f6a5",
    "stop sign": "1f6d1",
    "bird": "1f426 1f99c 1f986 1f989",
    "cat": "1f408 1f431",
    "dog": "1f415 1f436",
    "horse": "1f40e 1f434",
    "sheep": "1f411 1f40f",
    "cow": "1f404 1f42e",
    "elephant": "1f418",
    "bear": "1f43b 1f43c",
    "zebra": "1f993",
    "giraffe": "1f992",
    "backpack": "1f392",
    "umbrella": "2602-fe0f 2614",
    "handbag": "1f45c 1f45b",
    "tie": "1f454",
    "suitcase": "1f9f3",
    "skis": "1f3bf",
    "sports ball": "26bd 1f3c0 26be 1f3d0",
    "kite": "1fa81",
    "skateboard": "1f6f9",
    "tennis racket": "1f3be",
    "bottle": "1f37e 1f9f4",
    "wine glass": "1f377",
    "cup": "2615 1f375 1f964",
    "fork": "1f374",
    "knife": "1f52a",
    "spoon": "1f944",
    "bowl": "1f35a 1f957 1f35c",
    "banana": "1f34c",
    "apple": "1f34e 1f34f",
    "sandwich": "1f96a 1f354",
    "orange": "1f34a",
    "broccoli": "1f966",
    "carrot": "1f955",
    "hot dog": "1f32d",
    "pizza": "1f355",
    "donut": "1f369",
    "cake": "1f382 1f370 1f9c1",
    "chair": "1fa91",
    "couch": "1f6cb-fe0f",
    "potted plant": "1fab4",
    "bed": "1f6cf-fe0f",
    "toilet": "1f6bd",
    "tv": "1f4fa",
    "laptop": "1f4bb",
    "mouse": "1f5b1-fe0f",
    "keyboard": "2328-fe0f",
    "cell phone": "1f4f1",
    "book": "1f4d5",
    "clock": "1f570-fe0f 23f0 1f552",
    "vase": "1f3fa",
    "scissors": "2702-fe0f",
    "teddy bear": "1f9f8",
    "toothbrush": "1faa5",
}
# Things that are in no COCO category and look like none.
TRAIN_DISTRACTORS: dict[str, str] = {
    "star": "2b50", "gem": "1f48e", "guitar": "1f3b8", "key": "1f511",
    "pumpkin": "1f383", "rocket": "1f680", "mushroom": "1f344", "grapes": "1f347",
    "strawberry": "1f353", "crown": "1f451", "gift": "1f381",
    "trophy": "1f3c6", "magnet": "1f9f2", "butterfly": "1f98b", "fish": "1f41f",
    "crab": "1f980", "hammer": "1f528", "lock": "1f512",
    "camera": "1f4f7", "heart": "2764-fe0f", "shoe": "1f45f", "glasses": "1f453",
    "top hat": "1f3a9", "die": "1f3b2", "leaf": "1f341",
}  # fmt: skip
UNSEEN_DISTRACTORS: dict[str, str] = {
    "octopus": "1f419", "pineapple": "1f34d", "anchor": "2693", "candle": "1f56f-fe0f",
    "house": "1f3e0", "bell": "1f514", "light bulb": "1f4a1", "snail": "1f40c",
    "saxophone": "1f3b7", "corn": "1f33d", "microscope": "1f52c",
    "turtle": "1f422", "puzzle": "1f9e9",
}  # fmt: skip
TABLES = {"thing": CATEGORIES, "train": TRAIN_DISTRACTORS, "unseen": UNSEEN_DISTRACTORS}
# (code point, style) drawn as something else: a ball, a bowl.
SKIP = frozenset({("1f3be", "twemoji"), ("1f375", "twemoji")})


@dataclass(frozen=True, slots=True)
class Sprite:
    """One picture: `kind` is "thing", "train" or "unseen" (the latter two are distractors)."""

    kind: str
    name: str
    style: str
    code: str
    image: Image.Image


def sprites(archives: list[Path]) -> list[Sprite]:
    """All wanted sprites, in table order. Raises KeyError for a picture that no archive has."""
    pictures = [_pictures(path, style) for path, style in zip(archives, STYLES, strict=True)]
    found = []
    for kind, table in TABLES.items():
        for name, codes in table.items():
            for style, have in zip(STYLES, pictures, strict=True):
                for code in codes.split():
                    if (code, style) not in SKIP:
                        image = _honest(name, have[code.replace("-fe0f", "")])
                        found.append(Sprite(kind, name, style, code, _cell(image)))
    return found


def _pictures(path: Path, style: str) -> dict[str, Image.Image]:
    """One pass over the archive: code points without the variation selector -> picture."""
    folder, suffix = FOLDERS[style]
    tables = TABLES.values()
    wanted = {code for table in tables for codes in table.values() for code in codes.split()}
    names = {f"{folder}{code}{suffix}": code for code in wanted}
    names |= {f"{folder}{code.replace('-fe0f', '')}{suffix}": code for code in wanted}
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name in names else None
            if file is not None:
                code = names[member.name].replace("-fe0f", "")
                found[code] = Image.open(io.BytesIO(file.read())).convert("RGBA")
    return found


def _honest(name: str, image: Image.Image) -> Image.Image:
    """The three pictures that need a change to show the object and only the object."""
    if name == "fork":  # The emoji is a fork and a knife.
        return image.crop((0, 0, image.width // 2, image.height))
    if name == "tennis racket":  # The emoji comes with a ball, which is a category of its own.
        return _largest_part(image)
    if name == "stop sign":  # The emoji has no word.
        image = image.copy()
        font = ImageFont.load_default(image.width * 0.27)
        where = (image.width / 2, image.height / 2)
        pen, bold = ImageDraw.Draw(image), image.width / 200
        pen.text(where, "STOP", "white", font, "mm", stroke_width=bold)
    return image


def _largest_part(image: Image.Image) -> Image.Image:
    mask = image.getchannel("A").point(lambda a: 255 * (a > 100))
    best = Image.new("L", image.size)
    size = 0
    while (box := mask.getbbox()) is not None:
        column = mask.crop((box[0], 0, box[0] + 1, mask.height))
        seed = (box[0], (column.getbbox() or (0, 0, 0, 0))[1])
        ImageDraw.floodfill(mask, seed, 128)
        part = mask.point(lambda v: 255 * (v == 128))
        mask = mask.point(lambda v: 255 * (v == 255))
        if (count := part.histogram()[255]) > size:
            best, size = part, count
    near = best.filter(ImageFilter.MaxFilter(3))
    image = image.copy()
    image.putalpha(ImageChops.darker(image.getchannel("A"), near))
    return image


def _cell(image: Image.Image) -> Image.Image:
    """Trimmed to what is opaque, as large as fits the cell, centred."""
    box = image.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    image = image.crop(box)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return cell


def write(found: list[Sprite], folder: Path) -> None:
    """`atlas.webp` (lossless) and `atlas.json`: one row of the list per cell, in reading order."""
    rows = -(-len(found) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, sprite in enumerate(found):
        atlas.paste(sprite.image, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    atlas.save(folder / "atlas.webp", lossless=True, quality=100, method=6)
    lines = [json.dumps([s.kind, s.name, s.style, s.code]) for s in found]
    body = ",\n".join(lines)
    (folder / "atlas.json").write_text(
        f'{{"cell": {CELL}, "columns": {COLUMNS}, "sprites": [\n{body}\n]}}\n'
    )


def sheet(found: list[Sprite], path: Path, columns: int = 16) -> None:
    """A contact sheet with names, to be looked at."""
    font = ImageFont.load_default(10)
    rows = -(-len(found) // columns)
    page = Image.new("RGB", (columns * 84, rows * 90), (150, 175, 150))
    pen = ImageDraw.Draw(page)
    for index, sprite in enumerate(found):
        x, y = index % columns * 84, index // columns * 90
        page.paste(sprite.image, (x + 10, y), sprite.image)
        words = f"{sprite.name}\n{sprite.code[:9]} {sprite.style[0]}"
        pen.text((x + 2, y + 65), words, "black", font)
    page.save(path)


def main() -> None:
    """Read the three archives named on the command line and write the atlas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", nargs=3, type=Path, help="Twemoji, Noto, Fluent tarballs")
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    found = sprites(arguments.archives)
    folder = Path(__file__).resolve().parent.parent / "halu" / "scenes"
    write(found, folder)
    if arguments.sheet:
        sheet(found, arguments.sheet)
    size = (folder / "atlas.webp").stat().st_size
    print(f"{len(CATEGORIES)} categories, {len(found)} sprites, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
