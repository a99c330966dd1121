"""Resumable runs: the last state of a stage in one file, replaced whole."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from halu.training import team
from halu.training.optimizer import Both


def keep(path: Path, step: int, parts: dict[str, nn.Module], optimizer: Both) -> None:
    """Write the state after `step` updates; only the leader does."""
    if not team.leads():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"step": step, "optimizer": optimizer.state_dict()}
    state["parts"] = {name: part.state_dict() for name, part in parts.items()}
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def resume(path: Path, parts: dict[str, nn.Module], optimizer: Both | None = None) -> int:
    """Load the state, if there is one; the number of updates already made."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
