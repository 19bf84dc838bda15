"""Adversarial fine-tuning of the image tower on the source set, by any method."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from zsr import files, scratch
from zsr.attacks.pgd import Steps
from zsr.data.split import Split
from zsr.distributed import joint_rows, of_first, rank, world_size
from zsr.errors import Diverged, StudyError
from zsr.methods._base import Batch, Method
from zsr.models import heads
from zsr.models.batchnorm import has_norms, normalise_by
from zsr.models.classifier import Classifier, PixelClassifier, set_norm_stats, tower_of
from zsr.models.heads import Model, Origin
from zsr.models.passes import ON_CPU, Compute, autocast, matmul_precision
from zsr.noise import Drawn, Noise
from zsr.params import Count, NonNegative, block, component, training_of
from zsr.progress import Watch, unwatched
from zsr.training.batches import Part
from zsr.training.feed import Feed
from zsr.training.loop import COLUMNS, Recipe, fit

EFFECTIVE_RATE = "zsr.measures.effective_rate"  # loaded where a study asks for it


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(Steps):
    """PGD's last point, and what the published training loops do beside it.

    Attributes:
        fixed_noise: the same start in every step, by the place in the batch (quirk C3).
        gradient_leak: share of the attack's parameter gradients that joins the step's, at least 0 (quirk S1).
    """

    fixed_noise: bool
    gradient_leak: NonNegative

    def ascent(self, objective: Callable[[Tensor], Tensor], adv: Tensor) -> Tensor:
        """With a leak the parameters' .grad gather those of the mean objective, as the published backward() does."""
        if not self.gradient_leak:
            return super().ascent(objective, adv)
        total = self.reduced(objective, adv)
        (total if self.reduction == "mean" else total / len(adv)).backward()
        assert adv.grad is not None
        return adv.grad


@dataclass(frozen=True, kw_only=True)
class FineTuning(Recipe):
    """How a method trains, whatever its loss.

    Attributes:
        attack: of every adversarial method.
        precision: of the losses; maps are of tf32 tokens where it is bf16.
        log_effective_rate: more columns of the curve, of a tower with BatchNorm: `zsr.measures.effective_rate`.
    """

    attack: TrainingAttack
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    log_effective_rate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attack.gradient_leak and self.accumulate > 1:
            raise ValueError("attack.gradient_leak needs accumulate: 1, or every part's attack leaks into the others")

    def observe(self, model: nn.Module) -> dict[str, float]:
        """What joins the rows of the curve besides the loss."""
        if not self.log_effective_rate:
            return {}
        return import_module(EFFECTIVE_RATE).effective_rate(model)


@dataclass(frozen=True)
class Texts:
    """Prompts of the source set's C classes. Without any it stands for the classes of a linear head.

    Attributes:
        text_embeddings: of the class prompts, (C, D), unit norm.
        non_class: of `Method.non_class_template`, (C, D), unit norm; None: the method has none.
    """

    text_embeddings: Tensor | None = None
    non_class: Tensor | None = None

    @classmethod
    def of(
        cls, method: Method, text_embeddings: Tensor, source: Split, embed: Callable[[list[str]], Tensor]
    ) -> "Texts":
        """What the method needs. embed: prompts -> (C, D), called only where there is a second prompt."""
        template = method.non_class_template
        return cls(text_embeddings, embed(source.prompts(template)) if template else None)

    def to(self, device: torch.device) -> "Texts":
        """The same on a device."""
        return Texts(*(None if t is None else t.to(device) for t in (self.text_embeddings, self.non_class)))

    def batch(self, images: Tensor, labels: Tensor, anchors: Tensor | None = None) -> Batch:
        """A batch with the rows of its labels."""
        return Batch(images, labels, anchors, None if self.non_class is None else self.non_class[labels])


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """All that one training is computed from, and the key of its kept work.

    Attributes:
        method: what is minimised, with its numbers.
        recipe: how parameters move.
        seed: of the order of batches, of the noise of the attack and of random weights.
        model: the architecture and the head.
        compute: the device, and how the tower runs on it.
        threads: of the CPU; with another number results agree only up to rounding.
        images: the training split.
        held_out: how many images of the split, its last, are left out.
        text_embeddings: those of the set of `images`; a linear head does not look at them.
        weights: a file of what the training begins with, as `zsr.models.heads.first_weights` has it.
        origin: what that file is, in the same words.
        sha256: what a file of others must have, in hexadecimal digits; "": it is not compared.
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
    """The task of a row of params.yaml with one seed. kind: "methods" or "starts". paths: what the row does not say."""
    return TrainingTask(
        method=component(document, kind, name),
        recipe=training_of(document, name, FineTuning, kind),
        seed=seed,
        model=block(document, "model", Model),
        compute=block(document, "compute", Compute),
        threads=block(document, "threads", Count),
        **paths,
    )


def without_start(document: Mapping[str, Any]) -> Origin:
    """What a row begins with that names no start: CLIP's base model, or random weights below a linear head."""
    return "random" if block(document, "model", Model).head == "linear" else "base"


