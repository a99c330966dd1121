"""What a strategy may run beside its request's own decoding: one branch, read once or followed
greedily, or several with an answer so far; their memory is given up afterwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.adapter import check_pixels
from halu.adapters.cache import RowCache
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.prompt import Prompt
from halu.strategy import Said


def rows(
    adapter: Adapter, prompt: Prompt, policies: Sequence[AttentionPolicy] = ()
) -> Iterator[Tensor]:
    """Rows of scores [V], greedily on and on; each is computed when it is asked for."""
    check_pixels(prompt)
    cache = RowCache(adapter.facts.layers)
    steered = [Steered(prompt.layout, tuple(policies))]
    row = adapter.runner.read([prompt], steered, cache)[0]
    length, position = len(prompt.ids), prompt.next_position
    while True:
        steered[0].heard(row)
        if steered[0].failure is not None:
            raise steered[0].failure
        yield row
        token = int(row.argmax())
        row = adapter.runner.step([token], [length], [position], steered, cache)[0]
        length, position = length + 1, position + 1


def say(
    adapter: Adapter, prompt: Prompt, max_new_tokens: int, policies: Sequence[AttentionPolicy] = ()
) -> Said:
    """The greedy continuation of a prompt, its end token included."""
    found: list[Tensor] = []
    for row in rows(adapter, prompt, policies):
        found.append(row)
        if int(row.argmax()) in adapter.ends or len(found) >= max_new_tokens:
            break
    tokens = tuple(int(row.argmax()) for row in found)
    text: str = adapter.tokenizer.decode(tokens, skip_special_tokens=True)
    return Said(tokens, torch.stack(found), text.strip())


def after(adapter: Adapter, prompts: Sequence[Prompt], tokens: Sequence[int]) -> Tensor:
    """Rows of scores [n, V] of prompts that go on with these tokens, all in one forward."""
    longer = [_continued(prompt, tokens) for prompt in prompts]
    steered = [Steered(prompt.layout) for prompt in longer]
    return adapter.runner.read(longer, steered, RowCache(adapter.facts.layers))


def _continued(prompt: Prompt, tokens: Sequence[int]) -> Prompt:
    check_pixels(prompt)
    length = len(prompt.ids) + len(tokens)
    new = prompt.next_position + torch.arange(len(tokens))
    places = torch.cat([prompt.positions, new.expand(*prompt.positions.shape[:-1], -1)], -1)
    return replace(
        prompt,
        ids=(*prompt.ids, *tokens),
        layout=replace(prompt.layout, length=length),
        positions=places,
        next_position=prompt.next_position + len(tokens),
    )
