"""Randomly initialised models of every supported family, with real processors and a small
tokenizer, no download.

The default sizes run in milliseconds; larger ones serve benchmarks, since speed does not depend on
the weights.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halu.adapters import Adapter
from halu.adapters import transformers as tf
from halu.adapters.loading import adapter_class
from halu.training import hub, tokens

WORDS = "Is there a dog in the image? Please describe it. yes no USER: ASSISTANT: red cat two of"


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a random model; `side` is the picture's side in pixels."""

    hidden: int = 64
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 128
    vocab: int = 512
    side: int = 56
    vision_hidden: int = 32
    vision_layers: int = 2


def save_random(folder: Path, size: Size | None = None, seed: int = 0) -> None:
    """A random LLaVA as a checkpoint in a folder, which every engine that reads the hub's loads."""
    adapter = random_adapter("llava", size, seed)
    model, tokenizer = adapter.model, adapter.tokenizer
    hub.write(model, folder, hub.LLAVA_NAMES, tokenizer.eos_token_id, tokenizer.pad_token_id)
    adapter.processor.save_pretrained(folder)


def random_adapter(family: str, size: Size | None = None, seed: int = 0) -> Adapter:
    """An adapter on a random model of a family (transformers' model type)."""
    torch.manual_seed(seed)
    model, processor = _BUILDERS[family](size or Size())
    with (
        torch.no_grad()
    ):  # small random weights leave attention flat; sharpen it so that tests can see it
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name or "qkv" in name:
                weight.mul_(4)
    return adapter_class(family)(f"random-{family}", model.eval(), processor)


def _bpe(size: Size) -> Any:
    return tokens.train_bpe([WORDS], size.vocab - 32)


def _text(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 4096,
    }


def _llava_parts(size: Size) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    tokenizer = tokens.llava_tokenizer(_bpe(size))
    vision = tf.CLIPVisionConfig(
        hidden_size=size.vision_hidden,
        intermediate_size=2 * size.vision_hidden,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=2,
        image_size=size.side,
        patch_size=14,
    )
    text = tf.LlamaConfig(
        **_text(size),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shared = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.image_token_id,
    }
    kwargs = {
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    return shared, tokenizer, {**kwargs, "chat_template": tokens.LLAVA_TEMPLATE}


def _square(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _llava(size: Size) -> tuple[Any, Any]:
    shared, tokenizer, kwargs = _llava_parts(size)
    model = tf.LlavaForConditionalGeneration(tf.LlavaConfig(**shared))
    images = tf.CLIPImageProcessorPil(**_square(size.side))
    return model, tf.LlavaProcessor(image_processor=images, tokenizer=tokenizer, **kwargs)


def _llava_next(size: Size) -> tuple[Any, Any]:
    shared, tokenizer, kwargs = _llava_parts(size)
    side = size.side
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    model = tf.LlavaNextForConditionalGeneration(
        tf.LlavaNextConfig(**shared, image_grid_pinpoints=pinpoints)
    )
    images = tf.LlavaNextImageProcessorPil(**_square(side), image_grid_pinpoints=pinpoints)
    return model, tf.LlavaNextProcessor(image_processor=images, tokenizer=tokenizer, **kwargs)


def _qwen(
    size: Size,
    config: Callable[..., Any],
    model: Callable[..., Any],
    processor: Callable[..., Any],
    vision: dict[str, Any],
) -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tokens.qwen_tokenizer(_bpe(size), Path(folder))
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("vision_start", "vision_end")
    }
    ids |= {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")
        for name in ("image", "video")
    }
    half = size.hidden // size.heads // 2
    section = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    text = _text(size) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": section,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    patch = vision["patch_size"]
    area = {"shortest_edge": 4 * patch * patch, "longest_edge": 4 * size.side * size.side}
    images = tf.Qwen2VLImageProcessorPil(size=area, patch_size=patch, merge_size=2)
    video = tf.Qwen2VLVideoProcessor(size=area, patch_size=patch)
    made = model(config(text_config=text, vision_config=vision, **ids))
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    return made, processor(images, tokenizer, video, chat_template=tokens.QWEN_TEMPLATE)


def _qwen2(size: Size) -> tuple[Any, Any]:
    vision = {
        "depth": size.vision_layers,
        "embed_dim": size.vision_hidden,
        "hidden_size": size.hidden,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    return _qwen(
        size, tf.Qwen2VLConfig, tf.Qwen2VLForConditionalGeneration, tf.Qwen2VLProcessor, vision
    )


def _qwen25(size: Size) -> tuple[Any, Any]:
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "out_hidden_size": size.hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_heads": 2,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    return _qwen(
        size,
        tf.Qwen2_5_VLConfig,
        tf.Qwen2_5_VLForConditionalGeneration,
        tf.Qwen2_5_VLProcessor,
        vision,
    )


def _qwen3(size: Size) -> tuple[Any, Any]:
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "out_hidden_size": size.hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "num_heads": 2,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return _qwen(
        size, tf.Qwen3VLConfig, tf.Qwen3VLForConditionalGeneration, tf.Qwen3VLProcessor, vision
    )


_BUILDERS: dict[str, Callable[[Size], tuple[Any, Any]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen25,
    "qwen3_vl": _qwen3,
}
FAMILIES = tuple(_BUILDERS)
