"""Is a model fit to be attacked? Small checks of the forward and the gradient; each check may leave a mark.

The checks follow those of AutoAttack (Croce and Hein, ICML 2020) and of Pintor et al., NeurIPS 2022. A check takes a
model, images (B, 3, H, W) in [0, 1] and labels (B,). A plain fp32 network in eval mode passes all checks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from zsr.evaluation.records import Mark
from zsr.models.passes import cross_entropy

Model = Callable[[Tensor], Tensor]  # images to logits
PROBE = 7.5 / 255  # a step that must have an effect on the logits; it ends between the values of 8-bit images
SMALL = 0.1 / 255  # a step that has no effect on a quantised input, and for which the gradient must be accurate
REPEATS = 3
SAME = 1e-5  # allowed difference of two forwards, as a share of the norm of the logits
MISMATCH = 0.25  # allowed median error of the effect that the gradient predicts for a small step, as a share
BATCH = 256  # number of images that the published loss averages over
ZEROS = 0.01  # share of a gradient that may vanish where the loss is divided


def inspect(model: Model, images: Tensor, labels: Tensor) -> tuple[Mark, ...]:
    """The marks of all checks."""
    results = (check(model, images, labels) for check in CHECKS)
    return tuple(mark for mark in results if mark is not None)


def check_training_mode(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Is a module in training mode? A plain function has no modules."""
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    training = [type(module).__name__ for module in modules if module.training]
    if training:
        return Mark("training_mode", f"{len(training)} modules are in training mode, {training[0]} for one")
    return None


