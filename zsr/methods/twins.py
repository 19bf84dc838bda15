"""TWINS: a frozen and an adaptive wing share their convolutions, each sees half a batch. Liu et al., CVPR 2023.

A wing is a way to compute the BatchNorm layers of the tower. The adaptive wing is the tower's normal BatchNorm. The
frozen wing normalises by constants, the running statistics of the tower at the start of training; it has a second scale
and shift, which are trained. In the paper the tower at the start is adversarially pre-trained. Attack and inference use
the adaptive wing in eval mode.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr.compute import HALF
from zsr.data.prepared import Split
from zsr.methods._base import Batch, Method
from zsr.models.batchnorm import NORMS, Norm
from zsr.models.heads import PixelClassifier
from zsr.params import NonNegative, ParamError, StudyError, nested_component

Wing = Literal["adaptive", "frozen", "split"]  # split: the first half of a batch through the frozen wing, as published
Affine = Literal["separate", "shared"]  # separate: the frozen wing has a second scale and shift

# Names of the first and the second half of a batch -> the wing that computes that half
WINGS: dict[str, dict[str, Wing]] = {
    "both": {"frozen": "frozen", "adaptive": "adaptive"},
    "adaptive": {"first": "adaptive", "second": "adaptive"},
    "frozen": {"first": "frozen", "second": "frozen"},
}


TAKEN = ("needs_blocks", "needs_text", "non_class_template")  # attributes that are copied from the base


# Two normalisations over one set of convolutions


class DualBatchNorm2d(nn.Module):
    """A BatchNorm with a frozen twin, (B, C, H, W) -> (B, C, H, W). It computes in fp32 under autocast.

    norm: the BatchNorm, which becomes the adaptive wing as the same object. A copy of its running statistics becomes
    the constants of the frozen wing. `eval()` selects the adaptive wing.

    Attributes:
        adaptive: the given BatchNorm.
        num_features: C.
        wing: the wing that is computed; split: the first B // 2 of B images go to the frozen wing.
        frozen_mean: the mean that the frozen wing normalises by, a constant, (C,).
        frozen_var: the variance that the frozen wing normalises by, a constant, (C,).
        frozen_weight: the scale of the frozen wing, (C,); None: the frozen wing uses the scale of the adaptive wing.
        frozen_bias: the shift of the frozen wing, (C,); None: the frozen wing uses the shift of the adaptive wing.
    """

    wing: Wing
    frozen_mean: Tensor
    frozen_var: Tensor

    def __init__(self, norm: Norm, affine: Affine = "separate") -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        separate = affine == "separate" and norm.affine
        self.adaptive, self.num_features, self.wing = norm, norm.num_features, "adaptive"
        self.register_buffer("frozen_mean", norm.running_mean.clone())
        self.register_buffer("frozen_var", norm.running_var.clone())
        self.frozen_weight = _copy(norm.weight) if separate else None
        self.frozen_bias = _copy(norm.bias) if separate else None
        self.train(norm.training)

    def train(self, mode: bool = True) -> "DualBatchNorm2d":
        """As of `nn.Module`. Eval mode also selects the adaptive wing."""
        if not mode:
            self.wing = "adaptive"
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the selected wing, (B, C, H, W) -> (B, C, H, W)."""
        x = x.float() if x.dtype in HALF.values() else x
        if self.wing == "split":
            half = len(x) // 2
            return torch.cat([self._frozen(x[:half]), self.adaptive(x[half:])])
        return self._frozen(x) if self.wing == "frozen" else self.adaptive(x)

    def _frozen(self, x: Tensor) -> Tensor:
        weight, bias = self.frozen_weight, self.frozen_bias
        if self.frozen_weight is None:
            weight, bias = self.adaptive.weight, self.adaptive.bias
        return F.batch_norm(x, self.frozen_mean, self.frozen_var, weight, bias, eps=self.adaptive.eps)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def twinify(module: nn.Module, affine: Affine = "separate") -> None:
    """Give every BatchNorm2d and SyncBatchNorm inside a frozen twin, in place.

    Raises ParamError where no BatchNorm with running statistics is inside. LayerNorm has no statistics to freeze, so
    both wings would be equal.
    """
    if not _exchange(module, lambda child: DualBatchNorm2d(child, affine) if _has_statistics(child) else None):
        raise ParamError(
            f"TWINS needs a tower with BatchNorm, such as RN50; {type(module).__name__} has none to freeze"
        )


def export_plain(module: nn.Module) -> None:
    """Undo `twinify` in place: only the adaptive wing stays, with the modules and state-dict names from before."""
    _exchange(module, lambda child: child.adaptive if isinstance(child, DualBatchNorm2d) else None)


