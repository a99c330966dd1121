"""What the numerical guard compares: the built-in models saying long answers under every strategy,
in torch or through the kernels.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from recorder import ONLY_ON, PARAMS

import halu
from halu.adapters.replay import CudaGraphs, repeated
from halu.attention import choice
from halu.attention.triton.configs import Config
from halu.engine import Local
from halu.models import builtin
from halu.scenes import draw
from halu.strategy import strategies
from halu.types import Answer, Request
from halu.vlm import asking

MODELS = {"tiny-llava": "llava", "tiny-qwen": "qwen2_5_vl"}
TOKENS = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHORT = DEVICE == "cpu" and "HALU_EXAMPLES" not in os.environ
"""Whether answers through the kernels are short: the interpreter needs seconds for ten tokens."""
WIDE = Config(rows=64, keys=128, warps=4, stages=1, chunk=256)
"""Tiles for short answers: the interpreter takes about as long for a large one as for a small."""
NEVER = -1

on_both = pytest.mark.parametrize("model", MODELS)


def names(model: str) -> list[str]:
    """The strategies that run on a model."""
    return [n for n in strategies.names() if MODELS[model] in ONLY_ON.get(n, MODELS.values())]


@cache
def scene() -> Image.Image:
    """The picture that all are asked about."""
    return Image.fromarray(draw(3, "test", 112).image)


@cache
def requests(model: str, tokens: int = TOKENS) -> dict[str, Request]:
    """A request by strategy."""
    own: dict[str, Any] = {"max_new_tokens": tokens}
    words = ("Describe this image in detail.", "What is in the image?", "Describe this image.")
    return {
        name: asking(scene(), words[n % 3], strategy=name, params=PARAMS.get(name), seed=n, **own)
        for n, name in enumerate(names(model))
    }


def unending() -> Callable[..., Local]:
    """Loads models of the caller's own. No token ends an answer of theirs, so that all are as long
    as they may be.
    """

    @cache
    def made(model: str, recorded: bool, dtype: str = "float32", device: str = "cpu") -> Local:
        if model not in builtin():
            pytest.skip(f"{model} is not in the tree")
        vlm = halu.load(model, dtype=dtype, device=device)
        assert isinstance(vlm, Local)
        vlm.adapter.model.generation_config.eos_token_id = [NEVER]
        runner = vlm.adapter.runner
        if recorded:
            runner.record(repeated if device == "cpu" else CudaGraphs(runner.device))
        runner.worth = 1 if recorded else 10**9
        return vlm

    return made


def ids(answer: Answer) -> list[int]:
    """An answer's tokens."""
    return [token.id for token in answer.tokens]


def wide(patch: pytest.MonkeyPatch) -> None:
    """Gives the kernels wide tiles."""
    from halu.attention.triton import columns, launch

    for module in (launch, columns):
        patch.setattr(module, "pick", lambda *_: WIDE)


@contextmanager
def attention(best: str) -> Iterator[Counter[str]]:
    """Makes an implementation the best one; counts the kernels' calls."""
    pytest.importorskip("triton")
    from halu.attention.triton import columns, launch

    called: Counter[str] = Counter()

    def counting(what: Callable[..., str], kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **own: Any) -> Any:
            called[what(*args)] += 1
            return kernel(*args, **own)

        return call

    def step_or_rows(inputs: Any, *rest: Any) -> str:
        return "step" if inputs.q.shape[2] == 1 else "rows"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "best", lambda device: best)
        if SHORT:
            wide(patch)
        patch.setattr(launch, "weighted", counting(step_or_rows, launch.weighted))
        patch.setattr(columns, "column_mass", counting(lambda *_: "rows", columns.column_mass))
        yield called
