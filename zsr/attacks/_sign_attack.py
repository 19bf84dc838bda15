"""Ascent by signs as an attack: its last point, or the first that fools the model."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model
from zsr.attacks._places import filled
from zsr.attacks._steps import Steps
from zsr.attacks._until_fooled import until_fooled


@dataclass(frozen=True, kw_only=True)
class SignAttack(Steps):
    """last: success at the last point. any: at any, where an image then stays and costs no more."""

    success: Literal["last", "any"] = "last"
    title: ClassVar[str]
    loss: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        if self.success == "any" and (not self.clip_start or self.precision == "fp16" or self.reduction != "sum"):
            raise ValueError("success: any needs clip_start: true, reduction: sum and another precision than fp16")

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is raised, (B, C), (B,) -> (B,)."""
        raise NotImplementedError

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        batch_size: of the model's passes, all images by default.
        """
        if self.success == "any":
            return until_fooled(self, self.scores, model, images, labels, noise, batch_size)
        parts = [
            self.maximise(partial(self._score, model, labels[rows]), images[rows], noise.take(rows))
            for rows in filled(len(images), batch_size, images.device)
        ]
        return torch.cat(parts)[: len(images)]

    def _score(self, model: Model, labels: Tensor, images: Tensor) -> Tensor:
        return self.scores(model(images), labels)

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        return f"{self.title} {self.facts()}, {self.success} iterate, {self.reduction} of {self.loss} over the batch"
