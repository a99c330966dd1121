"""`halu score`: answer files of other projects under published rules."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from halu.eval.scored import Scored


def score(
    benchmark: Annotated[str, typer.Argument(help="pope, chair, mme and others.")],
    answers: Annotated[
        Path,
        typer.Argument(help="Answer file, MME's folder of results, or rows.jsonl of a run."),
    ],
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
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Of a run's rows: whose answers.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("-s", "--strategy", help="Of a run's rows: under which strategy.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, help="Of a run's rows: which repeat.")] = 0,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score although answers are missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Score an answer file that any project wrote, by one published rule or all side by side.

    Example: halu score pope answers.jsonl --questions coco_pope_random.json --rules all
    """
    from halu.eval.own_rows import Chosen
    from halu.eval.score import Given
    from halu.eval.score import score as score_file

    rows = Chosen(benchmark, model, strategy, repeat)
    given = Given(answers, questions, tuple(annotations or ()), tables, allow_partial, rows)
    scored = score_file(benchmark, given, rules)
    for warning in scored.warnings:
        print(f"halu: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(scored.document(), indent=2))
    else:
        _show(scored)


def _show(scored: "Scored") -> None:
    from halu.eval.fitting import show
    from halu.eval.score_table import tables

    show(lambda width: tables(scored, width))
    print(f"Shares in percent. {scored.n} answers, {scored.unreadable} unreadable")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(score)
