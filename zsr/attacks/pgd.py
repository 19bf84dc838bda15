"""PGD: projected sign-gradient ascent in an l-infinity ball. Madry et al., ICLR 2018."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks._places import Places, wide
from zsr.losses import cross_entropy
from zsr.models.passes import HALF, Model, Precision, differentiate, filled, fooled, matmul_precision, with_gradients_in
from zsr.noise import Drawn, Noise
from zsr.params import Count, NonNegative, PixelRange


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of fixed size along the sign of a gradient, from one start.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        step_size: of every step, in the same units.
        n_iter: number of steps.
        random_start: begin at a random point of the ball; else at the image.
        precision: of the gradient. fp16: autocast without loss scaling, quirk S2.
        reduction: of the loss over the batch. Under fp16 the mean underflows with the batch, quirk S2.
        clip_start: False: the first forward may see pixels outside [0, 1], as in FARE.
        init_sigma: standard deviation of a Gaussian random start, cut at the ball; 0: the start is uniform.
        stream: of noise, so that two attacks draw different numbers.
    """

    eps: PixelRange
    step_size: PixelRange
    n_iter: Count
    random_start: bool
    precision: Precision
    reduction: Literal["sum", "mean"]
    clip_start: bool = True
    init_sigma: NonNegative = 0.0
    stream: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        if self.init_sigma and not self.random_start:
            raise ValueError(f"init_sigma: {self.init_sigma:g} needs random_start: true")

    def maximise(self, objective: Callable[[Tensor], Tensor], images: Tensor, noise: Noise | Drawn) -> Tensor:
        """The last point, in the ball and in [0, 1], of an ascent of objective: (B, 3, H, W) -> (B,)."""
        adv = self.start(images, noise)
        with matmul_precision(images.device, self.precision):
            for _ in range(self.n_iter):
                leaf = adv.detach().requires_grad_()
                adv = self.moved(adv, self.ascent(objective, leaf), images)
        return adv

    def start(self, images: Tensor, noise: Noise | Drawn) -> Tensor:
        """The points of the first forward."""
        if not self.random_start:
            return images
        adv = images + self._offset(noise.uniform(images.shape[1:], self.stream).to(images))
        return self._projected(adv, images) if self.clip_start else adv

    def _offset(self, uniform: Tensor) -> Tensor:
        """Where a random start lies, of numbers uniform on [-1, 1); a Gaussian's are those of the same rank."""
        if not self.init_sigma:
            return self.eps * uniform
        return (2**0.5 * self.init_sigma * torch.erfinv(uniform)).clamp(-self.eps, self.eps)

    def moved(self, adv: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The next points."""
        return self._projected(adv + self.step_size * gradient.sign(), images)

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """Gradient of the objective by the images alone, so that no parameter's .grad is touched (quirk S1)."""
        return torch.autograd.grad(self.reduced(objective, adv), adv)[0]

    def reduced(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """The scalar that is differentiated. Summed, images do not interact."""
        with torch.autocast(adv.device.type, HALF.get(self.precision), enabled=self.precision in HALF):
            scores = objective(adv)
        return scores.sum() if self.reduction == "sum" else scores.mean()

    def _projected(self, adv: Tensor, images: Tensor) -> Tensor:
        return adv.clamp((images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1))

    def facts(self) -> str:
        """What stands in a protocol."""
        start = "random start" if self.random_start else "start at the image"
        start = f"Gaussian start of {255 * self.init_sigma:g}/255" if self.init_sigma else start
        start += "" if self.clip_start else " not clipped to [0, 1]"
        return (
            f"l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, {self.n_iter} iterations, "
            f"{start}, 1 restart, gradient {self.precision}"
        )


@dataclass
class _Run:
    """What is known of R images."""

    rows: Tensor  # their places among all
    x: Tensor
    passes: Tensor
    over: Tensor


@dataclass(frozen=True, kw_only=True)
class SignAttack(Steps):
    """Steps as an attack, which raises `scores`.

    Attributes:
        success: last: an image counts as fooled at its last point alone. any: at any point, where the image then stays
            and costs no more.
        title: as the protocol names it.
    """

    success: Literal["last", "any"] = "last"
    title: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.success == "any" and (not self.clip_start or self.precision == "fp16" or self.reduction != "sum"):
            raise ValueError("success: any needs clip_start: true, reduction: sum and another precision than fp16")

    @property
    def loss(self) -> str:
        """What is raised, for the protocol."""
        raise NotImplementedError

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
            return self._until_fooled(model, images, labels, noise, batch_size)
        parts = [
            self.maximise(partial(self._score, model, labels[rows]), images[rows], noise.take(rows))
            for rows in filled(len(images), batch_size, images.device)
        ]
        return torch.cat(parts)[: len(images)]

    def _score(self, model: Model, labels: Tensor, images: Tensor) -> Tensor:
        return self.scores(model(images), labels)

    def _until_fooled(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None
    ) -> Tensor:
        """The first point at which the model is fooled, the last where it never is: (N, 3, H, W)."""
        adv, model = images.clone(), with_gradients_in(self.precision, model)

        def begin(rows: Tensor) -> _Run:
            start = self.start(images[rows], noise.take(rows))
            return _Run(rows, start, torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool))

        with matmul_precision(images.device, self.precision):
            places = Places(len(images), batch_size, images.device, begin)
            while places.occupied:
                run = places.state
                logits, _, gradient = differentiate(model, run.x, partial(self.scores, labels=labels[run.rows]))
                hit = fooled(logits, labels[run.rows])
                further = self.moved(run.x, gradient, images[run.rows])
                run.passes = run.passes + 1
                ends = ~run.over & (hit | (run.passes == self.n_iter))
                adv[run.rows[ends]] = torch.where(wide(hit), run.x, further)[ends]
                run.x, run.over = further, run.over | ends
                places.release(run.over)
        return adv

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""
        return f"{self.title} {self.facts()}, {self.success} iterate, {self.reduction} of {self.loss} over the batch"


@dataclass(frozen=True, kw_only=True)
class PGD(SignAttack):
    """PGD on the cross-entropy of the true class.

    Attributes:
        title: as the protocol names it.
        loss: what is raised, for the protocol.
    """

    title: ClassVar[str] = "PGD"
    loss: ClassVar[str] = "cross-entropy"

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(logits, labels)


ATTACK = PGD
