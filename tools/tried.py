"""What strategies do on random models: what they cost, and where they refuse to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halu.adapters import Adapter
    from halu.strategy import Plan, Strategy

GIVEN: dict[str, dict[str, Any]] = {
    "adhh": {"heads": [[0, 1], [2, 0]]},
    "ara": {"caption_tokens": 2},
    "carve": {"max_steps": 2},
    "code": {"describe_tokens": 2},
    "var": {"dimensions": [1, 2], "tau": 1.5},
    "vdgd": {"describe_tokens": 2},
}
"""Facts of real models that random ones must be given, and short texts where one is written first:
random models never end theirs.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strategy costs for one question about one picture.

    Attributes:
        rows: rows that go through the language model at each token.
        prompts: prompts read besides the plain one.
        texts: texts that the model writes first.
    """

    rows: int
    prompts: int
    texts: int

    @property
    def beside(self) -> str:
        """Prompts and texts in a word."""
        said = f"{self.texts} text{'s' * (self.texts > 1)} first" if self.texts else ""
        return " + ".join(part for part in (str(self.prompts or ""), said) if part) or "0"


@cache
def adapter(family: str) -> Adapter:
    """A random model of a family."""
    from halu.testing.random_models import random_adapter

    return random_adapter(family)


@cache
def cost(strategy: type[Strategy]) -> Cost:
    """Read off the plan that a strategy makes on a random model."""
    from PIL import Image

    from halu.planning import RequestContext, choose, steered
    from halu.types import Request, question

    texts = []

    class Context(RequestContext):
        def say(self, *args: Any, **kwargs: Any) -> Any:
            before = self.forwards
            said = super().say(*args, **kwargs)
            self.forwards = before
            texts.append(said)
            return said

    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    given = GIVEN.get(strategy.name, {})
    request = Request(messages=words, strategy=strategy.name, params=given)
    plan, contexts = choose(request).plan(adapter("llava"), request, context=Context)
    for branch in (plan.main, *plan.extra):
        steered(plan, branch)()
    prompts = len(plan.extra) + sum(ctx.forwards for ctx in contexts)
    return Cost((1 + len(plan.extra)) * hypotheses(plan), prompts, len(texts))


def hypotheses(plan: Plan) -> int:
    """How many hypotheses go on after the first token of an answer that nothing ends."""
    import torch

    from halu.types import Sampling

    search = plan.search.start(Sampling(), frozenset(), ())
    return len(search.advance(torch.arange(64.0)[None], [[]], [()]))


@cache
def refusal(family: str, name: str) -> str:
    """Why these strategies do not run on a family, or nothing."""
    from PIL import Image

    from halu.engine import VLM
    from halu.errors import HaluError
    from halu.types import Request, Sampling, question

    parts = name.split("+")
    params = {
        key if len(parts) == 1 else f"{part}.{key}": value
        for part in parts
        for key, value in GIVEN.get(part, {}).items()
    }
    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    request = Request(
        messages=words, strategy=name, params=params, sampling=Sampling(max_new_tokens=2)
    )
    try:
        VLM(adapter(family)).generate([request])
    except HaluError as error:
        return error.message
    return ""
