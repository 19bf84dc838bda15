"""One perturbation for all images, made on one model and shown to another: do the models share non-robust features?"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zsr.models.clip import Classifier
from zsr.models.linear import PlainClassifier
from zsr.params import BatchSize, PixelRange, Rounds


@dataclass(frozen=True, kw_only=True)
class UniversalAttack:
    """Sign steps over batches in an l-infinity ball. The start is random signs times the size of one step.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        step_size: size of every step, in the same units.
        epochs: number of passes over the images.
        batch_size: number of images per step.
    """

    eps: PixelRange
    step_size: PixelRange
    epochs: Rounds
    batch_size: BatchSize

    def perturbation(self, model: Classifier | PlainClassifier, images: Tensor, seed: int) -> Tensor:
        """The delta, (3, H, W), that moves the model's features of images (N, 3, H, W) furthest in the mean square.

        The features are `model.image_features` of images + delta, cut to [0, 1]; no label is used. The model runs in
        eval mode and then returns to its previous mode.
        """
        training = model.training
        model.eval()
        generator = torch.Generator().manual_seed(seed)
        delta = min(self.step_size, self.eps) * _signs(images[0], generator)
        parts = [torch.randperm(len(images), generator=generator).split(self.batch_size) for _ in range(self.epochs)]
        for rows in (rows for epoch in parts for rows in epoch):
            batch = images[rows.to(images.device)]
            delta = (delta + self.step_size * _slope(model.image_features, batch, delta)).clamp(-self.eps, self.eps)
        model.train(training)
        return delta


def random_signs(delta: Tensor, seed: int) -> Tensor:
    """The control: a perturbation with the same size at every pixel, hence in every norm, and with random signs."""
    return delta.abs() * _signs(delta, torch.Generator().manual_seed(seed))


@torch.no_grad()
def damage(
    model: Classifier | PlainClassifier, images: Tensor, labels: Tensor, delta: Tensor, batch_size: int = 100
) -> dict[str, float]:
    """The effect of a perturbation on a model: images (N, 3, H, W), labels (N,).

    clean, perturbed: accuracy without and with the perturbation; drop: the difference of the two; fooled: share of
    images whose predicted class changes, right or wrong. The model runs in eval mode and then returns to its previous
    mode.
    """
    training = model.training
    model.eval()
    before, after = (
        torch.cat([model((part + by).clamp(0, 1)).argmax(dim=1) for part in images.split(batch_size)])
        for by in (torch.zeros_like(delta), delta)
    )
    model.train(training)
    clean, perturbed = ((predicted == labels).float().mean().item() for predicted in (before, after))
    fooled = (before != after).float().mean().item()
    return {"clean": clean, "perturbed": perturbed, "drop": clean - perturbed, "fooled": fooled}


def _slope(features: Callable[[Tensor], Tensor], images: Tensor, delta: Tensor) -> Tensor:
    """Signs of the gradient with respect to delta. The objective is the mean square of the shift of the features."""
    with torch.no_grad():
        held = features(images)
    leaf = delta.clone().requires_grad_()
    moved = (features((images + leaf).clamp(0, 1)) - held).square().mean(dim=1).sum()
    return torch.autograd.grad(moved, leaf)[0].sign()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2.0 * torch.randint(2, like.shape, generator=generator) - 1).to(like)
