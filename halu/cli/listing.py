"""`halu list` and `halu doctor`: what there is, and what works here."""

import json
from typing import Annotated

import typer

from halu.catalogue import available


def list_(
    kind: Annotated[
        str, typer.Argument(help="strategies, detectors, benchmarks or models")
    ] = "strategies",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List strategies, detectors, benchmarks or models.

    Example: halu list strategies
    """
    entries = available(kind)
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    if not entries:
        print(f"No {kind} are installed.")
        return
    from rich.table import Table

    from halu.eval.fitting import show

    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "summary", "paper"):
        if any(column in entry for entry in entries):
            table.add_column(column)
    for entry in entries:
        cells = [str(entry[c]) for c in ("name", "kind", "summary") if any(c in e for e in entries)]
        if any("paper" in e for e in entries):
            arxiv = entry["paper"]["arxiv"]
            cells.append(f"arXiv:{arxiv}" if arxiv else "")
        table.add_row(*cells)
    show(lambda _: [table])
    if kind == "models":
        print("and any LLaVA or Qwen-VL checkpoint, by hub id or folder (see the README)")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Say what is installed, which backends work here, and why the others do not.

    Example: halu doctor
    """
    from halu.doctor import examine

    checks = examine()
    if as_json:
        print(json.dumps([check.model_dump() for check in checks], indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    from halu.eval.fitting import show

    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found"):
        table.add_column(column)
    for check in checks:
        table.add_row(
            "[green]ok[/]" if check.works else "[yellow]no[/]", check.what, escape(check.found)
        )
    show(lambda _: [table])


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("list")(list_)
    app.command()(doctor)
