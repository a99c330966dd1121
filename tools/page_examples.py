"""Draw the example pictures of the service's page, with what is in them and questions about them.

    python tools/page_examples.py [--check]

They are test scenes of the built-in world, so that no shipped model has learnt from them. With
`--check` nothing is written; the exit status says whether the files are current.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from halu.scenes import Scene, draw

FOLDER = Path(__file__).resolve().parent.parent / "service" / "static" / "examples"
SEEDS = {33: "truck", 23: "dog", 28: "bed", 24: "spoon", 41: "cup", 37: "zebra"}
"""Test scenes, and something that each lacks or has, to ask for."""
SIDE = 448
QUALITY = 80


def main() -> int:
    """Writes the files, or says whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    scenes = {asked: draw(seed, "test", SIDE) for seed, asked in SEEDS.items()}
    listed = [entry(scene, asked) for asked, scene in scenes.items()]
    text = json.dumps(listed, indent=1) + "\n"
    if check:
        return int((FOLDER / "examples.json").read_text(encoding="utf-8") != text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "examples.json").write_text(text, encoding="utf-8")
    for scene, one in zip(scenes.values(), listed, strict=True):
        (FOLDER / one["file"]).write_bytes(packed(scene))
    return 0


def entry(scene: Scene, asked: str) -> dict[str, Any]:
    """What the page says of a scene; `things` is the truth."""
    counts = Counter(thing.name for thing in scene.things)
    article = "an" if asked[0] in "aeiou" else "a"
    return {
        "file": f"{scene.theme.replace(' ', '-')}-{scene.seed}.webp",
        "theme": scene.theme,
        "things": [name if n == 1 else f"{name} × {n}" for name, n in sorted(counts.items())],
        "questions": [f"Is there {article} {asked} in the image?"],
    }


def packed(scene: Scene) -> bytes:
    """The picture as a small WebP file."""
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
