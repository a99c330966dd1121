"""Requests for every strategy, and what the same ones give under transformers."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image
from recorder import PARAMS

from halu.errors import Unavailable
from halu.strategy import strategies
from halu.types import Answer, Request
from halu.vlm import asking

REFUSED = {
    "ara": "reads a prompt's scores",
    "beam": "several hypotheses",
    "carve": "watches the model",
    "fia": "vision tower",
    "halc": "several hypotheses",
    "opera": "several hypotheses",
    "sentinel": "several hypotheses",
    "vdgd": "watches the model",
    "woodpecker": "several hypotheses",
}
"""Strategies that do not run in vLLM, and a word of the reason."""
SUMS = ("vcd+ritual", "vhr+ritual", "var+vcd")
BRANCHED = ("vcd", "ritual", "icd", "m3id", "vcd+ritual")
TAPPED = ("dola", "deco")


def picture(number: int = 0) -> Image.Image:
    """A picture of its own for each number."""
    corners = (-2 + number % 9 / 9, -1.5, 1, 1.5)
    return Image.effect_mandelbrot((120 + 8 * number, 90), corners, 50).convert("RGB")


def request(
    strategy: str, number: int = 0, tokens: int = 16, more: str = "", **sampling: Any
) -> Request:
    """A question under a strategy, with parameters that make it act."""
    text = ("Describe the picture.", "Is there a dog?", "What is on the left?")[number % 3]
    text = f"{more} {text}".strip()
    params = PARAMS.get(strategy, {})
    options = {"strategy": strategy, "params": params, "max_new_tokens": tokens, **sampling}
    return asking(picture(number), text, **options)


def runnable(stock: Any) -> list[str]:
    """Strategies that run in vLLM and have all that they need in this environment."""
    found = []
    for name in strategies.names():
        if name not in REFUSED:
            try:
                stock.generate([request(name, tokens=1)])
            except Unavailable:  # an extra is missing
                continue
            found.append(name)
    return found


def mixed(requests: Sequence[Request], seed: int = 0, **options: Any) -> list[Request]:
    """With as many plain requests between them, in an order of their own."""
    plain = [request("greedy", number, **options) for number in range(len(requests))]
    order = [*requests, *plain]
    random.Random(seed).shuffle(order)
    return order


def compared(vlm: Any, stock: Any, requests: Sequence[Request]) -> list[str]:
    """The strategies whose answers differ."""
    expected: list[Answer] = stock.generate(requests)
    found: list[Answer] = vlm.generate(requests)
    return [
        f"{one.strategy}: {_ids(got)} != {_ids(wanted)}"
        for one, got, wanted in zip(requests, found, expected, strict=True)
        if _ids(got) != _ids(wanted) or got.text != wanted.text
    ]


def _ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


def counted(vlm: Any, patch: pytest.MonkeyPatch, name: str, count: Callable[..., int]) -> list[int]:
    """What `count` makes of each call of a method of the engine's scheduler."""
    scheduler = vlm.engine.engine_core.engine_core.scheduler
    method, found = getattr(scheduler, name), []

    def watched(*args: Any, **kwargs: Any) -> Any:
        found.append(count(*args))
        return method(*args, **kwargs)

    patch.setattr(scheduler, name, watched)
    return found
