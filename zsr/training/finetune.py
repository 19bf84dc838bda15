"""Fine-tuning on the source set by any method: of CLIP's image tower, or of a tower with its linear head."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zsr import files, scratch
from zsr.attacks.batch import Drawn, Noise
from zsr.attacks.pgd import Steps
from zsr.compute import ON_CPU, Compute, autocast, joint_rows, matmul_precision, of_first, rank, world_size
from zsr.data.prepared import Split, load_embeddings
from zsr.methods._base import Batch, Method
from zsr.models import heads
from zsr.models.batchnorm import has_norms, normalise_by
from zsr.models.clip import Classifier
from zsr.models.heads import Model, Origin, PixelClassifier, set_norm_stats, tower_of
from zsr.params import Diverged, NonNegative, StudyError, Threads, block, component, training_of
from zsr.scratch import Watch, unwatched
from zsr.training.batches import Part
from zsr.training.feed import Feed
from zsr.training.loop import COLUMNS, Recipe, facts_of_training, fit, kept_curve

EFFECTIVE_RATE = "zsr.measures.effective_rate"  # imported only where a study logs effective rates


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(Steps):
    """The training attack: the last point of PGD, with two quirks of published training loops.

    Attributes:
        fixed_noise: the random start depends on the place in the batch alone and is equal in every step (quirk C3).
        gradient_leak: share of the attack's parameter gradients that is added to the step's, at least 0 (quirk S1).
    """

    fixed_noise: bool
    gradient_leak: NonNegative

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """With a leak, .grad of the parameters also gets the gradient of the mean objective, as published."""
        if not self.gradient_leak:
            return super().ascent(objective, adv)
        total = self.reduced(objective, adv)
        (total if self.reduction == "mean" else total / len(adv)).backward()
        assert adv.grad is not None
        return adv.grad


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe):
    """The recipe of fine-tuning, independent of the loss.

    Attributes:
        attack: the training attack of every adversarial method.
        precision: precision of the losses. With bf16, attention maps are made from tf32 tokens.
        log_effective_rate: add the columns of `zsr.measures.effective_rate` to the curve of a tower with BatchNorm.
    """

    attack: TrainingAttack
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    log_effective_rate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack.gradient_leak and self.accumulate > 1:
            raise ValueError("attack.gradient_leak needs accumulate: 1, or every part's attack leaks into the others")

    def observe(self, model: nn.Module) -> dict[str, float]:
        """More columns of the curve, {} without log_effective_rate."""
        if not self.log_effective_rate:
            return {}
        return import_module(EFFECTIVE_RATE).effective_rate(model)


@dataclass(frozen=True)
class Texts:
    """Text embeddings of the source set's C classes. A linear head has no text embeddings.

    Attributes:
        text_embeddings: text embeddings of the class prompts, (C, D), unit norm; None: the head is linear.
        non_class: text embeddings of `Method.non_class_template`, (C, D), unit norm; None: the method has no such
            template.
        descriptions: text embeddings of n descriptions of every class, (n, C, D), unit norm; None: the method reads
            none.
    """

    text_embeddings: Tensor | None = None
    non_class: Tensor | None = None
    descriptions: Tensor | None = None

    @classmethod
    def of(cls, method: Method, text_embeddings: Tensor, source: Split, embed: Callable[..., Tensor]) -> "Texts":
        """The text embeddings that the method needs. embed: prompts -> (N, D), called only for more than one prompt."""
        template = method.non_class_template
        non_class = embed(source.prompts(template)) if template else None
        return cls(text_embeddings, non_class, method.descriptions_of(source, text_embeddings, embed))

    def to(self, device: torch.device) -> "Texts":
        """The same text embeddings on a device."""
        tensors = (self.text_embeddings, self.non_class, self.descriptions)
        return Texts(*(None if tensor is None else tensor.to(device) for tensor in tensors))

    def batch(self, images: Tensor, labels: Tensor, anchors: Tensor | None = None) -> Batch:
        """A batch with the non-class rows of its labels."""
        non_class = None if self.non_class is None else self.non_class[labels]
        return Batch(images, labels, anchors, non_class, self.descriptions)


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """All inputs of one training. They are also the key of the kept work in the scratch folder.

    Attributes:
        method: the method with its params.
        recipe: the recipe of fine-tuning.
        seed: seed of the order of batches, of the attack's noise and of random weights.
        model: the architecture and the head.
        compute: the device, and how the tower runs on the device.
        threads: number of CPU threads; with another number results agree only up to rounding.
        images: the file of the training split.
        held_out: number of images at the end of the split that are left out.
        text_embeddings: the file of the split's text embeddings; a linear head does not read it.
        weights: the file of weights that the training begins with, see `zsr.models.heads.first_weights`.
        origin: the kind of that file, see `zsr.models.heads.first_weights`.
        sha256: the digest that a file of others must have, in hexadecimal digits; "": the digest is not compared.
    """

    method: Method
    recipe: FineTuning
    seed: int
    model: Model
    compute: Compute
    threads: int
    images: Path
    held_out: int = 0
    text_embeddings: Path
    weights: Path
    origin: Origin
    sha256: str = ""


def task_of(document: Mapping[str, Any], kind: str, name: str, seed: int, **paths: Any) -> TrainingTask:
    """The task of a row of params.yaml with one seed. kind: "methods" or "starts". paths: the other fields."""
    return TrainingTask(
        method=component(document, kind, name),
        recipe=training_of(document, name, FineTuning, kind),
        seed=seed,
        model=block(document, "model", Model),
        compute=block(document, "compute", Compute),
        threads=block(document, "threads", Threads),
        **paths,
    )


def without_start(document: Mapping[str, Any]) -> Origin:
    """The origin of a row without a start: CLIP's base model, or random weights with a linear head."""
    return "random" if block(document, "model", Model).head == "linear" else "base"


