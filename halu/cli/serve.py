"""`halu serve`: the REST service."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from halu.errors import BadInput, Unavailable
from halu.values import parameters


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("-m", "--model", help="Name, folder or hub id; may be given several times."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Hashed keys; needed unless bound to loopback.")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a key, add its hash to the file, end.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="hf (transformers) or vllm.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:1 ...; models are dealt to them.")
    ] = None,
    graphs: Annotated[
        bool | None, typer.Option(help="Record decoding steps as CUDA graphs; needs a GPU.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as TOML, end.")
    ] = False,
) -> None:
    """Serve models by an OpenAI-compatible API, with a page to try them.

    Flags win over the environment (HALU_PORT=8080), which wins over the file.

    Example: halu serve -m tiny-llava --port 8000
    """
    if new_key is not None:
        _make_key(new_key, api_key_file)
        return
    flags: dict[str, Any] = {
        "models": model or None,
        "host": host,
        "port": port,
        "api_key_file": api_key_file,
        "backend": backend,
        "device": device or None,
        "graphs": graphs,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    _run(
        {**parameters(setting or [], "Write --set NAME=VALUE."), **given},
        config,
        only_print=print_config,
    )


def _run(flags: dict[str, Any], file: Path | None, *, only_print: bool) -> None:
    try:
        from halu.service.settings import as_toml, read_settings

        settings = read_settings(flags, file)
        if only_print:
            print(as_toml(settings))
            return
        from halu.service.serving import serve as listen
    except ImportError as error:
        raise Unavailable.without("serve", f"The service needs {error.name}.") from None
    from halu.adapters.loading import without_progress_bars

    without_progress_bars()
    listen(settings)


def _make_key(name: str, file: Path | None) -> None:
    from halu.service.keys import new_key

    if file is None:
        raise BadInput("Where should the key's hash be kept?", hint="Add --api-key-file FILE.")
    print(new_key(file, name))
    print("This is the key; it is shown only now.", file=sys.stderr)


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)
