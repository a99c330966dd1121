"""`halu data check`: whether a folder holds what a benchmark needs, as published."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(
    help="Data folders of benchmarks.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data.callback()
def _group() -> None:
    """Data folders of benchmarks."""


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder given to --data.")],
    benchmark: Annotated[str, typer.Option("--benchmark", help="See `halu list benchmarks`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> int:
    """Say which files and pictures are missing or not as published, and how to get them.

    Exits with 1 if something is missing or wrong. Nothing is downloaded.

    Example: halu data check coco/ --benchmark pope
    """
    from halu.eval.data_check import check as examine
    from halu.eval.data_check import whole

    found = examine(folder, benchmark)
    if as_json:
        told = {"benchmark": benchmark, "folder": str(folder), "whole": whole(found)}
        print(json.dumps({**told, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        for finding in found:
            hint = f" - {finding.hint}" if finding.hint else ""
            print(f"{finding.level:8}{finding.what}{hint}")
    return 0 if whole(found) else 1


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(data, name="data")
