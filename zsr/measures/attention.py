"""The effect of an attack on text-guided attention maps, measured and kept for the figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from zsr import files, scratch
from zsr.attacks.batch import Noise
from zsr.compute import Compute, matmul_precision
from zsr.data.prepared import Prepared
from zsr.evaluation.evaluate import Attack, Evaluation
from zsr.models import heads
from zsr.models.attention import map_distance, text_guided_attention
from zsr.models.heads import Model, PixelClassifier
from zsr.params import Count, Interval
from zsr.params import shown as written

BRIGHT = 0.5  # a patch belongs to the object where the mean of the brightest channel is above this value
MOST_SHOWN = 4  # methods of one figure; the columns of more are too narrow


@dataclass(frozen=True, kw_only=True)
class AttentionStudy:
    """A block of `attention` in params.yaml. The key of the block is the name of the set.

    Attributes:
        attack: the name of a row of `attacks`.
        methods: names of one to four rows of `methods`, whose maps the figure shows side by side.
        images: number of images that are measured, the first images of the set. All rows of the study are measured.
        shown: number of these images that the figure shows, one below another.
    """

    attack: str
    methods: tuple[str, ...]
    images: Count
    shown: Annotated[int, Interval(1, ceiling=50)]

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.methods)) == len(self.methods) <= MOST_SHOWN:
            raise ValueError(f"methods must be one to {MOST_SHOWN} rows, none twice, got {written(list(self.methods))}")


@dataclass(frozen=True, kw_only=True)
class AttentionTask:
    """All inputs of the maps of one model, which make the key of its kept work.

    Attributes:
        attack: the attack with its hyper-parameters.
        n_images: number of images, the first images of the set.
        evaluation: seed and batches.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads.
        set_name: the name of the set, on which the noise depends.
        weights: the file of the model.
        images: the file of the test images.
        text_embeddings: the file of the text embeddings.
    """

    attack: Attack
    n_images: int
    evaluation: Evaluation
    model: Model
    compute: Compute
    threads: int
    set_name: str
    weights: Path
    images: Path
    text_embeddings: Path


@dataclass(frozen=True)
class Maps:
    """Maps of N images.

    Attributes:
        clean: maps of the clean images, (N, rows, columns) in [0, 1].
        attacked: maps of the attacked images, (N, rows, columns) in [0, 1].
        adv: the attacked images, (N, 3, H, W) in [0, 1].
    """

    clean: Tensor
    attacked: Tensor
    adv: Tensor


def measure_once(task: AttentionTask, data: Prepared, code: str) -> tuple[Maps, dict[str, float]]:
    """What `measure` returns for a model. It comes from kept work if there is any. code: as in `zsr.scratch.key`."""
    torch.set_num_threads(task.threads)
    key = scratch.key(task, code)

    def make() -> None:
        images, labels, ids = data.split.tensors(range(task.n_images), task.compute.place())
        whole = heads.load(task.model, task.weights)
        model = heads.classifier(task.model, whole, data.text_embeddings, task.compute)
        noise = Noise(task.evaluation.seed, task.set_name, ids)
        maps, facts = measure(model, task.attack, images, labels, noise, task.evaluation.batch_size)
        files.save_tensors(path, vars(maps), {"task": key, "means": facts})

    def read(path: Path) -> tuple[Maps, dict[str, float]]:
        tensors, facts = files.load_tensors(path)
        if facts.get("task") != key:
            raise files.Unusable(path, f"is of the task {facts.get('task')}, not of {key}")
        return Maps(**tensors), facts["means"]

    with scratch.claimed("attention", key) as path:
        return scratch.kept(path, read, make)


def measure(
    model: PixelClassifier,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    batch_size: int | None = None,
) -> tuple[Maps, dict[str, float]]:
    """Maps for the true class of clean and attacked images, and four means over the images.

    shift_attack, shift_noise: l2 distance of the map at image size to the clean image's map, under the attack and
    under uniform noise of the same eps. peak_on_object: share of clean maps whose maximum lies on a bright patch.
    object_share: share of bright patches, which is the expected score of a random peak. Passes are in fp32, with
    batch_size images; None: all images at once.
    """
    model.requires_grad_(False)
    adv = attack(model, images, labels, noise, batch_size and min(batch_size, len(images)))
    noisy = (images + attack.eps * noise.uniform(images.shape[1:], "control").to(images)).clamp(0, 1)
    clean, attacked, jittered = (_maps(model, x, labels, batch_size) for x in (images, adv, noisy))
    bright = torch.nn.functional.adaptive_avg_pool2d(images.amax(dim=1, keepdim=True), model.grid).flatten(1) > BRIGHT
    facts = {
        "shift_attack": map_distance(attacked, clean, model.grid, model.image_size).mean().item(),
        "shift_noise": map_distance(jittered, clean, model.grid, model.image_size).mean().item(),
        "peak_on_object": bright.gather(1, clean.argmax(dim=1, keepdim=True)).float().mean().item(),
        "object_share": bright.float().mean().item(),
    }
    drawn = (clean.unflatten(1, model.grid), attacked.unflatten(1, model.grid), adv)
    return Maps(*(x.cpu() for x in drawn)), facts


@torch.no_grad()
def _maps(model: PixelClassifier, images: Tensor, labels: Tensor, batch_size: int | None) -> Tensor:
    size = batch_size or len(images)
    parts = zip(images.split(size), labels.split(size))
    with matmul_precision(images.device, "fp32"):
        maps = [text_guided_attention(model.tokens(x), model.text_embeddings[classes]) for x, classes in parts]
    return torch.cat(maps)


def panels(images: Tensor, maps: Mapping[str, Maps], shown: int) -> dict[tuple[str, str], tuple]:
    """The columns of `zsr.reports.figures.attention`: (method, kind) -> (images, maps) of the first `shown` images.

    The images, then for each method the maps of the clean images and of the images that were attacked under the method.
    """
    clean = _pixels(images, shown)
    columns: dict[tuple[str, str], tuple] = {("", "image"): (clean, None)}
    for method, made in maps.items():
        columns[method, "clean"] = clean, made.clean[:shown].numpy()
        columns[method, "attacked"] = _pixels(made.adv, shown), made.attacked[:shown].numpy()
    return columns


def _pixels(images: Tensor, n: int) -> np.ndarray:
    return images[:n].permute(0, 2, 3, 1).numpy()


def told(rows: Sequence[Mapping], methods: Sequence[str]) -> str:
    """What was measured of these methods, in sentences. rows: rows of metrics/attention/*.csv."""
    texts = [
        f"{row['method']}: the attack moves the maps by {row['shift_attack']:.2f}, noise of the same eps by "
        f"{row['shift_noise']:.2f}; on clean images the peak lies on the object in {row['peak_on_object']:.0%}."
        for row in rows
        if row["method"] in methods
    ]
    return " ".join([*texts, f"A random patch lies on the object in {rows[0]['object_share']:.0%}."])
