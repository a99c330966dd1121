"""`halu score`: answer files of other projects under published rules."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from halu.eval.score import Scored


def score(
    benchmark: Annotated[str, typer.Argument(help="pope, chair, mme and others.")],
    answers: Annotated[Path, typer.Argument(help="Answer file, or MME's folder of results.")],
    questions: Annotated[
        Path | None, typer.Option(help="Question file, or a folder of them.")
    ] = None,
    annotations: Annotated[
        list[Path] | None, typer.Option(help="Labels or truth: a file or folder; repeat it.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="Folder with CHAIR's words; default: near the annotations.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(help="A rule, several with commas between, or 'all'; default: the original."),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score although answers are missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Score an answer file that any project wrote, by one published rule or all side by side.

    Example: halu score pope answers.jsonl --questions coco_pope_random.json --rules all
    """
    from halu.eval.score import Given
    from halu.eval.score import score as score_file

    given = Given(answers, questions, tuple(annotations or ()), tables, allow_partial)
    scored = score_file(benchmark, given, rules)
    for warning in scored.warnings:
        print(f"halu: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(scored.document(), indent=2))
    else:
        _show(scored)


def _show(scored: "Scored") -> None:
    """One row a split and rule, one column a metric; figures over several splits below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    names = list(
        dict.fromkeys(n for f in scored.splits.values() for r in f.values() for n in r.metrics)
    )
    for column in ("split", "rule", "n", *names):
        table.add_column(column, justify="left" if column in ("split", "rule") else "right")
    for split, rules in scored.splits.items():
        for rule, figures in rules.items():
            cells = [_figure(figures.metrics.get(name)) for name in names]
            table.add_row(split, rule, str(figures.n), *cells)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    if len(scored.splits) > 1:
        for rule, figures in scored.rules.items():
            told = ", ".join(f"{n} {_figure(v)}" for n, v in figures.metrics.items())
            print(f"all {figures.n} answers, rule {rule}: {told}")
    print(f"{scored.n} answers, {scored.unreadable} unreadable")


def _figure(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.2f}"


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(score)
