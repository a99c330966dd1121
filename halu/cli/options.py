"""Options that several commands share, with one wording."""

from pathlib import Path
from typing import Annotated

import typer

Limit = Annotated[int | None, typer.Option(help="Samples of each split.")]
Data = Annotated[Path | None, typer.Option(help="Folder with the benchmark's files.")]
BatchSize = Annotated[int, typer.Option(help="Requests in one forward.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 ...")]
Seed = Annotated[int, typer.Option(help="Seeds samples and random views.")]

Models = Annotated[
    list[str] | None,
    typer.Option("-m", "--model", help="Name, folder or hub id. [default: tiny-llava]"),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option("-s", "--strategy", help="Strategy, with parameters as NAME:KEY=VALUE:KEY=VALUE."),
]
Backends = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        help="hf, vllm (both in this process), or a server's URL; one for all or one a model.",
    ),
]
Temperature = Annotated[float | None, typer.Option(help="0 takes the best token.")]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens with this mass.")]
Suffix = Annotated[
    str | None, typer.Option(help="After each question; default: the benchmark's own.")
]
Rules = Annotated[
    str | None,
    typer.Option(help="What reads the answers, such as chair-opera; default: the benchmark's own."),
]
MaxNewTokens = Annotated[int | None, typer.Option(help="Default: the benchmark's own.")]
Repeats = Annotated[int, typer.Option(help="Answers to each question, with seeds of their own.")]
Workers = Annotated[int, typer.Option(help="Batches answered at the same time.")]
CacheFile = Annotated[
    Path | None, typer.Option("--cache", help="File that keeps answers between runs.")
]
JudgeUrl = Annotated[
    str | None, typer.Option("--judge", help="Endpoint of the model that scores open answers.")
]
JudgeModel = Annotated[str, typer.Option(help="Its name there.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Do not stop where answers look wrong.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was stopped.")]
