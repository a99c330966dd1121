"""Trains tiny-llava: `python -m halu.training.llava --out DIR`."""

import functools
import random
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from halu.grounding import towers
from halu.scenes import Scene
from halu.training import (
    corpus,
    dialect,
    language,
    llava_shape,
    matching,
    packing,
    settings,
    team,
    tokens,
    tower_stage,
    words,
)
from halu.training.curve import Curve
from halu.training.features import Features
from halu.training.lesson import Lesson

HELD_OUT = 1000
GLANCE = 320


def drawn(run: settings.Run) -> tuple[corpus.Corpus, corpus.Corpus]:
    """This worker's training scenes, and the held-out ones; the leader draws them where they are
    missing.
    """
    if team.leads():
        corpus.load(run.work, run.scenes)
        corpus.load(run.work, HELD_OUT, "val")
    team.wait()
    return team.share(corpus.load(run.work, run.scenes)), corpus.load(run.work, HELD_OUT, "val")


def vocabulary(scenes: list[Scene], seed: int) -> Tokenizer:
    """The byte-level vocabulary that all the built-in models share."""
    return tokens.train_bpe(packing.corpus_text(scenes, random.Random(seed)))


def tower_job(model: LlavaForConditionalGeneration) -> tower_stage.TowerJob:
    """Its CLIP tower as stage (a) wants it."""
    tower = model.model.vision_tower
    patches = functools.partial(towers.clip_patches, tower)
    return tower_stage.TowerJob(
        "tiny-llava", tower, patches, llava_shape.SIDE, tower.config.hidden_size
    )


def hidden(model: LlavaForConditionalGeneration, start: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Last hidden states from tower features and ids whose image tokens begin at `start`."""
    text, bridge = model.model.language_model, model.model.multi_modal_projector

    def forward(features: Tensor, ids: Tensor) -> Tensor:
        image = bridge(features)
        after = start + image.shape[1]
        embeds = torch.cat(
            [text.embed_tokens(ids[:, :start]), image, text.embed_tokens(ids[:, after:])], 1
        )
        states: Tensor = text(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return states

    return forward


def speaker(model: LlavaForConditionalGeneration, spoken: dialect.Dialect) -> language.Speaker:
    """Bridge and language model as stage (c) wants them."""
    modules = {
        "bridge": model.model.multi_modal_projector,
        "text": model.model.language_model,
        "head": model.lm_head,
    }
    start = spoken.opening()[1]
    return language.Speaker(
        "tiny-llava",
        modules,
        hidden(model, start),
        model.lm_head,
        spoken,
        model.config.text_config.pad_token_id,
    )


def continued(folder: Path, bpe: Tokenizer) -> LlavaForConditionalGeneration:
    """An earlier folder's model, if it was trained with this vocabulary."""
    if tokens.llava_tokenizer(bpe).get_vocab() != AutoTokenizer.from_pretrained(folder).get_vocab():
        raise ValueError(f"{folder} was trained with another vocabulary")
    return LlavaForConditionalGeneration.from_pretrained(folder)


def prepare(
    model: LlavaForConditionalGeneration,
    features: Features,
    seen: corpus.Corpus,
    spoken: dialect.Dialect,
    run: settings.Run,
    curve: Curve,
) -> None:
    """Stage (b), and attention heads that look for equals."""
    text, bridge = model.model.language_model, model.model.multi_modal_projector
    vectors = words.name_vectors(spoken, text.embed_tokens)
    words.train(bridge, bridge, features, seen, llava_shape.SIDE, vectors, 1, run, curve)
    matching.match(text.layers, 2, run.seed)


def train(
    run: settings.Run, lesson: Lesson, start: Path | None = None
) -> LlavaForConditionalGeneration:
    """All three stages, or only more of the last one from the folder `start`; then the folder."""
    seen, peek = drawn(run)
    bpe = vocabulary(peek.scenes, run.seed)
    curve = Curve(run.out / "learning_curve.csv")
    model = continued(start, bpe) if start else llava_shape.build(bpe, run.seed)
    job = tower_job(model.to(run.device))
    if start is None:
        tower_stage.train(job, seen, peek, run, curve)
    features = Features(job.patches, seen.pixels[job.side], run.device)
    shown = Features(job.patches, peek.pixels[job.side][:GLANCE], run.device)
    spoken = dialect.llava(tokens.llava_tokenizer(bpe))
    taught = speaker(model.train(), spoken)
    if start is None and not language.begun(run, taught.name):
        prepare(model, features, seen, spoken, run, curve)
    few = corpus.first(peek, GLANCE)
    language.train(taught, features, seen, (shown, few), lesson, run, curve)
    if team.leads():
        llava_shape.save(model.eval(), bpe, run.out)
        curve.draw(run.out / "learning_curve.png")
    return model


if __name__ == "__main__":
    from halu.training.command import main

    main("tiny-llava")
