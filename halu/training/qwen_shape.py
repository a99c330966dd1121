"""tiny-qwen before training: Qwen2.5-VL's own classes with window attention, patch merger and
M-RoPE.

A picture is brought to 168x168: 12x12 patches, 2x2 windows of 6x6, 36 image tokens. At 112 pixels
a merged token would cover a sixteenth of the picture, too coarse for its small objects; at 224
the tower costs twice as much.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from halu.training import hub, tokens

SIDE, PATCH = 168, 14
GRID = SIDE // PATCH


def processor(bpe: Tokenizer, folder: Path) -> Qwen2_5_VLProcessor:
    """Qwen2-VL's image processor with both pixel limits at 168x168, and Qwen's tokenizer."""
    from transformers import Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        patch_size=PATCH,
        merge_size=2,
    )
    video = Qwen2VLVideoProcessor(
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}, patch_size=PATCH
    )
    tokenizer = tokens.qwen_tokenizer(bpe, folder)
    return Qwen2_5_VLProcessor(images, tokenizer, video, chat_template=tokens.QWEN_TEMPLATE)


def build(bpe: Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Random weights; the language model has tiny-llava's shape, so that it can start from its
    weights.
    """
    torch.manual_seed(seed)
    special = {name: bpe.get_vocab_size() + i for i, name in enumerate(tokens.QWEN_SPECIAL)}
    vision = {
        "depth": 4,
        "hidden_size": 160,
        "intermediate_size": 640,
        "num_heads": 5,
        "patch_size": PATCH,
        "window_size": 6 * PATCH,
        "fullatt_block_indexes": [1, 3],
        "out_hidden_size": 192,
    }
    text = {
        "vocab_size": -(-(bpe.get_vocab_size() + len(tokens.QWEN_SPECIAL)) // 64) * 64,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": special["<|im_end|>"],
        "pad_token_id": special["<|endoftext|>"],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def save(model: Qwen2_5_VLForConditionalGeneration, bpe: Tokenizer, folder: Path) -> None:
    """The whole Hugging Face folder."""
    text = model.config.text_config
    hub.write(model, folder, hub.QWEN_NAMES, eos=text.eos_token_id, pad=text.pad_token_id)
    processor(bpe, folder).save_pretrained(folder)
