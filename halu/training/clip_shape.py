"""tiny-clip before training: an open_clip model of tiny-llava's tower shape with a small text
tower.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, processors
from torch import Tensor
from transformers import CLIPVisionModel, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from halu.training.llava_shape import PATCH, SIDE

# The end of a text must have the highest id: open_clip reads the text at its largest token.
SPECIAL = ("<pad>", "<s>", "</s>")
LENGTH = 48


def configuration(bpe: Tokenizer) -> dict[str, Any]:
    """open_clip's model_cfg."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": 4,
            "width": 160,
            "head_width": 32,
            "patch_size": PATCH,
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": bpe.get_vocab_size() + len(SPECIAL),
            "hf_tokenizer_name": "tiny-clip",
            "width": 128,
            "heads": 4,
            "layers": 3,
            "pad_id": bpe.get_vocab_size(),
        },
    }


def tokenizer(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """The built-in models' vocabulary between a start and an end."""
    made = Tokenizer.from_str(bpe.to_str())
    made.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    ends = [(token, made.token_to_id(token)) for token in SPECIAL[1:]]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build(bpe: Tokenizer, seed: int) -> open_clip.CLIP:
    """Random weights."""
    torch.manual_seed(seed)
    return open_clip.CLIP(**configuration(bpe))


@torch.no_grad()
def inherit(model: open_clip.CLIP, tower: CLIPVisionModel) -> None:
    """Take over tiny-llava's tower, which already names patches; its unread last layer stays
    behind.
    """
    visual = model.visual
    visual.conv1.weight.copy_(tower.embeddings.patch_embedding.weight)
    visual.class_embedding.copy_(tower.embeddings.class_embedding)
    visual.positional_embedding.copy_(tower.embeddings.position_embedding.weight)
    visual.ln_pre.load_state_dict(tower.pre_layrnorm.state_dict())
    for block, layer in zip(visual.transformer.resblocks, tower.encoder.layers, strict=False):
        parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        block.attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        block.attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        block.attn.out_proj.load_state_dict(layer.self_attn.out_proj.state_dict())
        block.ln_1.load_state_dict(layer.layer_norm1.state_dict())
        block.ln_2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.c_fc.load_state_dict(layer.mlp.fc1.state_dict())
        block.mlp.c_proj.load_state_dict(layer.mlp.fc2.state_dict())


def save(model: open_clip.CLIP, bpe: Tokenizer, folder: Path) -> None:
    """A folder for `open_clip.create_model_and_transforms("local-dir:FOLDER")` and
    `open_clip.get_tokenizer` of the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": list(OPENAI_CLIP_MEAN),
        "std": list(OPENAI_CLIP_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    text = json.dumps({"model_cfg": configuration(bpe), "preprocess_cfg": preprocess}, indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n")
    weights: dict[str, Tensor] = {
        k: v.detach().cpu().float().contiguous().clone() for k, v in model.state_dict().items()
    }
    path = folder / "open_clip_model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)
    tokenizer(bpe).save_pretrained(folder)
