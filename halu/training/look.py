"""A quick held-out look during training: the first token of the answer to single yes/no
questions, no generation.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from halu.scenes.language import ONE_WORD, exists
from halu.scenes.statistics import Kind, absent
from halu.training.corpus import Corpus
from halu.training.dialect import Dialect
from halu.training.features import Features

SIZE = 64
KINDS: tuple[Kind, ...] = ("random", "adversarial")


def questions(corpus: Corpus, kind: Kind) -> list[tuple[int, str, bool]]:
    """Two questions a scene: one object that is there, one that is not."""
    rng = random.Random(0)
    found = []
    for number, scene in enumerate(corpus.scenes):
        found.append((number, rng.choice(sorted(scene.names)), True))
        found.append((number, rng.choice(absent(scene.names, kind, 3, rng)), False))
    return found


def glance(
    hidden: Callable[[Tensor, Tensor], Tensor],
    head: nn.Module,
    dialect: Dialect,
    features: Features,
    corpus: Corpus,
) -> dict[str, float]:
    """Accuracy on natural questions with the one-word request, for random and adversarial absent
    objects.
    """
    return {
        f"pope_{kind}": _accuracy(hidden, head, dialect, features, questions(corpus, kind))
        for kind in KINDS
    }


def _accuracy(
    hidden: Callable[[Tensor, Tensor], Tensor],
    head: nn.Module,
    dialect: Dialect,
    features: Features,
    asked: list[tuple[int, str, bool]],
) -> float:
    opening = dialect.opening()[0]
    right = 0
    for at in range(0, len(asked), SIZE):
        part = asked[at : at + SIZE]
        lines = [
            opening + dialect.turn(exists(name) + ONE_WORD, "", True)[0] for _, name, _ in part
        ]
        longest = max(map(len, lines))
        ids = torch.tensor(
            [line + [0] * (longest - len(line)) for line in lines], device=features.device
        )
        states = hidden(features[[number for number, _, _ in part]], ids)
        last = states[torch.arange(len(part)), torch.tensor([len(line) - 1 for line in lines])]
        first = [dialect.turn("", answer, True)[1][0] for answer in ("No", "Yes")]
        said = head(last).argmax(-1).tolist()
        right += sum(token == first[there] for token, (_, _, there) in zip(said, part, strict=True))
    return right / len(asked)
