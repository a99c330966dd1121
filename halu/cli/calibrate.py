"""`halu calibrate`: facts about a model that a strategy needs, computed and kept."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from halu.cli.progress import Bar


def calibrate(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id.")],
    strategy: Annotated[str, typer.Argument(help="var, adhh, zerotuning or act.")],
    n: Annotated[int, typer.Option("--n", help="Pictures or questions.")] = 100,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures; default: built-in scenes.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO instances of those pictures (adhh).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with POPE's files (zerotuning, act).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute a strategy's facts about a model: var's sink dimensions, adhh's heads, the head
    profile of zerotuning and act. The result is kept, and var and adhh use it from then on.

    Example: halu calibrate tiny-llava adhh --n 200
    """
    from halu import calibration
    from halu.cli.models import load_quietly
    from halu.engine import Local

    source = calibration.Source(n=n, images=images, annotations=annotations, data=data)
    source.check(strategy)
    vlm = load_quietly(model, device=device)
    assert isinstance(vlm, Local)
    with Bar() as bar:
        found = calibration.calibrate(
            vlm,
            strategy,
            source,
            command=shlex.join(["halu", *sys.argv[1:]]),
            tell=lambda done, total: bar.show(done, total, f"{strategy} on {model}"),
        )
    file = calibration.keep(found, vlm.adapter.facts)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    options = " ".join(
        f"-p {key}={json.dumps(value, separators=(',', ':'))}"
        for key, value in found.params.items()
    )
    print(f"{strategy} on {model}, from {found.pictures}:")
    print(f"  {options}")
    print(f"Kept in {file}")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(calibrate)
