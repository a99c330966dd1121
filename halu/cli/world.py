"""`halu scenes`: pictures of the built-in world with their truth and question files."""

from pathlib import Path
from typing import Annotated

import typer

from halu.cli.progress import Bar


def scenes(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    n: Annotated[int, typer.Option("--n", help="How many pictures.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the first picture.")] = 0,
) -> None:
    """Write built-in pictures, their exact truth, and POPE, CHAIR and MME files in the official
    formats.

    Example: halu scenes scenes/ --n 500 --seed 0
    """
    from halu.scenes.files import write

    with Bar() as bar:
        files = write(folder, n, seed, lambda done: bar.show(done, n, "pictures"))
    print(f"Wrote {len(files.images)} pictures and their files to {files.folder}")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(scenes)
