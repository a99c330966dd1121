"""`halu ask`: one question about one picture."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halu.cli import detect as detecting
from halu.errors import BadInput
from halu.types import Answer, Request
from halu.values import parameters

if TYPE_CHECKING:
    from halu.detector import Detector


def ask(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG, WebP or GIF file.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[
        str, typer.Option("-m", "--model", help="Name, folder or hub id.")
    ] = "tiny-llava",
    strategy: Annotated[
        str | None,
        typer.Option("-s", "--strategy", help="See `halu list strategies`; join with '+'."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="Strategy parameter, KEY=VALUE.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0 or none: greedy.")] = None,
    seed: Annotated[int, typer.Option(help="Seeds sampling and random views.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    detector: detecting.Names = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole answer as JSON.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write a page that shows where each word looked.")
    ] = None,
) -> None:
    """Ask one question about a picture.

    Example: halu ask examples/pictures/scene.png "Is there a dog in the image?" -s vcd -p alpha=0.5
    """
    from halu.cli.models import load_quietly
    from halu.images import open_image
    from halu.vlm import asking

    if not question.strip():
        raise BadInput("The question is empty.", param="question")
    picture = open_image(image)
    if trace is not None and not trace.parent.is_dir():
        raise BadInput(f"There is no folder {str(trace.parent)!r}.", param="--trace")
    request = asking(
        picture,
        question,
        strategy=strategy,
        params=parameters(param or []),
        evidence="map" if trace else "none",
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    using = _fitting(detector or (), request)
    vlm = load_quietly(model, device=device)
    answer = _streamed(vlm, request, using, quiet=as_json)
    if as_json:
        print(answer.model_dump_json(indent=2))
    elif using or answer.findings:
        detecting.show(answer.text, answer.findings)
    if trace is not None:
        from halu.trace_page import write

        write(trace, picture, question, answer, model)
        print(f"Wrote {trace}", file=sys.stderr)


def _fitting(names: Sequence[str], request: Request) -> "tuple[Detector, ...]":
    """Detectors by name; refused before a model is loaded if they do not suit the request."""
    if not names:
        return ()
    from halu.detector import chosen
    from halu.examining import prepared

    using = chosen(detecting.named(names))
    prepared(request, using)
    return using


def _streamed(vlm: Any, request: Any, using: Any, *, quiet: bool) -> Answer:
    answer: Answer | None = None
    for event in vlm.examined(request, using):
        if not quiet:
            print(event.text, end="", flush=True)
        answer = event.answer
    if not quiet:
        print()
    assert answer is not None
    return answer


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(ask)
