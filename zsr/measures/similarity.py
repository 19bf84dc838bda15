"""Similarity of the features of two models on the same images: linear CKA and mean CCA, layer by layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zsr.models.clip import Classifier
from zsr.models.linear import PlainClassifier
from zsr.params import StudyError

KEPT = 0.98  # share of the sum of correlations that the kept correlations reach
RANK = 1e-10  # singular values below this share of the largest count as zero


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Centred kernel alignment of features (N, P) and (N, Q) of the same images, in [0, 1].

    ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred features, Frobenius norms. Kornblith et al., ICML 2019, eq. 5. Rotation,
    shift and scale of features do not change the value. Raises StudyError: the numbers of images differ; features do
    not vary.
    """
    x, y = _centred(x, y)
    return ((y.T @ x).norm().square() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def mean_cca(x: Tensor, y: Tensor) -> float:
    """Mean of the leading canonical correlations of features (N, P) and (N, Q), N > max(P, Q), in [0, 1].

    The first correlations whose sum reaches 98 % of the sum of all are kept. Raghu et al., NeurIPS 2017. Invertible
    affine maps of features do not change the value. Raises StudyError as `linear_cka`, and for too few images.
    """
    x, y = _centred(x, y)
    if len(x) <= max(x.shape[1], y.shape[1]):
        raise StudyError(f"CCA of {x.shape[1]} and {y.shape[1]} features needs more images than that, got {len(x)}")
    rho = torch.linalg.svdvals(_directions(x).T @ _directions(y)).clamp(max=1)
    reached = (rho.cumsum(0) < KEPT * rho.sum()).sum().item() + 1
    return rho[:reached].mean().item()


def stages(tower: nn.Module) -> dict[str, nn.Module]:
    """The layers that are compared: residual blocks of a ViT; stages layer1, layer2, ... of any ResNet.

    Raises StudyError where a tower has neither blocks nor stages.
    """
    if hasattr(tower, "transformer"):
        transformer: Any = tower.transformer
        return {f"block{i + 1}": block for i, block in enumerate(transformer.resblocks)}
    layers = {name: child for name, child in tower.named_children() if name.startswith("layer")}
    if not layers:
        raise StudyError(f"{type(tower).__name__} has no residual blocks and no stages layer1, layer2, ... to compare")
    return layers


@torch.no_grad()
def layer_features(model: Classifier | PlainClassifier, images: Tensor, batch_size: int = 100) -> dict[str, Tensor]:
    """The output of every stage of model.visual, averaged over places or tokens, (N, width); and "features", (N, D).

    The model runs in eval mode and then returns to its previous mode.
    """
    outputs: dict[str, list[Tensor]] = {}
    forward = getattr(model, "tokens", model)  # with CLS pooling the forward to the logits skips most of the last block
    training = model.training
    hooks = [
        stage.register_forward_hook(partial(_keep, outputs.setdefault(name, [])))
        for name, stage in stages(model.visual).items()
    ]
    try:
        model.eval()
        for part in images.split(batch_size):
            forward(part)
    finally:
        for hook in hooks:
            hook.remove()
    outputs["features"] = [model.image_features(part) for part in images.split(batch_size)]
    model.train(training)
    return {name: torch.cat(rows) for name, rows in outputs.items()}


def compare(measure: Callable[[Tensor, Tensor], float], first: dict[str, Tensor], second: dict[str, Tensor]) -> dict:
    """The measure for every layer that both results of `layer_features` have."""
    return {name: measure(features, second[name]) for name, features in first.items() if name in second}


def _keep(rows: list[Tensor], stage: nn.Module, inputs: tuple, output: Tensor) -> None:
    rows.append(output.mean(dim=(2, 3)) if output.ndim == 4 else output.mean(dim=1))


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) != len(y):
        raise StudyError(f"features of {len(x)} and of {len(y)} images cannot be compared")
    x, y = (z.double() - z.double().mean(dim=0) for z in (x, y))
    for z in (x, y):
        if not z.square().sum() > 0:
            raise StudyError("features that are the same for every image cannot be compared")
    return x, y


def _directions(x: Tensor) -> Tensor:
    """An orthonormal basis of the columns of centred features, (N, rank)."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, s > RANK * s[0]]
