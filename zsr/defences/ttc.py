"""TTC: a counterattack at test time. Xing et al., "CLIP is strong enough to fight back", CVPR 2025."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.defences._base import AS_IS, Condition, Defence, Tower
from zsr.params import IterationsOrNone, NonNegative, PixelRangeOrZero

GATE = "gate"  # the adaptive attack that also drives r up to tau, where only noise defends
GATE_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class TTC(Defence):
    """Moves an image away from its own features where noise moves the features less than usual ("false stability").

    Let r be the relative change of the image features by uniform noise. Where r < tau, sign-gradient steps increase the
    distance of the features from those of the given image, and the image moves by the mean of all iterates with weights
    softmax(beta k). Elsewhere the image keeps the noise alone, unless `stable` is none. The defaults are those of the
    paper for attacks of eps 1/255 on ViT-B/32; for a larger eps the paper takes other numbers of steps.

    Attributes:
        eps: the largest change of a pixel, in units of the pixel range [0, 1]; 0: the image stays as it is.
        step_size: size of every step, in the same units.
        n_iter: number of steps; 0: only noise.
        beta: how much the later iterates outweigh the earlier ones in the mean.
        tau: the threshold of r.
        stable: what an image with r >= tau gets: noise, as published (quirk C1), or none.
    """

    eps: PixelRangeOrZero = 4 / 255
    step_size: PixelRangeOrZero = 1 / 255
    n_iter: IterationsOrNone = 2
    beta: NonNegative = 2.0
    tau: NonNegative = 0.2
    stable: Literal["noise", "none"] = "noise"
    name: ClassVar[str] = "ttc"
    title: ClassVar[str] = "TTC"
    deterministic: ClassVar[bool] = False
    violates: ClassVar[tuple[Condition, ...]] = ("deterministic", "no_inner_loop")
    variants: ClassVar[tuple[str, ...]] = (AS_IS, GATE)
    needs_origin: ClassVar[bool] = True

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits of the moved images, (B, C). The move is a constant, as in the published code."""
        deltas, r = self.counterattack(model, images, noise, draw)
        weights = self.weights(r).to(images)[:, :, None, None, None]
        return model(images + (weights * deltas).sum(dim=1))

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits themselves: their gradient takes the move for a constant (BPDA)."""
        return self.logits(model, images, noise, draw)

    def adaptive(
        self, model: Tower, images: Tensor, noise: Noise, draw: int, variant: str
    ) -> tuple[Tensor, Tensor | None]:
        """As of `Defence`. GATE: with the term GATE_WEIGHT min(r - tau, 0), where r is differentiated."""
        if variant != GATE:
            return super().adaptive(model, images, noise, draw, variant)
        r = self.instability(model.origin, images, self._start(images, noise, draw))
        return self.surrogate(model, images, noise, draw), GATE_WEIGHT * (r - self.tau).clamp(max=0)

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """r, which must be smaller for attacked images than for clean ones if the gate is to choose the right ones."""
        return {"r": self.instability(model.origin, images, self._start(images, noise, draw))}

    @torch.no_grad()
    def counterattack(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> tuple[Tensor, Tensor]:
        """The moves of every image, the noise and the iterates after each step, (B, n_iter + 1, 3, H, W); and r, (B,).

        Where the tower is the original CLIP, r needs no pass besides those of the steps.
        """
        images = images.detach()
        deltas, features, first = [self._start(images, noise, draw)], model.image_features(images), None
        for _ in range(self.n_iter):
            moved_features, gradient = self._pass(model, images, deltas[-1], features)
            first = moved_features if first is None else first
            moved = (deltas[-1] + self.step_size * gradient.sign()).clamp(-self.eps, self.eps)
            deltas.append((images + moved).clamp(0, 1) - images)
        if first is None or model.origin is not model:
            return torch.stack(deltas, dim=1), self.instability(model.origin, images, deltas[0])
        return torch.stack(deltas, dim=1), _relative_change(features, first)

    def instability(self, origin: Tower, images: Tensor, delta: Tensor) -> Tensor:
        """r: the change of the original CLIP's features by a move of the pixels, relative to their norm, (B,)."""
        return _relative_change(origin.image_features(images), origin.image_features(images + delta))

    def weights(self, r: Tensor) -> Tensor:
        """The weights of the moves in the mean, (B,) -> (B, n_iter + 1)."""
        steps = torch.arange(self.n_iter + 1, device=r.device)
        unstable, stable = torch.softmax(self.beta * steps, dim=0), (steps == 0).float() * (self.stable == "noise")
        return torch.where((r < self.tau)[:, None], unstable, stable)

    def _start(self, images: Tensor, noise: Noise, draw: int) -> Tensor:
        images = images.detach()
        drawn = self.eps * noise.uniform(images.shape[1:], self.stream(draw)).to(images)
        return (images + drawn).clamp(0, 1) - images

    def _pass(self, model: Tower, images: Tensor, delta: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the moved images, and the gradient by delta of their squared distance from `features`."""
        with torch.enable_grad():
            leaf = delta.detach().requires_grad_()
            moved_features = model.image_features(images + leaf)
            distances = (moved_features - features).square().sum(dim=1)
            return moved_features.detach(), torch.autograd.grad(distances.sum(), leaf)[0]


def _relative_change(features: Tensor, moved: Tensor) -> Tensor:
    return (moved - features).norm(dim=1) / features.norm(dim=1)


DEFENCE = TTC
