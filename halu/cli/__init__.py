"""The command line. Each command is a thin call into the library; heavy imports wait until they are
needed.
"""

import sys
from typing import Annotated, Any

import typer

from halu import __version__
from halu.errors import Failed, HaluError, Interrupted

app = typer.Typer(
    name="halu",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

from halu.cli import (
    ask,
    bench,
    calibrate,
    data,
    detect,
    listing,
    score,
    serve,
    tune,
    world,
)

ABOUT = "Decoding that stops vision-language models from saying what is not in the picture."


def _told_version(asked: bool) -> None:
    if asked:
        print(f"halu {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def _halu(
    version: Annotated[
        bool, typer.Option("--version", callback=_told_version, is_eager=True, help="Say which.")
    ] = False,
) -> None: ...


for module in (ask, detect, serve, bench, tune, score, data, calibrate, listing, world):
    module.add_to(app)


# Typer has carried its own copy of click since 0.26 and used the click package before; its public
# exceptions lead to the right base class in both.
UsageError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


INTERRUPTED = 130
"""Exit status, as shells have it: 128 and the signal's number."""


def main() -> None:
    """Entry point: 0 done, 1 the work failed, 2 the call was wrong; a mistake is one line on
    stderr.
    """
    sys.exit(_run())


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except Interrupted as error:
        return _complain(f"interrupted. {error}", INTERRUPTED)
    except HaluError as error:
        return _complain(str(error), 1 if isinstance(error, Failed) else 2)
    except UsageError as error:
        told: Any = error
        return _complain(told.format_message() or "No command was given; try --help.", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        return 1
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}", 1)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"halu: {' '.join(message.split())}", file=sys.stderr)
    return code