def train(task: TrainingTask, unfinished: Path, watch: Watch = unwatched) -> tuple[nn.Module, list[dict[str, float]]]:
    """Run a training; returns the model, on the CPU or the device of `compute`, and its curve, one row per step.

    The file `unfinished` holds the last checkpoint of an unfinished run until the caller deletes it. Raises StudyError:
    the tower has BatchNorm and a batch would be computed in parts. Raises Diverged as `zsr.training.loop.fit` does.
    """
    torch.set_num_threads(task.threads)
    split = Split.load(task.images).part(slice(-task.held_out if task.held_out else None))
    classes, trained = len(split.classnames), task.method.trains and bool(task.recipe.epochs)
    whole = heads.first_weights(
        task.model, task.weights, task.origin, classes, task.seed, task.sha256, bool(task.recipe.epochs)
    )
    task.method.load(whole, task.model.arch)
    if trained:
        _refuse_parts(whole, task)
    settings: dict[str, Any] = {
        "recipe": task.recipe,
        "seed": task.seed,
        "unfinished": unfinished,
        "watch": watch,
        "compute": task.compute,
    }
    if task.model.head == "linear":
        return whole, finetune_plain(task.method, whole, split, **settings)
    from zsr.models.clip import embed_texts

    set_norm_stats(whole, task.method.norm_stats)
    embeddings, _ = load_embeddings(task.text_embeddings, classes)
    if embeddings is None:
        raise files.Unusable(task.text_embeddings, "has the class names of a linear head alone")
    texts = Texts.of(task.method, embeddings, split, partial(embed_texts, whole, task.model.arch))
    return whole, finetune(task.method, whole, texts, split, **settings)


def _refuse_parts(whole: nn.Module, task: TrainingTask) -> None:
    """Raise StudyError where a tower with BatchNorm would see parts of batches: it needs whole-batch statistics."""
    if not has_norms(tower_of(whole)):
        return
    norm = f"{task.model.arch} has BatchNorm, whose statistics are those of a whole batch"
    if world_size() > 1:
        raise StudyError(
            f"{norm}, but {world_size()} processes would each see a part; "
            "set launcher: python, or PET_NPROC_PER_NODE=1, for the training"
        )
    if task.recipe.accumulate > 1:
        raise StudyError(f"{norm}; train.accumulate must be 1, got {task.recipe.accumulate}")


