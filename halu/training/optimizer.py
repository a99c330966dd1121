"""Muon for matrices, AdamW for everything else: about half the steps of AdamW alone on these
small models.

Written out because `torch.optim.Muon` orthogonalises in bfloat16, which a processor without
bfloat16 units emulates slowly.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from halu.training import team


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrix with singular values near one, by Newton-Schulz (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.size(0) > matrix.size(1)
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, scaled so that one learning rate suits it and AdamW."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.02
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # never a closure
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                speed = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(speed, group["momentum"]).flatten(1)
                scale = 0.2 * max(ahead.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(group["lr"] * scale * orthogonal(ahead).view_as(p))


class Both:
    """The two optimizers of a model behind one handle."""

    def __init__(self, modules: Mapping[str, nn.Module], lr: float) -> None:
        named = {
            p: f"{key}.{name}"
            for key, m in modules.items()
            for name, p in m.named_parameters()
            if p.requires_grad
        }
        matrices = [p for p, name in named.items() if p.ndim == 2 and not _is_table(name)]
        rest = [p for p in named if all(p is not m for m in matrices)]
        self.lr = lr
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
        ]
        if matrices:
            self.parts.append(Muon(matrices, lr=lr))
        self.params = list(named)

    def step(self, factor: float) -> None:
        """One update at `factor` times the learning rate, gradients averaged over the team,
        clipped to norm 1, then cleared.
        """
        team.average(self.params)
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """What a checkpoint keeps."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Continue from a checkpoint."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def _is_table(name: str) -> bool:
    """Embeddings and output layers are rows of words, not maps, and stay with AdamW."""
    return any(part in name for part in ("embed", "head", "positional"))


def schedule(step: int, steps: int, cool: float = 0.4) -> float:
    """Rise, stay, then fall in a line over the last `cool` of the run: a mixture may change while
    it stays.
    """
    fall = (steps - step) / max(1.0, cool * steps)
    warmup = min(50, 1 + steps // 10)
    return min(1.0, (step + 1) / warmup, max(fall, 0.02))