def check_random(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Do logits of the same images differ between forwards by more than SAME of their norm?"""
    first = _logits(model, images)
    moved = max(((_logits(model, images) - first).norm() / first.norm()).item() for _ in range(REPEATS))
    if moved > SAME:
        return Mark("random_forward", f"logits of the same images differ by {moved:.1g} of their norm between forwards")
    return None


def check_probabilities(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Are the outputs probabilities instead of logits?"""
    if _are_probabilities(_logits(model, images)):
        return Mark("probabilities", "outputs are in [0, 1] and sum to 1: a softmax, not logits")
    return None


def check_cosines(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Are the outputs plain cosines, no larger than 1, without a logit scale?"""
    logits = _logits(model, images)
    if logits.abs().max() <= 1 + 1e-6 and not _are_probabilities(logits):
        return Mark("plain_cosines", f"no logit is above {logits.abs().max():.2f} in size: a logit scale is missing")
    return None


def check_finite(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Are logits not finite: for the images, for images with noise, or after a step along the gradient?"""
    places = {"as it is": images, "with noise": _moved(images, PROBE)}
    gradient = _gradient(model, images, labels, cross_entropy)
    if gradient is not None:
        places["a step along its gradient"] = (images + PROBE * gradient.sign()).clamp(0, 1)
    for place, moved in places.items():
        broken = int((~_logits(model, moved).isfinite().all(dim=1)).sum())
        if broken:
            return Mark("not_finite", f"{broken} of {len(images)} images {place} have logits that are not finite")
    return None


def check_detached(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Is the gradient of the pixels missing?"""
    if _gradient(model, images, labels, _lead) is None:
        return Mark("detached_gradient", "no gradient flows from the logits to the pixels")
    return None


def check_zero_gradient(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Is the gradient of an image zero at every pixel?"""
    gradient = _gradient(model, images, labels, _lead)
    zero = 0 if gradient is None else int(_all_zero(gradient).sum())
    if zero:
        return Mark("zero_gradient", f"{zero} of {len(images)} images have a gradient of zero at every pixel")
    return None


def check_saturated(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Is the cross-entropy of an image flat, because the softmax is exactly 0 and 1?"""
    logits = _logits(model, images).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)
    zero = int(_all_zero(gradient).sum())
    if zero:
        lead = _lead(logits.detach(), labels).max()
        return Mark(
            "saturated",
            f"cross-entropy is flat at {zero} of {len(images)} images, where softmax is exactly 0 and 1: "
            f"the true class leads by up to {lead:.0f}, a logit scale too large",
        )
    return None


def check_quantised(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Do the logits of most images ignore a small step but not a larger step? Then the input is quantised."""
    here = _logits(model, images)
    still = (_logits(model, _moved(images, SMALL)) == here).all(dim=1)
    feels = (_logits(model, _moved(images, PROBE)) != here).any(dim=1)
    flat = int((still & feels).sum())
    if 2 * flat > len(images):
        size = f"{255 * SMALL:g}/255"
        return Mark("quantised_input", f"a step of {size} changes no logit of {flat} of {len(images)} images")
    return None


def check_gradient(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Do the logits move by a different amount than the gradient predicts?"""
    gradient = _gradient(model, images, labels, _lead)
    if gradient is None:
        return None
    inside = (images >= SMALL) & (images <= 1 - SMALL)  # a model need not be smooth beyond black and white
    step = SMALL * gradient.sign() * inside
    predicted = 2 * (gradient * step).flatten(1).sum(dim=1)
    measured = _lead(_logits(model, images + step), labels) - _lead(_logits(model, images - step), labels)
    off = (measured / predicted - 1).abs()[predicted > 0]
    if len(off) and off.median() > MISMATCH:
        return Mark(
            "gradient_mismatch", f"half of the images move by {off.median():.0%} more or less than the gradient says"
        )
    return None


def check_inner_gradient(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Does the forward take gradients itself?"""
    used = []

    def noted(tensor: Any) -> Any:
        used.append(1)
        return tensor

    with saved_tensors_hooks(lambda x: x, noted):  # a backward pass unpacks the tensors that it reads
        _logits(model, images)
    if used:
        return Mark("inner_gradient", "the forward takes gradients itself: its output is the end of an optimisation")
    return None


def check_underflow(model: Model, images: Tensor, labels: Tensor) -> Mark | None:
    """Do pixels lose their gradient where the loss is a mean over BATCH images?"""
    summed, mean = (
        _gradient(model, images, labels, lambda logits, targets, n=n: cross_entropy(logits, targets) / n)
        for n in (1, BATCH)
    )
    if summed is None or mean is None:
        return None
    lost = (mean == 0) & (summed != 0)
    share = lost.float().mean().item()
    if share > ZEROS:
        whole = int((_all_zero(mean) & ~_all_zero(summed)).sum())
        lost_part = f"{share:.0%} of all pixels and {whole} of {len(images)} whole images"
        return Mark("underflow", f"{lost_part} lose their gradient where the loss is a mean over {BATCH}")
    return None


CHECKS = (
    check_training_mode,
    check_random,
    check_probabilities,
    check_cosines,
    check_finite,
    check_detached,
    check_zero_gradient,
    check_saturated,
    check_quantised,
    check_gradient,
    check_inner_gradient,
    check_underflow,
)


@torch.no_grad()
def _logits(model: Model, images: Tensor) -> Tensor:
    return model(images).float()


def _gradient(model: Model, images: Tensor, labels: Tensor, score: Callable) -> Tensor | None:
    """The gradient of the sum of scores with respect to the pixels; None where no gradient flows."""
    images = images.detach().requires_grad_()
    scores = score(model(images).float(), labels).sum()
    if not scores.requires_grad:
        return None
    return torch.autograd.grad(scores, images, allow_unused=True)[0]


def _lead(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of the true class minus the best other logit. Unlike cross-entropy, no scale makes it flat."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.amax(dim=1)


def _moved(images: Tensor, size: float) -> Tensor:
    """The images with every pixel moved up or down by `size`, in the same direction at every call."""
    up = torch.randint(2, images.shape, generator=torch.Generator().manual_seed(0)).to(images)
    return (images + size * (2 * up - 1)).clamp(0, 1)


def _all_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(dim=1)


def _are_probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all() and (logits <= 1).all() and ((logits.sum(dim=1) - 1).abs() < 1e-3).all())
