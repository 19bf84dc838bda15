"""Muon, as `torch.optim.Muon`, but in the parameters' precision: bf16 is slow on a CPU without units for it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for weight matrices (Jordan et al., 2024)."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step on all matrices that have a gradient."""
        assert closure is None, "the training loop computes gradients before the step"
        for group in self.param_groups:
            sides: dict[int, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    sides.setdefault(min(p.shape), []).append(p)
            for matrices in sides.values():
                updates = orthogonal([self._momentum(p, group["momentum"]) for p in matrices])
                for p, update in zip(matrices, updates):
                    rows, columns = p.shape
                    rate = group["lr"] * max(1, rows / columns) ** 0.5
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _momentum(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's momentum of the gradient."""
        state: dict[str, Any] = self.state[p]
        assert p.grad is not None
        average = state.setdefault("momentum_buffer", torch.zeros_like(p))
        average.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)


def orthogonal(matrices: list[Tensor]) -> list[Tensor]:
    """Nearly orthogonal matrices with the directions of the given ones: singular values about 1.

    A step of the iteration multiplies a wide matrix x by the polynomial p = a + b g + c g^2 of g = x x^T. Then g
    becomes p g p, so all steps need the small square matrices alone, and x is multiplied once.

    Args:
        matrices: matrices of any shapes with the same smaller side. They are iterated together.
    """
    a, b, c = NEWTON_SCHULZ
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
    wide = [x / x.norm().clamp(min=1e-7) for x in wide]
    gram = torch.stack([x @ x.mT for x in wide])
    unit = a * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.baddbmm(unit + b * gram, gram, gram, alpha=c)
    polynomial = factor
    for _ in range(ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = torch.baddbmm(unit + b * gram, gram, gram, alpha=c)
        factor = polynomial @ factor
    products = [f @ x for f, x in zip(factor, wide)]
    return [y if y.shape == matrix.shape else y.mT for y, matrix in zip(products, matrices)]
