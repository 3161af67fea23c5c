"""Muon (Jordan et al., 2024): momentum with all singular values set to about one, for weight matrices. Imports torch.

torch.optim.Muon is the same update with the orthogonalisation in bfloat16. Processors without bfloat16 instructions
emulate it so slowly that it would cost more than the model itself, so this one stays in float32. docs/LOG.md has what
it gains over AdamW.

The step is scaled by .2 sqrt(max(rows, columns)), so that its size matches AdamW's and one learning rate serves both
("Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2).
"""

import math
from collections.abc import Iterable

import torch

MOMENTUM = 0.95
WEIGHT_DECAY = 0.05
# Newton-Schulz coefficients and steps of the authors: they bring singular values into about .7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions; the rest belong to AdamW."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> None:
        """Take the matrices and the learning rate."""
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                update = orthogonalised(parameter.grad.lerp(momentum, MOMENTUM))
                parameter.mul_(1 - group["lr"] * WEIGHT_DECAY)
                parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(update.shape)))


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with its singular values brought near one, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.T if is_tall else x
    return result
