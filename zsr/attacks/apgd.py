"""APGD: PGD that adapts its step size. Croce and Hein, ICML 2020, section 3 and algorithm 1."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zsr.attacks.batch import Noise, Places, cascade, chosen, names_of, target_ranks, wide
from zsr.compute import Precision, matmul_precision
from zsr.models.passes import (
    Model,
    cross_entropy,
    differentiate,
    dlr,
    dlr_targeted,
    fooled,
    likeliest_wrong,
    margin,
    with_gradients_in,
)
from zsr.params import Checked, Iterations, PixelInterval, Positive, Rounds

RHO = 0.75  # the step is halved where the loss rose in fewer than this share of the iterations since the last check
MOMENTUM = 0.75  # share of the new step in a move; the rest is the previous move
TINY = 1e-12
NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "dlr_targeted": "apgd-t", "margin": "apgd-margin"}


# The two balls. Images are (B, 3, H, W) in [0, 1].


@dataclass(frozen=True)
class Linf:
    """The ball in the l-infinity norm.

    Attributes:
        eps: its radius, in units of the pixel range [0, 1].
    """

    eps: float

    def start(self, images: Tensor, noise: Noise, stream: str) -> Tensor:
        """Random points, each with one coordinate on the face of the ball."""
        draw = noise.uniform(images.shape[1:], stream).to(images)
        return (images + self.eps * (draw / (draw.abs().amax((1, 2, 3), keepdim=True) + TINY))).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """Of steepest ascent."""
        return gradient.sign()

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """The points nearest to x in both the ball around the images and [0, 1]."""
        return x.clamp(images - self.eps, images + self.eps).clamp(0, 1)


@dataclass(frozen=True)
class L2:
    """The ball in the l2 norm.

    Attributes:
        eps: its radius, in units of the pixel range [0, 1].
    """

    eps: float

    def start(self, images: Tensor, noise: Noise, stream: str) -> Tensor:
        """Random points on the sphere."""
        draw = noise.normal(images.shape[1:], stream).to(images)
        return (images + self.eps * self.direction(draw)).clamp(0, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        """Of steepest ascent."""
        return gradient / (_l2_norm(gradient) + TINY)

    def project(self, x: Tensor, images: Tensor) -> Tensor:
        """Scale x - images down to the ball, then clamp to [0, 1], which only shortens the perturbation."""
        delta = x - images
        length = _l2_norm(delta)
        return (images + delta / (length + TINY) * length.clamp(max=self.eps)).clamp(0, 1)


def _l2_norm(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).sqrt()


BALLS: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}


# The step size is halved where it no longer helps: section 3.3.


def periods(n_iter: int) -> dict[int, int]:
    """Iterations with a check of step sizes -> iterations since the previous check: {22: 22, 41: 19, ...}."""
    period, shortest, decrement = (max(int(share * n_iter), 1) for share in (0.22, 0.06, 0.03))
    period_after, end = {}, period
    while end <= n_iter:
        period_after[end] = period
        period = max(period - decrement, shortest)
        end += period
    return period_after


def due(n_iter: int, device: torch.device) -> Tensor:
    """For iterations 0 ... n_iter: the period of `periods` where a check is due, else 0, (n_iter + 1,)."""
    period_after = periods(n_iter)
    return torch.tensor([period_after.get(done, 0) for done in range(n_iter + 1)], device=device)


@dataclass
class Controller:
    """The step size of every image and the history that it depends on, each (B,).

    Attributes:
        step: the step size, in the units of the ball's radius.
        best: the largest loss so far.
        previous: the loss of the previous iterate.
        rises: number of rises of the loss since the last check.
        checked: the largest loss at the last check.
        halved: was the step size halved at the last check?
    """

    step: Tensor
    best: Tensor
    previous: Tensor
    rises: Tensor
    checked: Tensor
    halved: Tensor

    @classmethod
    def begin(cls, step: float | Tensor, loss: Tensor) -> "Controller":
        """The controller before the first step, from the loss at the start."""
        zero = torch.zeros_like(loss)
        # The first rise is counted from a loss of 0, not from the loss at the start: the authors' code reads an entry
        # that is not written yet.
        return cls(zero + step, loss, zero, zero.int(), loss, torch.ones_like(loss, dtype=torch.bool))

    def observe(self, loss: Tensor) -> Tensor:
        """Record the loss of an iterate, (B,). True where the loss is the largest so far."""
        better = loss > self.best
        self.rises = self.rises + (loss > self.previous)
        self.previous, self.best = loss, torch.where(better, loss, self.best)
        return better

    def check(self, period: Tensor) -> Tensor:
        """Halve step sizes by conditions 1 and 2 of the paper. True where halved.

        Condition 1: the loss rose too rarely since the last check. Condition 2: the step size was not halved at the
        last check, and the largest loss has not grown since. period: (B,), 0 where no check is due.
        """
        due, stuck = period > 0, ~self.halved & (self.checked >= self.best)
        cut = due & ((self.rises <= RHO * period) | stuck)
        self.halved = torch.where(due, cut, self.halved)
        self.step = torch.where(cut, self.step / 2, self.step)
        self.checked = torch.where(due, self.best, self.checked)
        self.rises = self.rises.masked_fill(due, 0)
        return cut


# The ascent: algorithm 1.


@dataclass
class Trajectory:
    """The state of the ascent for R images. Images and iterates are (R, 3, H, W) in [0, 1].

    Attributes:
        images: the centres of the balls.
        x: the iterate.
        before: the previous iterate.
        gradient: gradient of the loss at x, (R, 3, H, W).
        best: the iterate of largest loss.
        best_gradient: gradient of the loss at `best`, (R, 3, H, W).
        passes: number of passes of the model so far, (R,).
        control: the controller of the step sizes.
    """

    images: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    best: Tensor
    best_gradient: Tensor
    passes: Tensor
    control: Controller

    @classmethod
    def begin(cls, images: Tensor, x: Tensor, step: float) -> "Trajectory":
        """The state before the first pass."""
        passes = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(images, x, x, x, x, x, passes, Controller.begin(step, x.new_zeros(len(x))))

    def judge(self, loss: Tensor, gradient: Tensor, period: Tensor) -> None:
        """Record the loss (R,) and the gradient at x. Where a check halves the step size, x returns to `best`.

        period: iterations since the previous check, (R,), 0 where no check is due.
        """
        first = self.passes == 0
        better = wide(self.control.observe(loss) | first)
        self.control = chosen(first, Controller.begin(self.control.step, loss), self.control)
        self.best = torch.where(better, self.x, self.best)
        self.best_gradient = torch.where(better, gradient, self.best_gradient)
        halved = wide(self.control.check(period))
        self.x = torch.where(halved, self.best, self.x)  # `before` stays, as in the authors' code
        self.gradient = torch.where(halved, self.best_gradient, gradient)
        self.passes = self.passes + 1

    def move(self, ball: Linf | L2) -> None:
        """Step along the gradient, mix the step with the previous move, and project both."""
        share = wide(torch.where(self.passes == 1, 1.0, MOMENTUM))
        stepped = ball.project(self.x + wide(self.control.step) * ball.direction(self.gradient), self.images)
        mixed = self.x + (stepped - self.x) * share + (self.x - self.before) * (1 - share)
        self.x, self.before = ball.project(mixed, self.images), self.x


@dataclass
class _Run:
    """The state of R images."""

    rows: Tensor  # row numbers among all images
    classes: Tensor  # (R, 2): label and target
    over: Tensor
    path: Trajectory


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """One restart of APGD.

    Attributes:
        norm: norm of the ball, "linf" or "l2".
        eps: its radius, in units of the pixel range [0, 1].
        n_iter: iterations.
        loss: the objective: "ce", "dlr", "dlr_targeted" or "margin".
        early_drop: an image leaves the batch once the model is fooled.
        restart: number of the restart, from 0.
        rank: rank of the target class among the wrong classes, 1 is the likeliest; 0: the loss has no target.
        result: success, the iterate that fools the model, or loss, the iterate of largest loss, which is the result
            for a random model: an iterate may fool the model by luck.
    """

    norm: str
    eps: float
    n_iter: int
    loss: str
    early_drop: bool
    restart: int = 0
    rank: int = 0
    result: Literal["success", "loss"] = "success"

    @property
    def name(self) -> str:
        """The name that AutoAttack's authors use."""
        return NAMES[self.loss]

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """The last iterate that fools the model, or the first with early_drop; the clean image without a success.

        With the result `loss`, the iterate of largest loss.
        """
        ball, stream = BALLS[self.norm](self.eps), f"{self.name}/{self.rank}/{self.restart}"
        targets = likeliest_wrong(model, images, labels, self.rank, batch_size) if self.rank else labels
        classes, adv = torch.stack([labels, targets], dim=1), images.clone()
        checks = due(self.n_iter, images.device)

        def begin(rows: Tensor) -> _Run:
            start = ball.start(images[rows], noise.take(rows), stream)
            path = Trajectory.begin(images[rows], start, 2 * self.eps)
            return _Run(rows, classes[rows], torch.zeros_like(rows, dtype=torch.bool), path)

        places = Places(len(images), batch_size, images.device, begin)
        while places.occupied:
            run, path = places.state, places.state.path
            hit, loss, gradient = self._pass(model, path.x, run.classes)
            successes = hit & ~run.over
            adv[run.rows[successes]] = path.x[successes]
            path.judge(loss, gradient, checks[path.passes.clamp(max=self.n_iter)])
            if self.result == "loss":
                adv[run.rows[~run.over]] = path.best[~run.over]
            path.move(ball)
            run.over = run.over | (path.passes > self.n_iter) | (hit & self.early_drop)
            places.release(run.over)
        return adv

    def _pass(self, model: Model, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One pass at x: is the model fooled (R,), the loss (R,), and its gradient by x."""
        labels, targets = classes.unbind(1)
        losses = {
            "ce": lambda logits: cross_entropy(logits, labels),
            "dlr": lambda logits: dlr(logits, labels),
            "dlr_targeted": lambda logits: dlr_targeted(logits, labels, targets),
            "margin": lambda logits: -margin(logits, labels),
        }
        logits, loss, gradient = differentiate(model, x, losses[self.loss])
        return fooled(logits, labels), loss, gradient


def ascents(loss: str, n_classes: int, n_restarts: int, n_targets: int, **settings: Any) -> list[Ascent]:
    """APGD's rounds. Targeted DLR needs four classes and DLR three; for fewer classes the next simpler loss is used.

    settings: norm, eps, n_iter and early_drop of `Ascent`.
    """
    loss = "dlr" if loss == "dlr_targeted" and n_classes < 4 else loss
    loss = "ce" if loss == "dlr" and n_classes < 3 else loss
    ranks = target_ranks(n_classes, n_targets) if loss == "dlr_targeted" else [0]
    return [Ascent(loss=loss, rank=rank, restart=n, **settings) for rank in ranks for n in range(n_restarts)]


@dataclass(frozen=True, kw_only=True)
class APGD(Checked):
    """APGD. An image is a success where any iterate fools the model; misclassified clean images are not attacked.

    Attributes:
        norm: norm of the ball.
        eps: radius of the ball, in units of the pixel range [0, 1].
        loss: the objective: cross-entropy, DLR, or DLR towards one target class after another.
        n_iter: iterations of a restart.
        n_restarts: number of restarts, each from a different random start.
        n_targets: number of target classes of the targeted loss.
        early_drop: an image ends at its first success. Without early_drop the verdicts are the same; the reference
            implementation goes on and returns the last success.
        precision: precision of gradients.
    """

    norm: Literal["linf", "l2"] = "linf"
    eps: Positive
    loss: Literal["ce", "dlr", "dlr_targeted"] = "ce"
    n_iter: Iterations = 100
    n_restarts: Rounds = 1
    n_targets: Rounds = 9
    early_drop: bool = True
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf" and self.eps > 1:
            advice = PixelInterval(0, 1).advice(self.eps)
            raise ValueError(f"eps must be at most 1 in l-inf, the range of pixels, got {self.eps:g}{advice}")

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        noise: draws for these images; None: draws by the place of an image in the batch, with seed 0. batch_size:
        images in one pass of the model; None: all images.
        """
        with matmul_precision(images.device, self.precision):
            return cascade(with_gradients_in(self.precision, model), images, labels, noise, batch_size, self._rounds)

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """The rounds that run on a set of n_classes classes, as `names_of` writes them."""
        return names_of(self._rounds(n_classes))

    def protocol(self) -> str:
        """The attack's part of a protocol: the facts to report with every number."""
        eps = f"l-inf, eps {255 * self.eps:g}/255" if self.norm == "linf" else f"l2, eps {self.eps:g}"
        loss = {"ce": "cross-entropy", "dlr": "DLR", "dlr_targeted": f"DLR towards {self.n_targets} classes"}[self.loss]
        restarts = f"{self.n_restarts} restart{'s' if self.n_restarts > 1 else ''}"
        gradient = "" if self.precision == "fp32" else f", gradient {self.precision}"
        return f"APGD {eps}, {self.n_iter} iterations, {restarts}, any iterate, summed {loss}{gradient}"

    def _rounds(self, n_classes: int) -> list[Ascent]:
        settings = {"norm": self.norm, "eps": self.eps, "n_iter": self.n_iter, "early_drop": self.early_drop}
        return ascents(self.loss, n_classes, self.n_restarts, self.n_targets, **settings)


ATTACK = APGD
