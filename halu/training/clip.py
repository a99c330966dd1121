"""Trains tiny-clip: `python -m halu.training.clip --out DIR --start TINY_LLAVA_DIR`.

Half of a batch is crops of single objects, half whole scenes. A crop must find its name among all
names, a scene all the names it shows, and scenes and their honest captions must find each other.
`--start` begins with tiny-llava's trained tower.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from halu.grounding.towers import normalized
from halu.scenes import NAMES, Scene
from halu.scenes.grammar import one
from halu.scenes.language import describe
from halu.training import checkpoint, clip_shape, corpus, llava, settings, team
from halu.training.curve import Curve
from halu.training.optimizer import Both, schedule
from halu.training.tower_stage import batches

FORMS = ("a photo of {}", "a picture of {}", "{}", "an image with {}")
CAPTIONED = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture, what it shows among NAMES, and a caption where it is a whole scene."""

    image: corpus.Bytes
    shows: frozenset[str]
    colored: str
    caption: str | None


def crop(image: corpus.Bytes, scene: Scene, rng: random.Random) -> Sample:
    """One object with some of its surroundings."""
    thing = rng.choice(scene.things)
    side, scale = image.shape[0], image.shape[0] / corpus.size_of(scene.seed)
    x0, y0, x1, y1 = (edge * scale for edge in thing.box)
    half = max(x1 - x0, y1 - y0) * rng.uniform(0.5, 0.8)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    box = (max(0, x - half), max(0, y - half), min(side, x + half), min(side, y + half))
    size = (corpus.SMALL, corpus.SMALL)
    cut = Image.fromarray(np.asarray(image)).resize(size, Image.Resampling.BICUBIC, box=box)
    return Sample(np.asarray(cut), frozenset([thing.name]), one(thing.name, thing.color), None)


def whole(image: corpus.Bytes, scene: Scene, rng: random.Random) -> Sample:
    """A scene with an honest caption."""
    thing = rng.choice(scene.things)
    return Sample(image, scene.names, one(thing.name, thing.color), describe(scene, rng))


def samples(data: corpus.Corpus, index: np.ndarray, rng: random.Random) -> list[Sample]:
    """Crops from the first half of a batch, whole scenes from the second."""
    half = len(index) // 2
    crops = [crop(data.pixels[corpus.MIDDLE][i], data.scenes[i], rng) for i in index[:half]]
    return crops + [whole(data.pixels[corpus.SMALL][i], data.scenes[i], rng) for i in index[half:]]


def encode(model: open_clip.CLIP, words: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Unit vectors of texts."""
    ids = words(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=clip_shape.LENGTH,
        return_tensors="pt",
    )
    ids_here = ids["input_ids"].to(model.logit_scale.device)
    vectors: Tensor = model.encode_text(ids_here, normalize=True)
    return vectors


def loss(
    model: open_clip.CLIP, words: PreTrainedTokenizerFast, batch: list[Sample], rng: random.Random
) -> tuple[Tensor, float]:
    """Names for every picture, coloured phrases for crops, captions for scenes; and the share of
    crops named rightly.
    """
    device = model.logit_scale.device
    pixels = torch.from_numpy(np.stack([sample.image for sample in batch])).to(device)
    images = model.encode_image(normalized(pixels).permute(0, 3, 1, 2), normalize=True)
    form = rng.choice(FORMS)
    crops = [i for i, sample in enumerate(batch) if sample.caption is None]
    scenes = [i for i, sample in enumerate(batch) if sample.caption is not None][:CAPTIONED]
    phrases = [form.format(batch[i].colored) for i in crops]
    captions = [batch[i].caption or "" for i in scenes]
    texts = encode(model, words, [form.format(one(name)) for name in NAMES] + phrases + captions)
    named, colored, told = texts.split([len(NAMES), len(phrases), len(captions)])
    scale = model.logit_scale.exp().clamp(max=100)
    shows = torch.tensor(
        [[float(name in sample.shows) for name in NAMES] for sample in batch], device=device
    )
    scores = scale * images @ named.T
    naming = F.cross_entropy(scores, shows / shows.sum(-1, keepdim=True))
    right = (scores[crops].argmax(-1) == shows[crops].argmax(-1)).float().mean().item()
    same = torch.tensor([[float(a == b) for b in phrases] for a in phrases], device=device)
    coloring = F.cross_entropy(scale * images[crops] @ colored.T, same / same.sum(-1, keepdim=True))
    pairs, own = scale * images[scenes] @ told.T, torch.arange(len(scenes), device=device)
    telling = F.cross_entropy(pairs, own) + F.cross_entropy(pairs.T, own)
    return naming + coloring + 0.5 * telling, right


@torch.no_grad()
def measure(
    model: open_clip.CLIP, words: PreTrainedTokenizerFast, peek: corpus.Corpus
) -> dict[str, float]:
    """On unseen scenes: crops named rightly; a present name scored above an absent one; captions
    found among 32.
    """
    rng = random.Random(0)
    batch = samples(peek, np.arange(256), rng)
    pixels = torch.from_numpy(np.stack([sample.image for sample in batch])).to(
        model.logit_scale.device
    )
    images = model.encode_image(normalized(pixels).permute(0, 3, 1, 2), normalize=True)
    named = encode(model, words, [FORMS[0].format(one(name)) for name in NAMES])
    scores = images @ named.T
    shows = torch.tensor(
        [[name in sample.shows for name in NAMES] for sample in batch], device=scores.device
    )
    right = shows[:128].gather(1, scores[:128].argmax(-1, keepdim=True)).float().mean().item()
    above = [
        (row[here][:, None] > row[~here]).float().mean().item()
        for row, here in zip(scores[128:], shows[128:], strict=True)
    ]
    told = encode(model, words, [sample.caption or "" for sample in batch[128:160]])
    found = (images[128:160] @ told.T).argmax(-1).cpu() == torch.arange(32)
    return {
        "crops": right,
        "ranking": float(np.mean(above)),
        "captions": found.float().mean().item(),
    }


def train(run: settings.Run, start: Path | None) -> open_clip.CLIP:
    """One stage, then the folder."""
    seen, peek = llava.drawn(run)
    bpe = llava.vocabulary(peek.scenes, run.seed)
    words = clip_shape.tokenizer(bpe)
    model = clip_shape.build(bpe, run.seed)
    if start is not None:
        clip_shape.inherit(
            model, LlavaForConditionalGeneration.from_pretrained(start).model.vision_tower
        )
    model.to(run.device).train()
    curve = Curve(run.out / "learning_curve.csv")
    optimizer, path = Both({"clip": model}, lr=1e-3), run.work / "tiny-clip.pt"
    done = checkpoint.resume(path, {"model": model}, optimizer)
    for step, index in enumerate(batches(len(seen), run.batch, run.steps, run.seed + 2)):
        if step < done:
            continue
        rng = random.Random(f"{run.seed} {step}")
        value, right = loss(model, words, samples(seen, index, rng), rng)
        value.backward()
        optimizer.step(schedule(step, run.steps))
        if step % 20 == 0:
            curve.add(
                "clip", step, step * run.batch * team.size(), loss=value.item(), train_crops=right
            )
        if (step + 1) % 150 == 0 or step + 1 == run.steps:
            checkpoint.keep(path, step + 1, {"model": model}, optimizer)
            curve.add("clip", step, step * run.batch * team.size(), **measure(model, words, peek))
    if team.leads():
        clip_shape.save(model.eval(), bpe, run.out)
        curve.draw(run.out / "learning_curve.png")
    return model


if __name__ == "__main__":
    from halu.training.command import main

    main("tiny-clip")
