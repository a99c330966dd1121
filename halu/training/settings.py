"""What one training run was asked for."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Run:
    """The same for every stage. `work` holds the drawn corpus and the checkpoints, `out` the
    model folder.
    """

    out: Path
    work: Path
    seed: int = 0
    scenes: int = 40_000
    tower_steps: int = 1500
    steps: int = 2000
    batch: int = 64
    compiled: bool = True

    @property
    def device(self) -> torch.device:
        """A GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
