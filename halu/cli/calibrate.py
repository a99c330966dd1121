"""`halu calibrate`: facts about a model that a strategy or a detector needs, computed and kept."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halu.cli.progress import Bar
from halu.values import with_parameters

if TYPE_CHECKING:
    from halu.calibration import Source


def calibrate(
    model: Annotated[str, typer.Argument(help="Name, folder or hub id.")],
    strategy: Annotated[
        str,
        typer.Argument(help="var, adhh, zerotuning, act; or a detector, NAME or NAME:KEY=VALUE."),
    ],
    n: Annotated[int, typer.Option("--n", help="Pictures or questions.")] = 100,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures; default: built-in scenes.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO instances of those pictures (adhh, detectors).")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="JSON lines with image, text, made_up (detectors but of the trace)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with POPE's files (zerotuning, act).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute a strategy's facts about a model: var's sink dimensions, adhh's heads, the head
    profile of zerotuning and act; or a detector's curve from measurements to a probability. The
    result is kept, and var, adhh and detectors use it from then on.

    Example: halu calibrate tiny-llava adhh --n 200
    """
    from halu import calibration
    from halu.calibration import detecting

    source = calibration.Source(
        n=n, images=images, annotations=annotations, data=data, captions=captions
    )
    name, params = with_parameters(strategy)
    if name in detecting.calibrated():
        _curves(model, name, params, source, device, as_json)
    else:
        source.check(strategy)
        _facts(model, strategy, source, device, as_json)


def _facts(model: str, strategy: str, source: "Source", device: str | None, as_json: bool) -> None:
    """Of a strategy."""
    from halu import calibration
    from halu.cli.models import load_quietly
    from halu.engine import Local

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


def _curves(
    model: str,
    name: str,
    params: dict[str, Any],
    source: "Source",
    device: str | None,
    as_json: bool,
) -> None:
    """Of a detector."""
    from halu.calibration import detecting
    from halu.cli.models import load_quietly
    from halu.detector import detectors

    detector = detectors.get(name).configured(params)
    detecting.check(detector, source)
    with Bar() as bar:
        cases = detecting.cases(
            detector,
            source,
            lambda: load_quietly(model, device=device),
            lambda done, total: bar.show(done, total, f"captions by {model}"),
        )
        found = detecting.fit(detector, cases)
    files = detecting.keep(found, name)
    told = [
        {
            "detector": name,
            "kind": kind,
            "auroc": None if one.auroc != one.auroc else round(one.auroc, 4),
            "curve": one.curve.model_dump(),
            "file": str(files[kind]),
        }
        for kind, one in found.items()
    ]
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for kind, one in found.items():
        print(
            f"{name} for {one.curve.fitted_for}, {kind} claims: {one.curve.claims} of them,"
            f" AUROC {one.auroc:.3f} on pictures left out. Kept in {files[kind]}"
        )


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(calibrate)
