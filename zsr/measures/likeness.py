"""Likeness of a fine-tuned and a pre-trained model: features, a universal perturbation, bands of frequency.

The analyses are those of "Pre-training also transfers non-robustness", AAAI 2023: CCA, a universal perturbation that is
made on the pre-trained model and shown to other models, low and high frequencies. Linear CKA, and random signs as a
control, are added here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zsr.compute import Compute, matmul_precision
from zsr.data.prepared import Split
from zsr.measures.frequency import bands
from zsr.measures.similarity import compare, layer_features, linear_cka, mean_cca
from zsr.measures.universal import UniversalAttack, damage, random_signs
from zsr.models import heads
from zsr.models.heads import Model
from zsr.models.linear import PlainClassifier
from zsr.models.passes import cross_entropy
from zsr.params import Count, Positive

SIMILARITIES = {"cka": linear_cka, "cca": mean_cca}


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A block of `likeness` in params.yaml. The key is the name of the start that rows are compared with.

    Attributes:
        measures: the measures of the similarity of features.
        images: number of images of the target's test split, the first images; CCA needs more images than features.
        radius: the radius of the low band, in periods per image.
        universal: one perturbation for all images, made on the reference model with the target's training images.
    """

    measures: tuple[Literal["cka", "cca"], ...]
    images: Count
    radius: Positive
    universal: UniversalAttack


@dataclass(frozen=True)
class Probe:
    """The images on which models are compared.

    Attributes:
        images: images of the test split, (N, 3, H, W) in [0, 1].
        labels: labels of the test split, (N,).
        train_images: images of the training split, (M, 3, H, W) in [0, 1].
        train_labels: labels of the training split, (M,).
    """

    images: Tensor
    labels: Tensor
    train_images: Tensor
    train_labels: Tensor

    @classmethod
    def from_task(cls, task: "LikenessTask") -> "Probe":
        """The images of a task, on the device of the task."""
        splits = Split.load(task.test).first(task.likeness.images), Split.load(task.train)
        parts = [split.tensors(range(len(split.ids)), task.compute.place())[:2] for split in splits]
        return cls(*parts[0], *parts[1])


@dataclass(frozen=True, kw_only=True)
class LikenessTask:
    """All inputs of the comparison of one model with the reference, which make the key of its kept work.

    Attributes:
        likeness: the measures and their parameters.
        seed: the seed of the universal perturbation and its control.
        model: the architecture.
        compute: where the models run.
        threads: number of CPU threads.
        weights: the file of the model.
        reference: the file of the reference model.
        test: the file of the target's test split.
        train: the file of the target's training split.
    """

    likeness: Likeness
    seed: int
    model: Model
    compute: Compute
    threads: int
    weights: Path
    reference: Path
    test: Path
    train: Path


def measure(task: LikenessTask) -> list[dict]:
    """Rows {measure, input, layer, value} of one model, in fp32. Accuracies are shares; layer "": no layer applies."""
    torch.set_num_threads(task.threads)
    device, probe = task.compute.place(), Probe.from_task(task)
    pair = [heads.load(task.model, path).to(device).requires_grad_(False) for path in (task.weights, task.reference)]
    model, reference = pair
    assert isinstance(model, PlainClassifier) and isinstance(reference, PlainClassifier)
    with matmul_precision(device, "fp32"):
        return likened(model, reference, probe, task.likeness, task.seed)


def likened(
    model: PlainClassifier, reference: PlainClassifier, probe: Probe, likeness: Likeness, seed: int
) -> list[dict]:
    """The rows of `measure` for a loaded model and a loaded reference model."""
    delta = likeness.universal.perturbation(reference, probe.train_images, seed)
    control = random_signs(delta, seed)
    inputs = {"clean": probe.images, "universal": (probe.images + delta).clamp(0, 1)}
    rows = _similarity_rows(model, reference, inputs, likeness.measures)
    for name, moved in {"universal": delta, "random_signs": control}.items():
        effect = damage(model, probe.images, probe.labels, moved)
        rows += [_row("accuracy", name, effect["perturbed"]), _row("fooled", name, effect["fooled"])]
    return rows + _band_rows(model, probe, likeness.radius) + _collapse_rows(model, probe)


def _similarity_rows(
    model: PlainClassifier, reference: PlainClassifier, inputs: dict[str, Tensor], measures: Sequence[str]
) -> list[dict]:
    rows = []
    for name, images in inputs.items():
        pair = [layer_features(network, images) for network in (model, reference)]
        for measure_name in measures:
            similarities = compare(SIMILARITIES[measure_name], *pair)
            rows += [_row(measure_name, name, value, layer) for layer, value in similarities.items()]
    return rows


@torch.no_grad()
def _collapse_rows(model: PlainClassifier, probe: Probe) -> list[dict]:
    """Rows that show whether features have collapsed: their variance over training images, and the cross-entropy."""
    features = torch.cat([model.eval().features(part) for part in probe.train_images.split(100)])
    loss = cross_entropy(model.classify(features), probe.train_labels).mean().item()
    variance = features.var(dim=0).mean().item()
    return [_row("variance", "train", variance, "features"), _row("cross_entropy", "train", loss)]


@torch.no_grad()
def _band_rows(model: PlainClassifier, probe: Probe, radius: float) -> list[dict]:
    right: dict[str, list[Tensor]] = {"low_band": [], "high_band": []}
    for images, labels in zip(probe.images.split(100), probe.labels.split(100)):
        for name, band in zip(right, bands(images, radius)):
            right[name].append(model.eval()(band).argmax(dim=1) == labels)
    return [_row("accuracy", name, torch.cat(bits).float().mean().item()) for name, bits in right.items()]


def _row(measure_name: str, input_name: str, value: float, layer: str = "") -> dict:
    return {"measure": measure_name, "input": input_name, "layer": layer, "value": value}
