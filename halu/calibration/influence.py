"""AD-HH's hallucination heads of a model (Yang et al., ICLR 2025, Modular Attribution).

Captions are written greedily. At every object word, each head in turn is silenced for the one
forward that chooses the word; its influence there is P(word) - P(word with the head silenced). A
head's score is its mean influence on hallucinated objects minus that on true ones, and the heads
that lead are taken: 20 of LLaVA-1.5-7B's 1024 in the paper, so one in fifty, at least two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.cache import RowCache
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.calibration.labelled import Known, Tell
from halu.engine import Local
from halu.errors import Failed
from halu.eval.lexicon import words_rules
from halu.eval.objects import read_caption
from halu.prompt import Prompt
from halu.types import Answer, question
from halu.vlm import asking

QUESTION = "Please describe this image in detail."
LONGEST = 96
LANES = 32
"""Heads silenced in one forward."""
ONE_IN = 50


class Silent(AttentionPolicy):
    """One head that gives nothing, in later forwards than the prompt's."""

    rows = "decode"

    def __init__(self, layer: int, head: int, heads: int) -> None:
        self.layer = layer
        self.scale = torch.ones(heads)
        self.scale[head] = 0

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """Zero for the head."""
        return self.scale if layer == self.layer and last is None else None


@dataclass(frozen=True, slots=True)
class Word:
    """An object named at token `place` of a caption; `real` says whether it is there."""

    place: int
    real: bool


def find(vlm: Local, known: Sequence[Known], tell: Tell) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameter `heads`, and the figures behind it.

    Raises:
        Failed: if the captions hold no hallucinated object, or no true one.
    """
    facts = vlm.adapter.facts
    influence: dict[bool, list[Tensor]] = {True: [], False: []}
    for number, one in enumerate(known):
        tell(number, len(known))
        request = asking(one.picture, QUESTION, max_new_tokens=LONGEST)
        (answer,) = vlm.generate([request])
        found = words(answer, one.names)
        prompt = vlm.adapter.encode(question(QUESTION, one.picture))
        tokens = [token.id for token in answer.tokens]
        for word, change in zip(found, changes(vlm.adapter, prompt, tokens, found), strict=True):
            influence[word.real].append(change)
    tell(len(known), len(known))
    if not influence[True] or not influence[False]:
        raise Failed(
            f"{len(known)} captions name {len(influence[False])} hallucinated objects and"
            f" {len(influence[True])} true ones; both are needed.",
            hint="Use more pictures.",
        )
    wrong, right = (torch.stack(influence[real]).mean(0) for real in (False, True))
    score = (wrong - right).reshape(facts.layers, facts.heads)
    count = max(2, score.numel() // ONE_IN)
    pairs = [divmod(int(i), facts.heads) for i in score.flatten().topk(count).indices]
    details = {
        "hallucinated objects": len(influence[False]),
        "true objects": len(influence[True]),
        "score by layer and head": [[round(float(s), 4) for s in row] for row in score],
    }
    return {"heads": [list(pair) for pair in pairs]}, details


def words(answer: Answer, names: frozenset[str]) -> list[Word]:
    """Object words of a caption, each by the token that begins it."""
    found = []
    for mention in read_caption(answer.text, words_rules()).mentions:
        place = next(i for i, t in enumerate(answer.tokens) if t.stop > mention.start)
        found.append(Word(place, mention.name in names))
    return [word for word in found if word.place > 0]


@torch.inference_mode()
def changes(
    adapter: Adapter, prompt: Prompt, tokens: Sequence[int], found: Sequence[Word]
) -> Iterator[Tensor]:
    """For each word P(word) - P(word with a head silenced), by head of all layers [L * H]."""
    facts = adapter.facts
    cache = RowCache(facts.layers)
    plain = [Steered(prompt.layout)]
    adapter.runner.read([prompt], plain, cache)
    heads = [(layer, head) for layer in range(facts.layers) for head in range(facts.heads)]
    wanted = {word.place for word in found}
    at: dict[int, Tensor] = {}
    for place in range(1, max(wanted, default=0) + 1):
        before = place - 1
        length, position = len(prompt.ids) + before, prompt.next_position + before

        def step(
            steered: list[Steered],
            fed: int = tokens[before],
            length: int = length,
            position: int = position,
        ) -> Tensor:
            n = len(steered)
            cache.arrange([0] * n)
            return adapter.runner.step([fed] * n, [length] * n, [position] * n, steered, cache)

        if place in wanted:
            p = [
                torch.softmax(
                    step(
                        [
                            Steered(prompt.layout, (Silent(*pair, facts.heads),))
                            for pair in heads[i : i + LANES]
                        ]
                    ),
                    -1,
                )[:, tokens[place]]
                for i in range(0, len(heads), LANES)
            ]
            at[place] = torch.cat(p)
        row = step(plain)[0]  # last, so that the cache goes on with the unsilenced token
        if place in wanted:
            at[place] = (torch.softmax(row, -1)[tokens[place]] - at[place]).cpu()
    for word in found:
        yield at[word.place]
