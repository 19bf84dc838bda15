"""APGD: PGD that needs no step size. Croce and Hein, ICML 2020, section 3."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zsr.attacks._apgd import Ascent
from zsr.attacks._cascade import cascade
from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, sketched
from zsr.attacks._suite import ascents, listed
from zsr.models.numerics import Precision, products
from zsr.params import Count, Positive


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Success at any visited point; images that are wrong by themselves are not attacked."""

    norm: Literal["linf", "l2"]
    eps: Positive  # in units of the pixel range [0, 1]
    loss: Literal["ce", "dlr", "dlr_targeted"]
    n_iter: Count
    n_restarts: Count
    n_targets: Count = 9  # of the targeted loss, one after the other
    early_drop: bool = True  # the verdicts are the same without; the reference goes on, and returns the last success
    precision: Precision = "fp32"  # of gradients

    def __post_init__(self):
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"eps must be at most 1 in l-inf, the range of pixels, got {self.eps:g}")

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        batch_size: of the model's passes, all images by default.
        """
        with products(images.device, self.precision):
            return cascade(sketched(model, self.precision), images, labels, noise, batch_size, self._rounds)

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """What is left of the attack for a set of so few classes."""
        return listed(self._rounds(n_classes))

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        eps = f"l-inf, eps {255 * self.eps:g}/255" if self.norm == "linf" else f"l2, eps {self.eps:g}"
        loss = {"ce": "cross-entropy", "dlr": "DLR", "dlr_targeted": f"DLR towards {self.n_targets} classes"}[self.loss]
        restarts = f"{self.n_restarts} restart{'s' if self.n_restarts > 1 else ''}"
        gradient = "" if self.precision == "fp32" else f", gradient {self.precision}"
        return f"APGD {eps}, {self.n_iter} iterations, {restarts}, any iterate, summed {loss}{gradient}"

    def _rounds(self, n_classes: int) -> list[Ascent]:
        settings = {"norm": self.norm, "eps": self.eps, "n_iter": self.n_iter, "early_drop": self.early_drop}
        return ascents(self.loss, n_classes, self.n_restarts, self.n_targets, **settings)


ATTACK = APGD