def set_wing(module: nn.Module, wing: Wing) -> None:
    """Select the wing of every layer inside, until the next `set_wing` or `eval()`.

    Raises StudyError where the module has no layer with wings.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, DualBatchNorm2d)]
    if not layers:
        raise StudyError(f"{type(module).__name__} has no wings yet; call twinify, or the method's prepare, first")
    for layer in layers:
        layer.wing = wing


@contextmanager
def flying(module: nn.Module, wing: Wing) -> Iterator[None]:
    """Select a wing inside the context, and the adaptive wing afterwards."""
    set_wing(module, wing)
    try:
        yield
    finally:
        set_wing(module, "adaptive")


def _has_statistics(module: nn.Module) -> TypeGuard[Norm]:
    return isinstance(module, NORMS) and module.running_mean is not None


def _exchange(module: nn.Module, substitute: Callable[[nn.Module], nn.Module | None]) -> int:
    """Replace inner modules by `substitute(child)` where it is not None; returns their number. Wings stay whole."""
    exchanged = 0
    for name, child in list(module.named_children()):
        replacement = substitute(child)
        if replacement is not None:
            setattr(module, name, replacement)
        exchanged += replacement is not None
        if replacement is None and not isinstance(child, DualBatchNorm2d):
            exchanged += _exchange(child, substitute)
    return exchanged


# The method


@dataclass(frozen=True, kw_only=True)
class Twins(Method):
    """lambda_frozen times the base's loss on the first half of a batch, plus the base's loss on the second half.

    Liu et al., CVPR 2023. The base is another method. Of B images the first half has B // 2; a single image goes to
    both halves. The controls `adaptive` and `frozen` have no second scale and shift, whatever `affine` says.

    Attributes:
        needs_norm: True, since without BatchNorm both wings would be equal.
        base: a method with its params, such as {module: tecoa}.
        lambda_frozen: weight of the first half, at least 0.
        wings: the wings of the two halves. both: as published. adaptive, frozen: controls, one wing for both halves.
        affine: separate, as published: the frozen wing has a second scale and shift. shared: both wings have the same.
        split: half, as published. full: both wings see the whole batch, at twice the cost.
        normalise: divide the loss by 1 + lambda_frozen, so that its scale is the scale of the base's loss.
    """

    needs_norm: ClassVar[bool] = True
    base: dict[str, Any]
    lambda_frozen: NonNegative
    wings: Literal["both", "adaptive", "frozen"] = "both"
    affine: Affine = "separate"
    split: Literal["half", "full"] = "half"
    normalise: bool = False

    def __post_init__(self) -> None:
        try:
            loss = self._loss
        except ParamError as error:
            raise ValueError(error) from None
        if isinstance(loss, Twins) or loss.in_batch or not loss.attacked:
            raise ValueError(f"base.module must train on attacked images one by one, got '{self.base['module']}'")
        if loss.norm_stats != self.norm_stats:
            raise ValueError(f"norm_stats must be base.norm_stats, {loss.norm_stats}, got {self.norm_stats}")
        for name in TAKEN:
            object.__setattr__(self, name, getattr(loss, name))

    @cached_property
    def _loss(self) -> Method:
        return nested_component(self.base, "methods", "base")

    def prepare(self, visual: nn.Module) -> None:
        """Give every BatchNorm of the tower a frozen twin."""
        twinify(visual, self.affine if self.wings == "both" else "shared")

    def finish(self, visual: nn.Module) -> None:
        """Keep the adaptive wing only."""
        export_plain(visual)

    def refusal(self) -> str:
        """The refusal of the base."""
        return self._loss.refusal()

    def descriptions_of(self, source: Split, text_embeddings: Tensor, embed: Callable[..., Tensor]) -> Tensor | None:
        """The descriptions of the base."""
        return self._loss.descriptions_of(source, text_embeddings, embed)

    def anchors(self, frozen: PixelClassifier, batch: Batch) -> Tensor | None:
        """The anchors of the base."""
        return self._loss.anchors(frozen, batch)

    def fold(self, term: str) -> Literal["mean", "sum", "whole"]:
        """The fold of the base's term. A term is named after the half, then after the base's term."""
        return self._loss.fold(term.partition("_")[2])

    def inner_objective(self, model: PixelClassifier, batch: Batch) -> Callable[[Tensor], Tensor]:
        """The inner objective of the base, on the adaptive wing."""
        return self._loss.inner_objective(model, batch)

    def losses(
        self, model: PixelClassifier, frozen: PixelClassifier, batch: Batch, adv: Tensor | None
    ) -> dict[str, Tensor]:
        """The terms of the base on each half, each with its weight, named after the wing or the half."""
        assert adv is not None
        images, terms = len(batch.images), dict[str, Tensor]()
        halves = (slice(max(1, images // 2)), slice(images // 2, None)) if self.split == "half" else 2 * [slice(None)]
        weights = [weight / (1 + self.lambda_frozen * self.normalise) for weight in (self.lambda_frozen, 1.0)]
        for (name, wing), rows, weight in zip(WINGS[self.wings].items(), halves, weights):
            with flying(model.visual, wing):
                wing_terms = self._loss.losses(model, frozen, batch.rows(rows), adv[rows])
            terms |= {f"{name}_{term}": weight * value for term, value in wing_terms.items()}
        return terms


METHOD = Twins
