"""What a strategy sees while it plans: its request on an adapter, and prompts run beside."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.adapter import check_pixels
from halu.aside import Aside, alone, continued, said
from halu.attention.policy import AttentionPolicy
from halu.prompt import Prompt
from halu.strategy import Branch, ModelFacts, PolicyMaker, Said
from halu.types import Message, Request
from halu.views import ImageView, PixelView

Ask = Callable[[Sequence[Aside]], None]
"""Has asides run to their end."""


class RequestContext:
    """`halu.strategy.Context` on an adapter, for one request and one strategy.

    Args:
        adapter: the model.
        request: the request.
        main: its plain branch.
        salt: tells the random numbers of one strategy from another's.
        ask: how prompts are run beside decoding; none: at once, with nothing beside them.
    """

    def __init__(
        self,
        adapter: Adapter,
        request: Request,
        main: Branch,
        salt: str,
        ask: Ask | None = None,
    ) -> None:
        self.adapter = adapter
        self._ask = ask or partial(alone, adapter)
        self.request = request
        self.main = main
        seed = hashlib.sha256(f"{request.sampling.seed} {salt}".encode()).digest()
        self.rng = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
        self.forwards = 0

    @property
    def model(self) -> ModelFacts:
        """The model's name, family and sizes."""
        return self.adapter.facts

    def branch(
        self,
        name: str,
        *,
        image: ImageView | None = None,
        pixels: PixelView | None = None,
        messages: tuple[Message, ...] | None = None,
        blind: bool = False,
        words: str | Sequence[str] | None = None,
        opened: bool = False,
        steered: bool = True,
        policies: tuple[PolicyMaker, ...] = (),
    ) -> Branch:
        """Another branch of this request; its pictures are encoded anew, so a view may change their
        size.
        """
        prompt = self.main.prompt if messages is None else self.encode(messages)
        if blind or words is not None:
            prompt = self.adapter.without_images(prompt, words or "", opened=opened)
        if image is not None:
            prompt = self.adapter.with_images(
                prompt, tuple(image(picture) for picture in prompt.images)
            )
        if pixels is not None:
            prompt = self.adapter.with_pixels(prompt, pixels)
        return Branch(name, prompt, steered, policies, messages)

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Another conversation's prompt."""
        return self.adapter.encode(messages)

    def prefill(self, branch: Branch, policies: Sequence[AttentionPolicy] = ()) -> Tensor:
        """The branch's row [V] after its prompt; nothing of it stays."""
        aside = Aside.of(branch.prompt, policies)
        self._ask([aside])
        self.forwards += 1
        return aside.row

    def class_attention(self, prompt: Prompt, layers: Sequence[int]) -> Tensor:
        """What the vision tower's class token looks at."""
        check_pixels(prompt)
        return self.adapter.class_attention(prompt.pixels, layers)

    def say(
        self,
        branch: Branch,
        max_new_tokens: int,
        policies: Sequence[AttentionPolicy] = (),
        each: Callable[[Tensor], None] | None = None,
    ) -> Said:
        """The branch's greedy continuation; nothing of it stays."""
        most, ends = max_new_tokens, self.adapter.ends
        aside = Aside.of(branch.prompt, policies, ends=ends, most=most, each=each)
        self._ask([aside])
        self.forwards += len(aside.tokens)
        return said(self.adapter, aside)

    def after(self, branches: Sequence[Branch], tokens: Sequence[int]) -> Tensor:
        """The branches' rows [n, V] after these tokens; nothing of them stays."""
        asides = [Aside.of(continued(branch.prompt, tokens)) for branch in branches]
        self._ask(asides)
        self.forwards += len(asides)
        return torch.stack([aside.row for aside in asides])

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens as text."""
        found: str = self.adapter.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found