def train_once(task: TrainingTask, code: str, watch: Watch = unwatched) -> tuple[Path, list[dict[str, str]]]:
    """The file of the trained tower and its curve. Both come from kept work if there is any, else from training now.

    `zsr.models.heads.save_tower` wrote the file. The first of several processes writes; then all processes return the
    same file and the same curve. code: digest of the code, see `zsr.scratch.key`. Raises as `train` does. A divergence
    is kept, too, and raised again.
    """
    name, first = scratch.key(task, code), rank() == 0
    folder = scratch.folder() / "training" / name
    tower, curve, diverged, unfinished = (
        folder / file for file in ("tower.safetensors", "curve.csv", "diverged.json", "unfinished")
    )
    with scratch.claimed("training", name) if first else nullcontext():
        message = of_first(first and scratch.readable(diverged, lambda path: files.read_kept(path, name)))
        if message:
            raise Diverged(message)
        finished = of_first(first and scratch.readable(curve, partial(kept_curve, tower, name)))
        if finished is not None:
            return tower, finished
        try:
            whole, rows = train(task, unfinished, watch)
            _refuse_infinite(whole)
        except Diverged as error:
            if first:
                files.write_kept(diverged, name, str(error))
            raise
        if first:
            text = files.rows_text(rows, COLUMNS)
            heads.save_tower(tower, whole, task.model, task.method.norm_stats, facts_of_training(name, text))
            files.write_atomic(curve, text.encode())
            unfinished.unlink(missing_ok=True)
        return tower, of_first(first and files.read_rows(curve))


def _refuse_infinite(whole: nn.Module) -> None:
    """Raise Diverged where a weight is not finite: the last step may have moved it there."""
    for name, tensor in whole.state_dict().items():
        if not tensor.isfinite().all():
            raise Diverged(f"training ended with weights that are not finite ({name}); lower lr")


def finetune(
    method: Method,
    clip: nn.Module,
    texts: Texts,
    source: Split,
    recipe: FineTuning,
    seed: int,
    unfinished: Path,
    watch: Watch = unwatched,
    compute: Compute = ON_CPU,
) -> list[dict[str, float]]:
    """Train clip.visual in place; returns the curve, one row per step. Other weights of the model do not change.

    clip: an open_clip model, which ends on the device of `compute`. unfinished, watch, errors: see
    `zsr.training.loop.fit`.
    """
    if not method.trains:
        return []
    texts = texts.to(compute.place())
    frozen = _freeze(Classifier(copy.deepcopy(clip), texts.text_embeddings, compute))
    visual = tower_of(clip)
    method.prepare(visual)
    model = Classifier(clip, texts.text_embeddings, compute)
    return _train(Trainer(method, model, frozen, visual, texts), source, recipe, seed, unfinished, watch)


def finetune_plain(
    method: Method,
    model: nn.Module,
    source: Split,
    recipe: FineTuning,
    seed: int,
    unfinished: Path,
    watch: Watch = unwatched,
    compute: Compute = ON_CPU,
) -> list[dict[str, float]]:
    """Train the tower and the linear head of a model in place; returns the curve, one row per step.

    model: a `zsr.models.linear.PlainClassifier`. Other arguments: see `finetune`. Raises StudyError for a method that
    needs text.
    """
    if method.needs_text:
        raise StudyError(f"{type(method).__name__} needs class prompts or patch tokens; a linear head has neither")
    if not method.trains:
        return []
    model = model.to(compute.place())
    plain = cast(PixelClassifier, model)  # it lacks the members that only methods with needs_text use
    frozen = _freeze(copy.deepcopy(plain))
    method.prepare(plain.visual)
    return _train(Trainer(method, plain, frozen, model, Texts()), source, recipe, seed, unfinished, watch)


