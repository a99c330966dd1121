"""Back from an image processor's output to a picture."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor


def unnormalised(pixels: Tensor, image_processor: Any) -> Image.Image:
    """The 8-bit RGB picture behind normalised pixels [3, height, width]."""
    mean = torch.tensor(image_processor.image_mean)[:, None, None]
    std = torch.tensor(image_processor.image_std)[:, None, None]
    values = ((pixels.float().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
