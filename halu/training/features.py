"""What a frozen tower sees, computed when a batch asks for it.

Computing all beforehand would only pay from the second round through the scenes on.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halu.training.corpus import Bytes


class Features:
    """A tower's output for each picture of an array, read like a tensor's rows."""

    def __init__(
        self, patches: Callable[[Tensor], Tensor], pixels: Bytes, device: torch.device
    ) -> None:
        self.patches = patches
        self.pixels = pixels
        self.device = device

    def __len__(self) -> int:
        return len(self.pixels)

    @torch.no_grad()
    def __getitem__(self, index: Sequence[int] | NDArray[np.int64]) -> Tensor:
        return self.patches(torch.from_numpy(np.array(self.pixels[index])).to(self.device))
