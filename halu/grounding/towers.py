"""Both towers over a batch of equal pictures, written for training: no per-picture loops, patches
cut by a reshape.

The weights live in transformers' own modules; a test holds these functions equal to the stock
forward.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLVisionBlock,
    apply_rotary_pos_emb_vision,
)


def normalized(images: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] to CLIP's normalised floats, same layout."""
    mean = torch.tensor(OPENAI_CLIP_MEAN, device=images.device) * 255
    deviation = torch.tensor(OPENAI_CLIP_STD, device=images.device) * 255
    return (images.float() - mean) / deviation


def cut(images: Tensor, patch: int) -> Tensor:
    """[B, S, S, 3] to [B, (S/patch)^2, 3 * patch * patch] in raster order, channels first inside
    a patch.
    """
    b, side = images.shape[:2]
    grid = side // patch
    x = images.view(b, grid, patch, grid, patch, 3).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, grid * grid, 3 * patch * patch)


def clip_patches(tower: CLIPVisionModel, images: Tensor) -> Tensor:
    """What LLaVA reads: the patches after the last layer but one, [B, 64, C]."""
    patch = tower.config.patch_size
    x = cut(normalized(images), patch) @ tower.embeddings.patch_embedding.weight.flatten(1).T
    first = tower.embeddings.class_embedding.expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + tower.embeddings.position_embedding.weight
    x = tower.pre_layrnorm(x)
    for layer in tower.encoder.layers[:-1]:
        x = layer(x, attention_mask=None)
    seen: Tensor = x[:, 1:]
    return seen


def window_order(grid: int, window: int) -> Tensor:
    """Raster patch index at each place of Qwen's order: windows, in them 2x2 groups, in them
    patches.
    """
    merged, wide = grid // 2, window // 2
    patch = torch.arange(grid * grid).view(merged // wide, wide, 2, merged // wide, wide, 2)
    return patch.permute(0, 3, 1, 4, 2, 5).reshape(-1)


def qwen_groups(visual: Qwen2_5_VisionTransformerPretrainedModel, images: Tensor) -> Tensor:
    """What Qwen's merger reads: [B, g*g/4, 4, C], the groups in raster order and in each the
    patches in raster order.
    """
    config = visual.config
    patch = int(config.patch_size)
    grid = images.shape[1] // patch
    window = min(config.window_size // patch, grid)
    order = window_order(grid, window).to(images.device)
    # A still picture is the same frame twice, so the two temporal slices of the kernel add up.
    kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)
    x: Tensor = cut(normalized(images), patch)[:, order] @ kernel.T
    cos, sin = visual.rotary_pos_emb(x, torch.stack([order // grid, order % grid], -1))
    for number, block in enumerate(visual.blocks):
        size = grid * grid if number in config.fullatt_block_indexes else window * window
        x = _block(block, x, cos, sin, size)
    group = order[::4] // grid // 2 * (grid // 2) + order[::4] % grid // 2
    return x.view(len(x), -1, 4, x.shape[-1])[:, torch.argsort(group)]


def qwen_patches(visual: Qwen2_5_VisionTransformerPretrainedModel, images: Tensor) -> Tensor:
    """The same, patch by patch in raster order: [B, g*g, C]."""
    groups = qwen_groups(visual, images)
    half = int(groups.shape[1] ** 0.5)
    return (
        groups.view(len(groups), half, half, 2, 2, -1)
        .transpose(2, 3)
        .reshape(len(groups), 4 * half * half, -1)
    )


def _block(block: Qwen2_5_VLVisionBlock, x: Tensor, cos: Tensor, sin: Tensor, size: int) -> Tensor:
    """One layer; attention inside runs of `size` consecutive patches."""
    b, n, width = x.shape
    heads = block.attn.num_heads
    qkv = block.attn.qkv(block.norm1(x)).view(b, n, 3, heads, -1)
    q, k = apply_rotary_pos_emb_vision(qkv[:, :, 0], qkv[:, :, 1], cos, sin)
    parts = [
        t.reshape(b * n // size, size, heads, -1).transpose(1, 2) for t in (q, k, qkv[:, :, 2])
    ]
    seen = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(b, n, width)
    x = x + block.attn.proj(seen)
    out: Tensor = x + block.mlp(block.norm2(x))
    return out
