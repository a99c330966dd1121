"""Starts tiny-qwen from tiny-llava: the language model as it is, the tower in Qwen's terms.

A CLIP layer becomes a Qwen layer without loss but for the activation: LayerNorm equals RMSNorm once
every writer to the residual stream is centred and its bias moved into the next layer, and GELU is
close to a SwiGLU whose second factor is constant. What has no place in Qwen (the norm before the
first layer, learnt positions, the class token) is lost, and rotary positions are new, so that the
tower must be trained on; it needs a fifth of the pictures.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

# GELU(x) is about x * sigmoid(1.702 x), so SiLU(1.702 x) / 1.702.
SLOPE = 1.702


@torch.no_grad()
def inherit(model: Qwen2_5_VLForConditionalGeneration, folder: Path, patches: Tensor) -> None:
    """Take over all that fits; `patches` [n, 588] are samples that set the first layer's scale."""
    parent = LlavaForConditionalGeneration.from_pretrained(folder)
    _language(model, parent)
    _tower(model.model.visual, parent.model.vision_tower, patches)


def _language(
    model: Qwen2_5_VLForConditionalGeneration, parent: LlavaForConditionalGeneration
) -> None:
    text = model.model.language_model
    weights = parent.model.language_model.state_dict()
    missing, unexpected = text.load_state_dict(weights, strict=False)
    if unexpected or any(not name.endswith("proj.bias") for name in missing):
        raise ValueError(f"not tiny-qwen's shape: {[*missing, *unexpected][:5]}")
    # Qwen's extra attention biases.
    for name, weight in text.named_parameters():
        if name in missing:
            weight.zero_()
    model.lm_head.load_state_dict(parent.lm_head.state_dict())


def _tower(
    visual: Qwen2_5_VisionTransformerPretrainedModel, tower: CLIPVisionModel, patches: Tensor
) -> None:
    width = tower.config.hidden_size
    centre = torch.eye(width) - 1 / width
    first, embeddings = tower.pre_layrnorm, tower.embeddings
    kernel = centre @ embeddings.patch_embedding.weight.flatten(1)
    places = embeddings.position_embedding.weight[1:] @ centre
    scale = (
        (patches @ kernel.T + places[torch.randint(len(places), (len(patches),))]).std(-1).mean()
    )
    start = centre @ (first.weight[:, None] * kernel) / scale
    shape = visual.patch_embed.proj.weight[:, :, 0].shape
    visual.patch_embed.proj.weight.copy_(start.view(shape)[:, :, None] / 2)
    constant = centre @ (first.bias + first.weight * places.mean(0) / scale)
    for number, (block, layer) in enumerate(zip(visual.blocks, tower.encoder.layers, strict=False)):
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([part.weight for part in parts])
        block.norm1.weight.copy_(layer.layer_norm1.weight)
        block.attn.qkv.weight.copy_(weight)
        bias = torch.cat([part.bias for part in parts])
        block.attn.qkv.bias.copy_(bias + weight @ layer.layer_norm1.bias)
        block.attn.proj.weight.copy_(centre @ attention.out_proj.weight)
        block.attn.proj.bias.copy_(centre @ attention.out_proj.bias + constant * (number == 0))
        block.norm2.weight.copy_(layer.layer_norm2.weight)
        block.mlp.gate_proj.weight.copy_(SLOPE * mlp.fc1.weight)
        block.mlp.gate_proj.bias.copy_(
            SLOPE * (mlp.fc1.bias + mlp.fc1.weight @ layer.layer_norm2.bias)
        )
        block.mlp.up_proj.weight.zero_()
        block.mlp.up_proj.bias.fill_(1 / SLOPE)
        block.mlp.down_proj.weight.copy_(centre @ mlp.fc2.weight)
        block.mlp.down_proj.bias.copy_(centre @ mlp.fc2.bias)
