"""Attention maps over patch tokens, and the distance between two of them at full image size."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from zsr.models.clip import Classifier
from zsr.models.heads import PixelClassifier

FLAT = 1e-6  # smallest divisor of min-max: a map with a smaller span stays flat (quirk G7)
Size = tuple[int, int]
NormAxis = Literal["tokens", "features", "none"]
Distance = Literal["l2", "rms", "l1", "cos"]


def similarity(tokens: Tensor, text: Tensor, norm_axis: NormAxis = "tokens") -> Tensor:
    """Products of patch tokens with the text embedding of the image's class: (B, 1+P, D), (B, D) -> (B, P).

    TGA-ZSR (Yu et al., NeurIPS 2024), eq. 5. norm_axis (quirk G5) says what has unit norm before the product. tokens:
    each channel over the 1+P tokens, CLS included, as in the published code. features: each token, so the product is
    a cosine. none: nothing is normalised.
    """
    axis = {"tokens": 1, "features": 2}.get(norm_axis)
    normed = tokens if axis is None else F.normalize(tokens, dim=axis)
    return torch.einsum("bpd,bd->bp", normed[:, 1:], text)


def min_max(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1], (B, P) -> (B, P). Gradients flow through the minimum and the maximum."""
    low, high = maps.amin(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)
    return (maps - low) / (high - low).clamp(min=FLAT)


def text_guided_attention(tokens: Tensor, text: Tensor) -> Tensor:
    """The published text-guided attention map, (B, 1+P, D), (B, D) -> (B, P) in [0, 1].

    A value says how much a patch agrees with the class prompt of its image. Min-max comes before resizing (quirk G6).
    """
    return min_max(similarity(tokens, text))


def resize(maps: Tensor, grid: Size, image_size: Size) -> Tensor:
    """Resize maps to the image (bilinear): (B, rows * columns) -> (B, H * W)."""
    return F.interpolate(maps.unflatten(1, (1, *grid)), image_size, mode="bilinear", align_corners=False).flatten(1)


def map_distance(maps: Tensor, others: Tensor, grid: Size, image_size: Size, distance: Distance = "l2") -> Tensor:
    """Distance of two maps, each resized (bilinear) to the image: (B, P), (B, P) -> (B,).

    l2: the norm over the H * W values. rms: that norm divided by sqrt(H * W), so it depends on neither image size nor
    grid. l1: the mean absolute difference. cos: 1 - cosine. grid = image_size where maps already have image size.

    Resizing is a fixed linear map U. Products of resized maps are therefore a' G b with the Gram matrix G = U'U, P x P,
    which is computed once. So l2, rms and cos need no map of image size. The gradient of l2 and rms at equal maps is
    zero.
    """
    at_image_size = grid == image_size
    if distance == "l1":
        difference = maps - others
        return (difference if at_image_size else resize(difference, grid, image_size)).abs().mean(dim=1)
    factor = None if at_image_size else _gram_factor(tuple(grid), tuple(image_size), maps.dtype, maps.device)
    if distance == "cos":
        pair = (maps, others) if factor is None else (maps @ factor, others @ factor)
        return 1 - F.cosine_similarity(*pair)
    difference = maps - others
    norm = (difference if factor is None else difference @ factor).norm(dim=1)
    return norm / (image_size[0] * image_size[1]) ** 0.5 if distance == "rms" else norm


@cache
def _gram_factor(grid: Size, image_size: Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Cholesky factor L of G: the norm of d L equals the norm of U d."""
    basis = torch.eye(grid[0] * grid[1], dtype=torch.float64)
    resized = resize(basis, grid, image_size)
    return torch.linalg.cholesky(resized @ resized.T).to(device, dtype)


def grad_cam(
    model: PixelClassifier, images: Tensor, score: Callable[[Tensor], Tensor], differentiable: bool = False
) -> Tensor:
    """Grad-CAM of the last block: (B, 3, H, W) -> (B, P), at least 0, not scaled to [0, 1].

    score: raw image features (B, D) -> the number that the map explains, (B,). The activations K are the patch tokens
    after the first LayerNorm of the last residual block. The weight w_k of channel k is the mean over patches of
    d score / d K_k. The map is relu(sum_k w_k K_k). Selvaraju et al., ICCV 2017; TGA-ZSR's published code uses the same
    layer.

    differentiable: keep the graph of the gradient, so that a loss on the map trains the tower (second order).
    Otherwise the map is a constant.
    """
    assert isinstance(model, Classifier), "a linear head has no residual blocks of a ViT"
    captured: dict[str, Tensor] = {}

    def capture(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        captured["tokens"] = output if differentiable else output.detach().requires_grad_()
        return captured["tokens"]

    hook = model.visual.transformer.resblocks[-1].ln_1.register_forward_hook(capture)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel that can be differentiated twice
            tokens = Classifier.tokens(model, images)  # a compiled method would not call the hook
            total = score(model.pool(tokens)).sum()
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(total, captured["tokens"], create_graph=differentiable)
    weights = gradient[:, 1:].mean(dim=1, keepdim=True)
    cam = (weights * captured["tokens"][:, 1:]).sum(dim=2).relu()
    return cam if differentiable else cam.detach()
