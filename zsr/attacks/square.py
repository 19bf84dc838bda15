"""Square attack: no gradient, so nothing that masks gradients defends from it. Andriushchenko et al., ECCV 2020."""

from dataclasses import dataclass

from torch import Tensor

from zsr.attacks._cascade import cascade
from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model
from zsr.attacks._square import Squares
from zsr.params import Count, PixelRange, Share


@dataclass(frozen=True, kw_only=True)
class Square:
    """Success at any query; images that are wrong by themselves are not attacked."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    n_queries: Count
    p_init: Share = 0.8  # share of the image that the first squares cover

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        batch_size: of the model's passes, all images by default.
        """
        run = Squares(eps=self.eps, n_queries=self.n_queries, p_init=self.p_init)
        return cascade(model, images, labels, noise, batch_size, lambda n_classes: [run])

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """The same for every number of classes."""
        return ("square",)

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        return (
            f"Square l-inf, eps {255 * self.eps:g}/255, {self.n_queries} queries, p {self.p_init:g}, 1 restart, "
            "any query, margin, no gradient"
        )


ATTACK = Square
