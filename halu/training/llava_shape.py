"""tiny-llava before training: a CLIP tower, a projector and a Llama, in transformers' own
classes.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from halu.training import hub, tokens

SIDE, PATCH = 112, 14
GRID = SIDE // PATCH


def processor(bpe: Tokenizer) -> LlavaProcessor:
    """Shorter side to 112 pixels, centre crop, CLIP's mean and deviation, 64 image tokens."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    tokenizer = tokens.llava_tokenizer(bpe)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokens.LLAVA_TEMPLATE,
    )


def build(bpe: Tokenizer, seed: int) -> LlavaForConditionalGeneration:
    """Random weights. The tower's last layer is not read, as in LLaVA-1.5 (`vision_feature_layer`
    -2).
    """
    torch.manual_seed(seed)
    special = {name: bpe.get_vocab_size() + i for i, name in enumerate(tokens.LLAVA_SPECIAL)}
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=-(-(bpe.get_vocab_size() + len(tokens.QWEN_SPECIAL)) // 64) * 64,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=2048,
        bos_token_id=special["<s>"],
        eos_token_id=special["</s>"],
        pad_token_id=special["<pad>"],
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=special["<image>"],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    last = model.model.vision_tower.encoder.layers[-1]
    for part in (last.self_attn.out_proj, last.mlp.fc2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    return model


def save(model: LlavaForConditionalGeneration, bpe: Tokenizer, folder: Path) -> None:
    """The whole Hugging Face folder."""
    text = model.config.text_config
    hub.write(model, folder, hub.LLAVA_NAMES, eos=text.eos_token_id, pad=text.pad_token_id)
    processor(bpe).save_pretrained(folder)