def train(task: TrainingTask, unfinished: Path, watch: Watch = unwatched) -> tuple[nn.Module, list[dict[str, float]]]:
    """The trained model, on the CPU or where `compute` says, and its curve, one row a step.

    An unfinished run is kept in the file `unfinished` until the caller deletes it. Raises StudyError: the tower has
    BatchNorm and a batch would be computed in parts. Raises Diverged as `zsr.training.loop.fit`.
    """
    torch.set_num_threads(task.threads)
    split = Split.load(task.images).part(slice(-task.held_out if task.held_out else None))
    classes, trained = len(split.classnames), task.method.trains and bool(task.recipe.epochs)
    whole = heads.first_weights(
        task.model, task.weights, task.origin, classes, task.seed, task.sha256, bool(task.recipe.epochs)
    )
    if trained:
        _refuse_parts(whole, task)
    of: dict[str, Any] = {
        "recipe": task.recipe,
        "seed": task.seed,
        "unfinished": unfinished,
        "watch": watch,
        "compute": task.compute,
    }
    if task.model.head == "linear":
        return whole, finetune_plain(task.method, whole, split, **of)
    from zsr.models.clip import embed_texts

    set_norm_stats(whole, task.method.norm_stats)
    embeddings = files.load_tensors(task.text_embeddings)[0]["text_embeddings"]
    texts = Texts.of(task.method, embeddings, split, partial(embed_texts, whole, task.model.arch))
    return whole, finetune(task.method, whole, texts, split, **of)