@dataclass(frozen=True)
class Trainer:
    """A model, its trained part, and the other inputs of the method's losses.

    Attributes:
        method: the method, which defines the losses.
        model: the classifier that is trained.
        frozen: a frozen copy of the classifier from before the training.
        trained: the module whose parameters are trained: CLIP's image tower, or a whole model with a linear head.
        texts: text embeddings of the source set's classes; empty for a linear head.
    """

    method: Method
    model: PixelClassifier
    frozen: PixelClassifier
    trained: nn.Module
    texts: Texts

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device


def _train(
    trainer: Trainer, source: Split, recipe: FineTuning, seed: int, unfinished: Path, watch: Watch
) -> list[dict[str, float]]:
    method, model, device, attack = trainer.method, trainer.model, trainer.device, recipe.attack
    if attack.gradient_leak and world_size() > 1:
        raise StudyError("train.attack.gradient_leak needs one process; choose launcher: python, or gradient_leak: 0")
    normalise_by(model.visual, "batch")
    with matmul_precision(device, recipe.precision):
        feed = Feed(source, recipe, attack, seed, device)
        anchors = anchors_of(method, trainer.frozen, trainer.texts, feed, recipe)

        def losses(step: int, part: Part) -> dict[str, Tensor]:
            step_images = feed.take(step, part)
            rows = None if anchors is None else anchors[part.samples].to(device, non_blocking=True)
            batch = trainer.texts.batch(step_images.images, step_images.labels, rows)
            batch = replace(batch, joint=partial(joint_rows, counts=part.counts), nominal=recipe.batch_size)
            adv = _attacked(method, model, batch, attack, step_images.noise) if method.attacked else None
            with autocast(device, recipe.precision):
                return method.losses(model, trainer.frozen, batch, adv)

        n, observe = len(source.ids), lambda _: recipe.observe(model.visual)
        rows = fit(trainer.trained, losses, n, recipe, seed, unfinished, watch, method.fold, observe)
    normalise_by(model.visual, "running statistics")
    method.finish(model.visual)
    return rows


def _freeze(model: PixelClassifier) -> PixelClassifier:
    """Freeze the model, in train mode: it has no dropout, and attention kernels of eval mode round differently."""
    model.requires_grad_(False).train()
    normalise_by(model.visual, "running statistics")
    return model


def _attacked(
    method: Method, model: PixelClassifier, batch: Batch, attack: TrainingAttack, noise: Noise | Drawn
) -> Tensor:
    """Adversarial images of a batch. The attack uses running statistics, the losses afterwards those of the batch."""
    normalise_by(model.visual, "running statistics")
    adv = attack.maximise(method.inner_objective(model, batch), batch.images, noise)
    if attack.gradient_leak:  # without a leak, gradients come from earlier parts of the step
        _scale_gradients(model.visual, attack.gradient_leak)
    normalise_by(model.visual, "batch")
    return adv


@torch.no_grad()
def _scale_gradients(module: nn.Module, share: float) -> None:
    for p in module.parameters():
        if p.grad is not None:
            p.grad *= share


@torch.no_grad()
def anchors_of(method: Method, frozen: PixelClassifier, texts: Texts, feed: Feed, recipe: FineTuning) -> Tensor | None:
    """The method's anchors of every sample, on the CPU; None: the method has no anchors.

    Anchors are computed in batches of the training's shape, so with the same kernels, and in the training's precision.
    """
    rows, n, size = [], len(feed.source.ids), recipe.batch_size
    for samples in torch.arange(n).split(size):
        images, labels = feed.pictures(torch.cat([samples, samples.new_zeros(size - len(samples))]))
        with autocast(images.device, recipe.precision):
            anchors = method.anchors(frozen, texts.batch(images, labels))
        if anchors is None:
            return None
        rows.append(anchors[: len(samples)].float().cpu())
    return torch.cat(rows)
