"""Stage (b): the bridge from tower to language model learns to write each image token as the word
of what it shows.

Twenty seconds, and without it the language model needs tens of thousands of pictures to find out
what image tokens are.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halu.scenes import NAMES
from halu.training import settings, team
from halu.training.corpus import Corpus
from halu.training.curve import Curve
from halu.training.dialect import Dialect
from halu.training.features import Features
from halu.training.naming import NOTHING, truth
from halu.training.optimizer import Both, schedule

SHARPNESS = 10.0
Bridge = Callable[[Tensor], Tensor]


def name_vectors(dialect: Dialect, embedding: nn.Embedding) -> Tensor:
    """[names + 1, D]: the mean of each name's word embeddings; "nothing" is the place-holder's
    own, else unused, embedding.
    """
    rows = [embedding.weight[dialect.ids(f" {name}")].mean(0) for name in NAMES]
    place = dialect.tokenizer.convert_tokens_to_ids(dialect.image)
    return torch.stack([*rows, embedding.weight[place]]).detach()


def shares(names: Tensor, groups: int) -> Tensor:
    """[B, n, names + 1] target: what the patches behind one image token show, in equal parts;
    names is [B, g*g].
    """
    b, cells = names.shape
    grid = int(cells**0.5)
    one_hot = (
        F.one_hot(names, NOTHING + 1)
        .float()
        .view(b, grid // groups, groups, grid // groups, groups, -1)
    )
    return one_hot.mean((2, 4)).flatten(1, 2)


def train(
    module: nn.Module,
    bridge: Bridge,
    features: Features,
    corpus: Corpus,
    side: int,
    vectors: Tensor,
    groups: int,
    run: settings.Run,
    curve: Curve,
    steps: int = 250,
) -> None:
    """Move `module` (and nothing else) until `bridge(features)` points at the words' embeddings,
    and has their length.
    """
    optimizer = Both({"bridge": module}, lr=3e-3)
    rng = np.random.default_rng(run.seed)
    length = vectors.norm(dim=-1).mean()
    unit = F.normalize(vectors, dim=-1)
    for step in range(steps):
        index = np.sort(rng.choice(len(features), run.batch, replace=False))
        true = truth([corpus.scenes[i] for i in index], corpus.owners[side][index]).name
        target = shares(true, groups).to(features.device)
        out = bridge(features[index])
        scores = SHARPNESS * F.normalize(out, dim=-1) @ unit.T
        weight = 0.3 + 0.7 * (1 - target[..., NOTHING])
        value = (
            weight
            * F.cross_entropy(scores.flatten(0, 1), target.flatten(0, 1), reduction="none").view_as(
                weight
            )
        ).mean()
        (value + (out.norm(dim=-1) / length - 1).square().mean()).backward()
        optimizer.step(schedule(step, steps))
        if step % 25 == 0 or step + 1 == steps:
            here = target[..., NOTHING] < 0.5
            right = (
                (scores[..., :NOTHING].argmax(-1) == target[..., :NOTHING].argmax(-1))[here]
                .float()
                .mean()
            )
            curve.add(
                "words", step, step * run.batch * team.size(), loss=value.item(), named=right.item()
            )
