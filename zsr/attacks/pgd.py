"""PGD: projected sign-gradient ascent in an l-infinity ball. Madry et al., ICLR 2018."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks.batch import Drawn, Noise, Places, by_place, wide
from zsr.compute import HALF, Precision, matmul_precision
from zsr.models.passes import Model, cross_entropy, differentiate, filled, fooled, with_gradients_in
from zsr.params import Checked, Iterations, NonNegative, PixelRange, build


@dataclass(frozen=True, kw_only=True)
class Steps(Checked):
    """Steps of fixed size along the sign of the gradient, from one start.

    Attributes:
        eps: radius of the ball, in units of the pixel range [0, 1].
        step_size: size of every step, in the same units.
        n_iter: number of steps.
        random_start: True: start at a random point of the ball. False: start at the image.
        precision: precision of the gradient. fp16: autocast without loss scaling, quirk S2.
        reduction: how the loss is reduced over the batch. Under fp16 the mean underflows for large batches, quirk S2.
        clip_start: False: the first forward may see pixels outside [0, 1], as in FARE.
        init_sigma: standard deviation of a Gaussian random start, clamped to the ball; 0: the start is uniform.
        stream: name of the attack's random numbers, so that two attacks draw different numbers.
    """

    eps: PixelRange
    step_size: PixelRange
    n_iter: Iterations
    random_start: bool
    precision: Precision
    reduction: Literal["sum", "mean"]
    clip_start: bool = True
    init_sigma: NonNegative = 0.0
    stream: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_sigma and not self.random_start:
            raise ValueError(f"init_sigma: {self.init_sigma:g} needs random_start: true")

    def maximise(self, objective: Callable[[Tensor], Tensor], images: Tensor, noise: Noise | Drawn) -> Tensor:
        """The last point of an ascent of the objective, in the ball and in [0, 1]. objective: (B, 3, H, W) -> (B,)."""
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
        """Offset of a random start, from uniform numbers on [-1, 1). A Gaussian offset has the same quantile."""
        if not self.init_sigma:
            return self.eps * uniform
        return (2**0.5 * self.init_sigma * torch.erfinv(uniform)).clamp(-self.eps, self.eps)

    def moved(self, adv: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        """The points after one step along the sign of the gradient."""
        return self._projected(adv + self.step_size * gradient.sign(), images)

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """Gradient of the objective by the images alone. The .grad of parameters does not change (quirk S1)."""
        return torch.autograd.grad(self.reduced(objective, adv), adv)[0]

    def reduced(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """The scalar to differentiate. With the reduction sum, images do not interact."""
        with torch.autocast(adv.device.type, HALF.get(self.precision), enabled=self.precision in HALF):
            scores = objective(adv)
        return scores.sum() if self.reduction == "sum" else scores.mean()

    def _projected(self, adv: Tensor, images: Tensor) -> Tensor:
        return adv.clamp((images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1))

    def facts(self) -> str:
        """The facts of the steps in a protocol."""
        start = "random start" if self.random_start else "start at the image"
        start = f"Gaussian start of {255 * self.init_sigma:g}/255" if self.init_sigma else start
        start += "" if self.clip_start else " not clipped to [0, 1]"
        return (
            f"l-inf, eps {255 * self.eps:g}/255, step {255 * self.step_size:g}/255, {self.n_iter} iterations, "
            f"{start}, 1 restart, gradient {self.precision}"
        )


@dataclass
class _Run:
    """The state of R images."""

    rows: Tensor  # row numbers among all images
    x: Tensor
    passes: Tensor
    over: Tensor


@dataclass(frozen=True, kw_only=True)
class SignAttack(Steps):
    """An attack of sign-gradient steps on the objective `scores`.

    Attributes:
        step_size: size of every step, in units of the pixel range [0, 1]; by default a quarter of eps.
        n_iter: number of steps.
        random_start: True: start at a random point of the ball. False: start at the image.
        precision: precision of the gradient.
        reduction: how the loss is reduced over the batch.
        success: last: only the last point of an image counts. any: any point that fools the model counts; the image
            stays at this point and costs no further pass.
        title: name of the attack in the protocol.
    """

    step_size: PixelRange = None  # type: ignore[assignment]
    n_iter: Iterations = 100
    random_start: bool = True
    precision: Precision = "fp32"
    reduction: Literal["sum", "mean"] = "sum"
    success: Literal["last", "any"] = "any"
    title: ClassVar[str]

    def __post_init__(self) -> None:
        if self.step_size is None:
            eps = build(PixelRange, self.eps, f"{type(self).__name__}.eps")
            object.__setattr__(self, "step_size", eps / 4)
        super().__post_init__()
        if self.success == "any" and (not self.clip_start or self.precision == "fp16" or self.reduction != "sum"):
            raise ValueError("success: any needs clip_start: true, reduction: sum and another precision than fp16")

    @property
    def loss(self) -> str:
        """Name of the objective in the protocol."""
        raise NotImplementedError

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The objective, logits (B, C) and labels (B,) -> (B,)."""
        raise NotImplementedError

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        noise: draws for these images; None: draws by the place of an image in the batch, with seed 0. batch_size:
        images in one pass of the model; None: all images.
        """
        noise = noise or by_place(images)
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
        """The first point that fools the model, else the last point: (N, 3, H, W)."""
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
        """The attack's part of a protocol: the facts to report with every number."""
        return f"{self.title} {self.facts()}, {self.success} iterate, {self.reduction} of {self.loss} over the batch"


@dataclass(frozen=True, kw_only=True)
class PGD(SignAttack):
    """PGD on the cross-entropy of the true class.

    Attributes:
        title: name of the attack in the protocol.
        loss: name of the objective in the protocol.
    """

    title: ClassVar[str] = "PGD"
    loss: ClassVar[str] = "cross-entropy"

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, (B, C), (B,) -> (B,)."""
        return cross_entropy(logits, labels)


ATTACK = PGD
