"""Trains the heads that name patches for the built-in finders, on frozen towers of the built-in
models: `python -m halu.training.patches --out DIR [--scenes N] [--seed N]`.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from halu.grounding import patches
from halu.scenes import NAMES
from halu.training import corpus

NOTHING = len(NAMES)
BATCH, ROUNDS, RATE = 2048, 8, 2e-3
LOOK = 400
"""Held-out scenes for the figures in the recipe."""
LESS = 0.3
"""Weight of patches that show nothing."""


def main() -> None:
    """One head for each built-in model's tower, and the recipe."""
    parser = argparse.ArgumentParser(description="Train the heads that name patches.")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--scenes", type=int, default=6000, help="training scenes to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "halu-training")
    asked = parser.parse_args()
    seen = corpus.load(asked.work, asked.scenes)
    peek = corpus.load(asked.work, LOOK, "test", 900_000)
    asked.out.mkdir(parents=True, exist_ok=True)
    named = {}
    for model in patches.SIDES:
        head = train(model, seen, asked.seed)
        weights = {key: value.contiguous() for key, value in head.state_dict().items()}
        save_file(weights, asked.out / f"{model}.safetensors", metadata={"format": "pt"})
        named[model] = round(measure(model, head, peek), 4)
    command = f"python -m halu.training.patches --out DIR --scenes {asked.scenes}"
    recipe = {"command": f"{command} --seed {asked.seed}", "object_patches_named": named}
    (asked.out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")


def train(model: str, seen: corpus.Corpus, seed: int) -> nn.Sequential:
    """A head for one tower."""
    torch.manual_seed(seed)
    head = patches.head()
    inputs, names = features(model, seen)
    weight = torch.ones(NOTHING + 1)
    weight[NOTHING] = LESS
    steps = ROUNDS * len(inputs) // BATCH
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(inputs), (BATCH,))
        loss = F.cross_entropy(head(inputs[index].float()), names[index], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.no_grad()
def measure(model: str, head: nn.Module, peek: corpus.Corpus) -> float:
    """The share of object patches of other scenes that are named rightly."""
    inputs, names = features(model, peek)
    here = names != NOTHING
    right: Tensor = head(inputs[here].float()).argmax(-1) == names[here]
    return float(right.float().mean())


@torch.no_grad()
def features(model: str, data: corpus.Corpus) -> tuple[Tensor, Tensor]:
    """Every patch of all pictures [N, 160] in half precision, and its name [N]."""
    side = patches.SIDES[model]
    _, look = patches.tower(model)
    seen = [
        look(torch.from_numpy(np.array(data.pixels[side][first : first + 64]))).half().flatten(0, 1)
        for first in range(0, len(data), 64)
    ]
    names = []
    for scene, owner in zip(data.scenes, data.owners[side], strict=True):
        own = [*(NAMES.index(thing.name) for thing in scene.things), NOTHING]
        names.append(torch.tensor(own)[torch.from_numpy(owner.astype(np.int64)).flatten()])
    return torch.cat(seen), torch.cat(names)


if __name__ == "__main__":
    main()
