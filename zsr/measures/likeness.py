"""What a fine-tuned model has of the pre-trained one: features, a universal perturbation, bands of frequency.

The analyses of "Pre-training also transfers non-robustness", AAAI 2023: CCA, a universal perturbation made on the
pre-trained model and shown to others, low and high frequencies; beside them linear CKA, and random signs as a control.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zsr.data.split import Split
from zsr.losses import cross_entropy
from zsr.measures.frequency import bands
from zsr.measures.similarity import compare, layer_features, linear_cka, mean_cca
from zsr.measures.universal import UniversalAttack, damage, random_signs
from zsr.models import heads
from zsr.models.heads import Model
from zsr.models.linear import PlainClassifier
from zsr.models.passes import Compute, matmul_precision
from zsr.params import Count, Positive

SIMILARITIES = {"cka": linear_cka, "cca": mean_cca}


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A block of `likeness` in params.yaml, which bears the name of the start that rows are compared with.

    Attributes:
        measures: of the similarity of features.
        images: how many of the target's test split, the first; CCA needs more than there are features.
        radius: of the low band, in periods per image.
        universal: one perturbation for all images, made on the reference with the target's training images.
    """

    measures: tuple[Literal["cka", "cca"], ...]
    images: Count
    radius: Positive
    universal: UniversalAttack


@dataclass(frozen=True)
class Probe:
    """The images on which models are compared.

    Attributes:
        images: of the test split, (N, 3, H, W) in [0, 1].
        labels: theirs, (N,).
        train_images: of the training split, (M, 3, H, W) in [0, 1].
        train_labels: theirs, (M,).
    """

    images: Tensor
    labels: Tensor
    train_images: Tensor
    train_labels: Tensor

    @classmethod
    def of(cls, task: "LikenessTask") -> "Probe":
        """The images of a task, on its device."""
        splits = Split.load(task.test).first(task.likeness.images), Split.load(task.train)
        parts = [split.tensors(range(len(split.ids)), task.compute.place())[:2] for split in splits]
        return cls(*parts[0], *parts[1])


@dataclass(frozen=True, kw_only=True)
class LikenessTask:
    """All that one model is likened by, and the key of its kept work.

    Attributes:
        likeness: what is measured.
        seed: of the universal perturbation and its control.
        model: the architecture.
        compute: where it runs.
        threads: of the CPU.
        weights: the model's file.
        reference: the file of the model that it is compared with.
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
    """Rows of measure, input, layer and value of one model, in fp32. Accuracies are shares; no layer is ""."""
    torch.set_num_threads(task.threads)
    device, probe = task.compute.place(), Probe.of(task)
    pair = [heads.load(task.model, path).to(device).requires_grad_(False) for path in (task.weights, task.reference)]
    model, reference = pair
    assert isinstance(model, PlainClassifier) and isinstance(reference, PlainClassifier)
    with matmul_precision(device, "fp32"):
        return likened(model, reference, probe, task.likeness, task.seed)


def likened(
    model: PlainClassifier, reference: PlainClassifier, probe: Probe, wanted: Likeness, seed: int
) -> list[dict]:
    """The rows of `measure` of two models at hand."""
    delta = wanted.universal.perturbation(reference, probe.train_images, seed)
    control = random_signs(delta, seed)
    inputs = {"clean": probe.images, "universal": (probe.images + delta).clamp(0, 1)}
    rows = _alike(model, reference, inputs, wanted.measures)
    for name, moved in {"universal": delta, "random_signs": control}.items():
        found = damage(model, probe.images, probe.labels, moved)
        rows += [_row("accuracy", name, found["perturbed"]), _row("fooled", name, found["fooled"])]
    return rows + _of_bands(model, probe, wanted.radius) + _learnt(model, probe)


def _alike(
    model: PlainClassifier, reference: PlainClassifier, inputs: dict[str, Tensor], measures: Sequence[str]
) -> list[dict]:
    rows = []
    for name, images in inputs.items():
        pair = [layer_features(of, images) for of in (model, reference)]
        for measure_name in measures:
            found = compare(SIMILARITIES[measure_name], *pair)
            rows += [_row(measure_name, name, value, layer) for layer, value in found.items()]
    return rows


@torch.no_grad()
def _learnt(model: PlainClassifier, probe: Probe) -> list[dict]:
    """What tells whether features have collapsed: their variance over training images, and the cross-entropy."""
    features = torch.cat([model.eval().features(part) for part in probe.train_images.split(100)])
    loss = cross_entropy(model.classify(features), probe.train_labels).mean().item()
    variance = features.var(dim=0).mean().item()
    return [_row("variance", "train", variance, "features"), _row("cross_entropy", "train", loss)]


@torch.no_grad()
def _of_bands(model: PlainClassifier, probe: Probe, radius: float) -> list[dict]:
    right: dict[str, list[Tensor]] = {"low_band": [], "high_band": []}
    for images, labels in zip(probe.images.split(100), probe.labels.split(100)):
        for name, band in zip(right, bands(images, radius)):
            right[name].append(model.eval()(band).argmax(dim=1) == labels)
    return [_row("accuracy", name, torch.cat(bits).float().mean().item()) for name, bits in right.items()]


def _row(measure_name: str, of: str, value: float, layer: str = "") -> dict:
    return {"measure": measure_name, "input": of, "layer": layer, "value": value}
