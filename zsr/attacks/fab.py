"""FAB towards one class at a time, in l-infinity. Croce and Hein, ICML 2020."""

from dataclasses import dataclass

from torch import Tensor

from zsr.attacks._cascade import cascade
from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model
from zsr.attacks._suite import boundaries, listed
from zsr.params import Count, PixelRange


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Success where a point nearer than eps is found; images that are wrong by themselves are not attacked."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    n_iter: Count
    n_targets: Count = 9
    early_drop: bool = True  # the verdicts are the same without; the nearest point found is then returned

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        batch_size: of the model's passes, all images by default.
        """
        return cascade(model, images, labels, noise, batch_size, self._rounds)

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """What is left of the attack for a set of so few classes."""
        return listed(self._rounds(n_classes))

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        return (
            f"FAB l-inf, eps {255 * self.eps:g}/255, {self.n_iter} iterations towards each of {self.n_targets} "
            "likeliest wrong classes, start at the image, 1 restart, any iterate"
        )

    def _rounds(self, n_classes: int):
        return boundaries(n_classes, self.n_targets, eps=self.eps, n_iter=self.n_iter, early_drop=self.early_drop)


ATTACK = FAB
