"""Trains tiny-qwen: `python -m halu.training.qwen --out DIR --start TINY_LLAVA_DIR`.

With `--start`, as the shipped model, it begins with what tiny-llava has learnt (`qwen_start`):
words, grammar and looking-up are the same, and only the tower's new shape, the merger and M-RoPE
have to be learnt. Without `--start` it learns all from nothing, in about three times the steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from halu.grounding import towers
from halu.training import (
    corpus,
    dialect,
    language,
    llava,
    matching,
    qwen_shape,
    qwen_start,
    settings,
    team,
    tokens,
    tower_stage,
    words,
)
from halu.training.curve import Curve
from halu.training.features import Features
from halu.training.lesson import Lesson


def tower_job(model: Qwen2_5_VLForConditionalGeneration) -> tower_stage.TowerJob:
    """Its window-attention tower as stage (a) wants it."""
    visual = model.model.visual
    patches = functools.partial(towers.qwen_patches, visual)
    return tower_stage.TowerJob(
        "tiny-qwen", visual, patches, qwen_shape.SIDE, visual.config.hidden_size
    )


def positions(start: int, slots: int, length: int) -> Tensor:
    """M-RoPE's three rows for one picture at `start`: before it all equal, in it row and column,
    after it all equal again.
    """
    side = int(slots**0.5)
    cells = torch.arange(slots)
    image = start + torch.stack([torch.zeros_like(cells), cells // side, cells % side])
    after = start + side + torch.arange(length - start - slots)
    return torch.cat([torch.arange(start).expand(3, -1), image, after.expand(3, -1)], 1)


def merged(model: Qwen2_5_VLForConditionalGeneration) -> Callable[[Tensor], Tensor]:
    """The merger over a batch of grouped patches: [B, n, 4, C] to [B, n, D]."""
    merger = model.model.visual.merger

    def bridge(groups: Tensor) -> Tensor:
        out: Tensor = merger(groups.reshape(-1, groups.shape[-1]))
        return out.view(*groups.shape[:2], -1)

    return bridge


def hidden(
    model: Qwen2_5_VLForConditionalGeneration, start: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Last hidden states from tower features and ids whose image tokens begin at `start`."""
    text, bridge = model.model.language_model, merged(model)

    def forward(features: Tensor, ids: Tensor) -> Tensor:
        image = bridge(features)
        after = start + image.shape[1]
        embeds = torch.cat(
            [text.embed_tokens(ids[:, :start]), image, text.embed_tokens(ids[:, after:])], 1
        )
        places = positions(start, image.shape[1], ids.shape[1]).to(ids.device)
        where = places[:, None].expand(-1, len(ids), -1)
        states: Tensor = text(
            inputs_embeds=embeds, position_ids=where, use_cache=False
        ).last_hidden_state
        return states

    return forward


def speaker(model: Qwen2_5_VLForConditionalGeneration, spoken: dialect.Dialect) -> language.Speaker:
    """Merger and language model as stage (c) wants them."""
    modules = {
        "bridge": model.model.visual.merger,
        "text": model.model.language_model,
        "head": model.lm_head,
    }
    pad = model.config.text_config.pad_token_id
    return language.Speaker(
        "tiny-qwen", modules, hidden(model, spoken.opening()[1]), model.lm_head, spoken, pad
    )


def vocabulary(peek: corpus.Corpus, run: settings.Run) -> Tokenizer:
    """tiny-llava's vocabulary, rebuilt from the same scenes."""
    return llava.vocabulary(peek.scenes, run.seed)


def train(
    run: settings.Run, lesson: Lesson, start: Path | None
) -> Qwen2_5_VLForConditionalGeneration:
    """All three stages, then the folder."""
    seen, peek = llava.drawn(run)
    bpe = vocabulary(peek, run)
    model = qwen_shape.build(bpe, run.seed).to(run.device)
    if start is not None:
        sample = torch.from_numpy(np.array(peek.pixels[qwen_shape.SIDE][:32]))
        patches = towers.cut(towers.normalized(sample), qwen_shape.PATCH).flatten(0, 1)
        qwen_start.inherit(model, start, patches)
    curve = Curve(run.out / "learning_curve.csv")
    job = tower_job(model)
    if start is not None:
        job = dataclasses.replace(job, lr=1e-3)
    tower_stage.train(job, seen, peek, run, curve)
    side, visual = qwen_shape.SIDE, model.model.visual
    groups = functools.partial(towers.qwen_groups, visual)
    features = Features(groups, seen.pixels[side], run.device)
    few = corpus.first(peek, llava.GLANCE)
    shown = Features(groups, few.pixels[side], run.device)
    spoken = dialect.qwen(tokens.qwen_tokenizer(bpe, run.work / "tiny-qwen-tokenizer"))
    vectors = words.name_vectors(spoken, model.model.language_model.embed_tokens)
    if not language.begun(run, "tiny-qwen"):
        words.train(
            visual.merger, merged(model), features, seen, side, vectors, 2, run, curve, steps=150
        )
    if start is None:
        matching.match(model.model.language_model.layers, 2, run.seed)
    language.train(speaker(model, spoken), features, seen, (shown, few), lesson, run, curve)
    if team.leads():
        qwen_shape.save(model.eval(), bpe, run.out)
        curve.draw(run.out / "learning_curve.png")
    return model


if __name__ == "__main__":
    from halu.training.command import main

    main("tiny-qwen")
