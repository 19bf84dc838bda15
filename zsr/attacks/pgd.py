"""PGD: projected sign-gradient ascent in an l-infinity ball. Madry et al., ICLR 2018."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.losses import cross_entropy
from zsr.params import Count, PixelRange

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class PGD:
    """n_iter steps from one start, uniform in the ball or at the image."""

    eps: PixelRange  # in units of the pixel range [0, 1]
    step_size: PixelRange
    n_iter: Count
    random_start: bool
    precision: Literal["fp32", "bf16", "fp16"]  # of the gradient; fp16 autocast without loss scaling: quirk S2
    reduction: Literal["sum", "mean"]  # over the batch; under fp16 the mean underflows with the batch (quirk S2)
    clip_start: bool = True  # False: the first forward may see pixels outside [0, 1], as in FARE
    success: Literal["last", "any"] = "last"  # any: the latest iterate that is misclassified, the last where none is

    def __post_init__(self):
        if self.success == "any" and (not self.clip_start or self.precision != "fp32"):
            raise ValueError("success: any needs clip_start: true and precision: fp32, or no verdict confirms it")

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        """Adversarial images for a classifier of pixels: (B, 3, H, W) in [0, 1] -> the same shape, in the ball."""
        if self.success == "last":
            return self.maximise(lambda adv: cross_entropy(model(adv), labels), images, noise)
        found, hit = images.clone(), torch.zeros_like(labels, dtype=torch.bool)

        def objective(adv: Tensor) -> Tensor:
            logits = model(adv)
            wrong = (logits.argmax(dim=1) != labels) & logits.isfinite().all(dim=1)
            found[wrong], hit[wrong] = adv.detach()[wrong], True
            return cross_entropy(logits, labels)

        last = self.maximise(objective, images, noise)
        return torch.where(hit[:, None, None, None], found, last)

    def maximise(self, objective: Callable[[Tensor], Tensor], images: Tensor, noise: Noise) -> Tensor:
        """Images in the ball, and in [0, 1], that raise objective: (B, 3, H, W) -> (B,)."""
        lower, upper = (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        adv = images + self.eps * noise.uniform(images.shape[1:], "pgd").to(images) if self.random_start else images
        adv = adv.clamp(lower, upper) if self.clip_start else adv
        for _ in range(self.n_iter):
            adv = adv.detach().requires_grad_()
            adv = (adv.detach() + self.step_size * self.ascent(objective, adv).sign()).clamp(lower, upper)
        return adv

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """Gradient of the objective by the images alone, so that no parameter's .grad is touched (quirk S1)."""
        return torch.autograd.grad(self.reduced(objective, adv), adv)[0]

    def reduced(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """The scalar that is differentiated. Summed, images do not interact."""
        with torch.autocast(adv.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
            scores = objective(adv)
        return scores.sum() if self.reduction == "sum" else scores.mean()

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        start = "random start" if self.random_start else "start at the image"
        start += "" if self.clip_start else " not clipped to [0, 1]"
        return (
            f"PGD l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, {self.n_iter} iterations, "
            f"{start}, 1 restart, {self.success} iterate, {self.reduction} of cross-entropy over the batch, "
            f"gradient {self.precision}"
        )


ATTACK = PGD
