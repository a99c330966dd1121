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
    from halu.eval.fitting import show
    from halu.eval.score_table import tables

    show(lambda width: tables(scored, width))
    print(f"Shares in percent. {scored.n} answers, {scored.unreadable} unreadable")


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(score)