def _refuse_parts(whole: nn.Module, task: TrainingTask) -> None:
    """BatchNorm needs the statistics of the whole batch, of which a part knows nothing."""
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
    """The file of what the training has changed, and its curve: from kept work where it is there, else trained now.

    The file is one of `zsr.models.heads.save_tower`. Of several processes the first writes; all get the same file and
    the same curve, when both are there.
    code: as in `zsr.scratch.key`. Raises as `train`; that a training diverged is kept, too.
    """
    name, first = scratch.key(task, code), rank() == 0
    kept = scratch.folder() / "training" / name
    tower, curve, diverged, unfinished = (
        kept / file for file in ("tower.safetensors", "curve.csv", "diverged.txt", "unfinished")
    )
    with scratch.claimed("training", name) if first else nullcontext():
        if of_first(diverged.exists()):
            raise Diverged(of_first(first and diverged.read_text()))
        if not of_first(curve.exists()):
            try:
                whole, rows = train(task, unfinished, watch)
            except Diverged as error:
                if first:
                    files.write_atomic(diverged, str(error).encode())
                raise
            if first:
                heads.save_tower(tower, whole, task.model, task.method.norm_stats)
                files.write_rows(curve, rows, COLUMNS)
                unfinished.unlink(missing_ok=True)
        return tower, of_first(first and files.read_rows(curve))


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
    """Train clip.visual in place; returns the curve, one row a step. Nothing else of the model moves.

    clip: an open_clip model, which ends on the device of `compute`. unfinished, watch, errors: `zsr.training.loop.fit`.
    """
    if not method.trains:
        return []
    texts = texts.to(compute.place())
    frozen = _frozen(Classifier(copy.deepcopy(clip), texts.text_embeddings, compute))
    visual = tower_of(clip)
    method.prepare(visual)
    model = Classifier(clip, texts.text_embeddings, compute)
    return _trained(Trainer(method, model, frozen, visual, texts), source, recipe, seed, unfinished, watch)


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
    """Train the tower and the linear head of a model without text in place; returns the curve, as `finetune`.

    model: a `zsr.models.linear.PlainClassifier`.
    Raises StudyError for a method that needs text.
    """
    if method.needs_text:
        raise StudyError(f"{type(method).__name__} needs class prompts or patch tokens; a linear head has neither")
    if not method.trains:
        return []
    model = model.to(compute.place())
    plain = cast(PixelClassifier, model)  # it lacks what only text has, which the method does not ask for
    frozen = _frozen(copy.deepcopy(plain))
    method.prepare(plain.visual)
    return _trained(Trainer(method, plain, frozen, model, Texts()), source, recipe, seed, unfinished, watch)


@dataclass(frozen=True)
class Trainer:
    """A model, what of it is trained, and what its method looks at meanwhile.

    Attributes:
        method: what is minimised.
        model: the classifier that is trained.
        frozen: a copy of it as it was before.
        trained: the module whose parameters move: CLIP's image tower, or all of a model with a linear head.
        texts: prompts of the classes of the source set; of a linear head none.
    """

    method: Method
    model: PixelClassifier
    frozen: PixelClassifier
    trained: nn.Module
    texts: Texts

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def _trained(
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
            fed = feed.take(step, part)
            rows = None if anchors is None else anchors[part.samples].to(device, non_blocking=True)
            batch = trainer.texts.batch(fed.images, fed.labels, rows)
            batch = replace(batch, joint=partial(joint_rows, counts=part.counts), nominal=recipe.batch_size)
            adv = _attacked(method, model, batch, attack, fed.noise) if method.attacked else None
            with autocast(device, recipe.precision):
                return method.losses(model, trainer.frozen, batch, adv)

        n, observe = len(source.ids), lambda _: recipe.observe(model.visual)
        rows = fit(trainer.trained, losses, n, recipe, seed, unfinished, watch, method.fold, observe)
    normalise_by(model.visual, "running statistics")
    method.finish(model.visual)
    return rows


def _frozen(model: PixelClassifier) -> PixelClassifier:
    """The model as what stays behind. No dropout, but eval mode has attention kernels of its own, which round."""
    model.requires_grad_(False).train()
    normalise_by(model.visual, "running statistics")
    return model


def _attacked(
    method: Method, model: PixelClassifier, batch: Batch, attack: TrainingAttack, noise: Noise | Drawn
) -> Tensor:
    """Adversarial images of a batch. The attack moves no running statistics; what follows uses those of the batch."""
    normalise_by(model.visual, "running statistics")
    adv = attack.maximise(method.inner_objective(model, batch), batch.images, noise)
    if attack.gradient_leak:  # otherwise gradients are those of the step's parts before this one
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
    """The method's anchors of every sample, on the CPU; None: it has none.

    They are made in batches of the training's shape, so in its kernels, and in its precision.
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


def mean_curve(curves: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, float | str]]:
    """The mean over seeds of every term, step by step, of curves as they were read from CSV."""
    return [
        {key: rows[0][key] if key in ("step", "lr") else fmean(float(row[key]) for row in rows) for key in rows[0]}
        for rows in zip(*curves, strict=True)
    ]
