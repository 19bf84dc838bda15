"""The loss of a method and its gradients on given tensors, for comparisons with other implementations."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsr.methods._base import Method
from zsr.models.batchnorm import normalise_by
from zsr.models.clip import Classifier
from zsr.models.heads import set_norm_stats, tower_of
from zsr.training.finetune import Texts


def loss_terms(
    method: Method,
    model: nn.Module,
    frozen: nn.Module,
    texts: Texts,
    images: Tensor,
    labels: Tensor,
    adv: Tensor | None = None,
) -> dict[str, Tensor]:
    """Named, weighted scalar terms of one training step, attached to the graph of model.visual's parameters.

    model, frozen: open_clip CLIP models with a ViT or ResNet tower and any weights; both may be the same model. texts:
    text embeddings of the class prompts, (C, D), and for Comp-TGA of the non-class prompts. images, adv: (B, 3, H, W)
    in [0, 1]; adv may be omitted where `method.attacked` is false. labels: (B,) int64. The loop minimises the sum of
    the terms. A tower with BatchNorm normalises by the statistics of the batch, as in a step, and updates its running
    statistics. TWINS needs a tower after `method.prepare(model.visual)`, else it raises StudyError.
    """
    student = _classifier(model, method, texts)
    teacher = _classifier(copy.deepcopy(frozen), method, texts).requires_grad_(False)
    normalise_by(teacher.visual, "running statistics")
    batch = texts.batch(images, labels)
    with torch.no_grad():
        anchors = method.anchors(teacher, batch)
    return method.losses(student, teacher, texts.batch(images, labels, anchors), adv)


def _classifier(model: nn.Module, method: Method, texts: Texts) -> Classifier:
    """A classifier with the method's pixel statistics. The pixel statistics of the model do not change."""
    visual: Any = tower_of(model)
    model_norm_stats = visual.image_mean, visual.image_std
    set_norm_stats(model, method.norm_stats)
    classifier = Classifier(model, texts.text_embeddings).train()
    visual.image_mean, visual.image_std = model_norm_stats
    return classifier


def parameter_gradients(terms: Mapping[str, Tensor], model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Gradient of each term by each parameter of model.visual, under open_clip's names; zeros where there is none."""
    names, parameters = zip(*tower_of(model).named_parameters(), strict=True)
    gradients = {}
    for term, value in terms.items():
        grads: Sequence[Tensor | None] = [None] * len(names)
        if value.requires_grad:
            grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        gradients[term] = {
            name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, grads, strict=True)
        }
    return gradients
