"""Pictures as image-text models take them: stretched to a square, normalised."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def stretched(image: Image.Image, side: int) -> Image.Image:
    """The whole picture as a square (bicubic), its proportions not kept."""
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def normalized(
    image: Image.Image, side: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The stretched picture as a batch [1, 3, side, side]."""
    levels = torch.from_numpy(np.array(stretched(image, side), dtype=np.float32) / 255)
    pixels = (levels - torch.tensor(mean)) / torch.tensor(std)
    return pixels.permute(2, 0, 1)[None]


def place() -> torch.device:
    """Where image-text models run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
