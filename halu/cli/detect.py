"""`halu detect`: which words of a text a picture does not support."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from halu.errors import BadInput
from halu.types import Finding
from halu.values import with_parameters

DEFAULT = ("clip",)
Names = Annotated[
    list[str] | None,
    typer.Option("-d", "--detector", help="See `halu list detectors`; NAME or NAME:KEY=VALUE."),
]


def detect(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, WebP or GIF file.")],
    text: Annotated[str, typer.Argument(help="What is said of it.")],
    detector: Names = None,
    question: Annotated[str, typer.Option(help="What the text answers, if anything.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Find the words of a text that a picture does not support, by `clip` unless told otherwise.

    Example: halu detect examples/pictures/scene.png "A dog is on the left." -d clip -d objects
    """
    from halu.cli.models import quiet
    from halu.detector import detect
    from halu.images import open_image

    picture = open_image(image)
    quiet()
    found = detect(picture, text, named(detector or DEFAULT), question=question)
    if as_json:
        print(json.dumps({"text": text, "findings": [one.model_dump() for one in found]}, indent=2))
    else:
        show(text, found)


def named(texts: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """`["clip", "objects:threshold=0.3"]` as names with parameters.

    Raises:
        BadInput: a name given twice, or what is not KEY=VALUE.
    """
    pairs = [with_parameters(text) for text in texts]
    if len({name for name, _ in pairs}) < len(pairs):
        raise BadInput("A detector is named twice.", param="-d")
    return dict(pairs)


def show(text: str, found: Sequence[Finding]) -> None:
    """One line a finding, the words first."""
    if not found:
        print("No findings.")
    for one in found:
        print(f"{text[one.start : one.stop]!r} {one.score:.2f} {one.detector}: {one.reason}")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(detect)
