"""What the embedded model is trained with: Muon for matrices, Adam for the rest, and a rate that rises and falls."""

from __future__ import annotations

from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is made orthogonal (Jordan et al. 2024): more progress per token than AdamW."""

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # of a block that is frozen or does not run yet
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(mean, group["momentum"]))
                p.mul_(1 - group["lr"] * 0.05)
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


# Amsel et al. 2025 (Polar Express), the first three steps for singular values from 0.001 on.
POLAR = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U V^T of a matrix U S V^T, roughly: three steps of a Newton-Schulz iteration."""
    x = matrix / (matrix.norm() * 1.01 + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for a, b, c in POLAR:
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    found: torch.Tensor = x.T if tall else x
    return found


def optimizers_of(model: Any, options: dict[str, Any]) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, Adam for embeddings, norms and the head."""
    blocks = {id(p) for p in model.get_decoder().layers.parameters() if p.dim() == 2}
    return [
        Muon([p for p in model.parameters() if id(p) in blocks], lr=options["matrix_rate"]),
        torch.optim.Adam(
            [p for p in model.parameters() if id(p) not in blocks], lr=options["learning_rate"], betas=(0.9, 0.95)
        ),
    ]


def rate(done: float, options: dict[str, Any]) -> float:
    """Share of the full learning rate when that share of the tokens is done: up, constant, linearly down at the end."""
    return float(min(1.0, 0.01 + done / options["warmup"], (1 - done) / options["decay"]))
