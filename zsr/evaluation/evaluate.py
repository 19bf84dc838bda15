"""The one evaluation loop: it attacks images, judges the predictions, keeps bits per image, and can be resumed."""

import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from zsr import compute, scratch
from zsr.attacks.batch import Noise
from zsr.compute import HALF, Compute, Precision, autocast, matmul_precision
from zsr.data.prepared import Prepared, Split
from zsr.evaluation.records import TOTALS, Record, merged
from zsr.evaluation.sentinels import inspect
from zsr.models import heads
from zsr.models.heads import Model, PixelClassifier, Whole
from zsr.models.passes import filled
from zsr.params import BatchSize, Checked, Count, ParamError, Seed, StudyError, Threads
from zsr.scratch import Watch, unwatched

CPU = torch.device("cpu")
ROUNDING = 1e-6  # tolerance for rounding of pixels in [0, 1], fp32
SHARED = ("set_name", "fingerprint", "protocol", "counted")  # what a record in a file must have to be continued
INSPECTED = 8  # number of images on which a model is checked before it is attacked


@dataclass(frozen=True, kw_only=True)
class Evaluation(Checked):
    """The block `evaluate` of params.yaml.

    Attributes:
        seed: the seed of the attacks' noise.
        batch_size: the batch size of the model's passes. It changes rounding only, since noise belongs to the image.
        save_every: number of batches between partial records. Within these batches, the next image takes the place of
            an image whose attack is done.
        workers: number of sets that are judged at the same time, each with its share of the threads; one on a GPU.
        protocol: the name of a row of `protocols`, whose values replace values of `evaluate` and of `attacks`.
        precision: the precision of every pass, verdicts included, where the attack does not set another precision.
        counted: which images count as right: "both" without and with the attack, "adv" with the attack only.
    """

    seed: Seed
    batch_size: BatchSize
    save_every: Count
    workers: Threads = 1
    protocol: str = "trusted"
    precision: Precision = "fp32"
    counted: Literal["both", "adv"] = "both"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Values of `evaluate` and of blocks of `attacks` that belong together.

    Attributes:
        evaluate: keys of `evaluate` and their values.
        attacks: keys of blocks of `attacks` and their values, by the name of the attack.
    """

    evaluate: dict[str, Any] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)


class Attack(typing.Protocol):
    """The interface of an attack, which is a frozen dataclass of hyper-parameters."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def eps(self) -> float:
        """Radius of the ball around an image, in units of the pixel range [0, 1]."""

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        noise: Noise | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball."""

    def protocol(self) -> str:
        """The facts that travel with every number of this attack."""


class Meter:
    """A wrapper of a classifier that counts passes and checks gradients. The attack does not notice the wrapper.

    An attack may pass any of the images in any order, moved inside their balls. Each passed image is identified with
    the nearest attacked image, by thumbnails.

    Attributes:
        model: the classifier.
        images: the attacked images, (N, 3, H, W) in [0, 1].
        precision: the precision of the passes, where the attack does not set another precision.
        thumbnails: the thumbnails of the images, (N, 192).
        forwards: number of passes without a gradient, counted per image of a batch.
        gradients: number of passes with a gradient, counted per image of a batch.
        zero_pixels: number of entries that are exactly zero, in the gradients that are not zero everywhere.
        pixels: number of all entries of these gradients.
    """

    zero_pixels: int | Tensor
    pixels: int | Tensor

    def __init__(self, model: PixelClassifier, images: Tensor, precision: Precision = "fp32") -> None:
        self.model, self.images, self.precision = model, images, precision
        self.thumbnails = _thumbnails(images)
        self.forwards = self.gradients = 0
        self.zero_pixels = self.pixels = 0
        self._zero, self._broken = (torch.zeros(len(images), dtype=torch.int64, device=images.device) for _ in range(2))

    @property
    def zero(self) -> Tensor:
        """Which images had a gradient of zero at every pixel in some pass, (N,)."""
        return self._zero > 0

    @property
    def broken(self) -> Tensor:
        """Which images had logits or a gradient that are not finite in some pass, (N,)."""
        return self._broken > 0

    def __call__(self, images: Tensor) -> Tensor:
        """Logits in fp32, (B, 3, H, W) -> (B, C). Raises StudyError where no gradient reaches the pixels."""
        with autocast(images.device, self.precision):  # fp32 does not change an autocast of the attack
            logits = self.model(images).float()
        if images.requires_grad and torch.is_grad_enabled():
            if not logits.requires_grad:
                raise StudyError("no gradient reaches the pixels: the model's forward is detached from its input")
            self.gradients += len(images)
            images.register_hook(partial(self._look, images.detach()))
        else:
            self.forwards += len(images)
        self._note(self._broken, ~logits.isfinite().all(dim=1), images.detach())
        return logits

    def totals(self) -> dict[str, int]:
        """The counts of passes and of entries, by the names of TOTALS."""
        return {name: int(getattr(self, name)) for name in TOTALS}

    def _look(self, images: Tensor, gradient: Tensor) -> None:
        zeros = (gradient == 0).flatten(1)
        some = ~zeros.all(dim=1)
        self.zero_pixels = self.zero_pixels + (zeros & some[:, None]).sum()
        self.pixels = self.pixels + some.sum() * zeros.shape[1]
        self._note(self._zero, ~some, images)
        self._note(self._broken, ~gradient.isfinite().flatten(1).all(dim=1), images)

    def _note(self, counts: Tensor, rows: Tensor, images: Tensor) -> None:
        if images.device.type == "cpu" and not rows.any():
            return  # on the CPU only: on a GPU the test would wait for the device
        moved = torch.cdist(_thumbnails(images), self.thumbnails)
        counts.index_add_(0, moved.nan_to_num(torch.inf).argmin(dim=1), rows.long())


def _thumbnails(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 192). Thumbnails of two images differ by more than an attack moves them, unless alike."""
    return adaptive_avg_pool2d(images, 8).flatten(1)


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """All inputs of one record, which make the key of its kept work: a model under an attack on a set.

    Attributes:
        attack: the attack with its hyper-parameters.
        attacks_run: the attacks behind the attack's name, as listed in the record.
        set_name: the name of the set, on which the noise depends.
        evaluation: seed, batches and precision.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads for one set.
        weights: the file of the model.
        tower: a file that replaces the model's image tower, or None.
        images: the file of the split.
        last: only the last `last` images of the file are used; 0: all images.
        text_embeddings: the file of the text embeddings; a linear head does not use them.
    """

    attack: Attack
    attacks_run: tuple[str, ...]
    set_name: str
    evaluation: Evaluation
    model: Model
    compute: Compute
    threads: int
    weights: Path
    tower: Path | None
    images: Path
    last: int
    text_embeddings: Path


@dataclass(frozen=True, kw_only=True)
class Judging:
    """One model under one attack, on any number of sets.

    Attributes:
        method: the name of the method in the records.
        seed: the seed of the training.
        attack_name: the name of the attack in the records.
        attack: the attack with its hyper-parameters.
        evaluation: seed, batches, precision, and the number of sets at the same time.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads for all sets that are judged at the same time.
        weights: the file of the model.
        tower: a file that replaces the model's image tower, or None.
    """

    method: str
    seed: int
    attack_name: str
    attack: Attack
    evaluation: Evaluation
    model: Model
    compute: Compute
    threads: int
    weights: Path
    tower: Path | None = None

    @property
    def threads_each(self) -> int:
        """The number of CPU threads for one set."""
        return max(self.threads // self.evaluation.workers, 1)

    def task(self, set_name: str, data: Prepared) -> EvaluationTask:
        """The inputs of the record of one set."""
        return EvaluationTask(
            attack=self.attack,
            attacks_run=attacks_run(self.attack, self.attack_name, len(data.split.classnames)),
            set_name=set_name,
            evaluation=self.evaluation,
            model=self.model,
            compute=self.compute,
            threads=self.threads_each,
            weights=self.weights,
            tower=self.tower,
            images=data.images,
            last=data.last,
            text_embeddings=data.text,
        )


def judge(
    judging: Judging, sets: Mapping[str, Prepared], code: str, watch_of: Callable[[str], Watch], out: Path
) -> None:
    """Write out/<set>.json for every set; each record is kept as soon as it is done. code: as in `zsr.scratch.key`.

    Raises ParamError where several sets would share a GPU at the same time: numeric flags hold for the whole process.
    """
    workers = judging.evaluation.workers
    if workers > 1 and judging.compute.place().type == "cuda":
        raise ParamError(f"evaluate.workers must be 1 on a GPU, got {workers}")
    torch.set_num_threads(judging.threads_each)
    tasks = {name: judging.task(name, data) for name, data in sets.items()}
    keys = {name: scratch.key(task, code) for name, task in tasks.items()}
    whole = heads.load(judging.model, judging.weights, judging.tower)

    def record_of(name: str) -> Record:
        return _judged(judging, tasks[name], sets[name], whole, keys[name], watch_of(name))

    alone = workers == 1 or compute.world_size() > 1  # then in the main thread, which numeric flags of a GPU need
    with nullcontext() if alone else ThreadPool(min(workers, len(sets) or 1)) as pool:
        for name, record in zip(sets, map(record_of, sets) if pool is None else pool.imap(record_of, sets)):
            if compute.rank() == 0:
                record.save(out / f"{name}.json")
    compute.of_first(None)  # every process waits until the files are written


def _judged(judging: Judging, task: EvaluationTask, data: Prepared, whole: Whole, key: str, watch: Watch) -> Record:
    """The record of one set. The processes of the run divide the images; the first process keeps the whole record."""
    made = heads.classifier(task.model, whole, data.text_embeddings, task.compute)
    model = typing.cast(PixelClassifier, made)  # a linear head lacks the text attributes, which are not used here
    evaluation, split = task.evaluation, data.split
    blank = Record(
        method=judging.method,
        seed=judging.seed,
        attack=judging.attack_name,
        set_name=task.set_name,
        fingerprint=key,
        protocol=protocol(model, task.attack, split.images.shape[1], data.wording, evaluation),
        attacks_run=task.attacks_run,
        counted=evaluation.counted,
    )
    rank, world_size = shard = compute.rank(), compute.world_size()
    run = partial(evaluate, model, task.attack, split, blank, evaluation, device=task.compute.place())
    record_path = scratch.folder() / "evaluate" / f"{key}.json"
    with scratch.claimed("evaluate", record_path.name) if rank == 0 else nullcontext():
        if world_size == 1:
            return run(record_path, watch)
        if compute.of_first(rank == 0 and _resumed(record_path, blank, split).n == len(split.ids)):
            return compute.of_first(rank == 0 and run(record_path, watch))
        shard_path = record_path.with_name(f"{record_path.stem}-{rank}of{world_size}.json")
        record = merged(compute.gathered(run(shard_path, watch, shard=shard)), split.ids.tolist())
        if rank == 0:
            record.save(record_path)
        shard_path.unlink(missing_ok=True)  # a process may have no image of a small set
        return record


def protocol(model: PixelClassifier, attack: Attack, image_size: int, wording: str, evaluation: Evaluation) -> str:
    """The facts that travel with every number. wording: describes the prompts, which a linear head does not have."""
    passes = (
        "the model in fp32 where the attack does not say otherwise"
        if evaluation.precision == "fp32"
        else f"every pass, also of the attack, in {evaluation.precision}{' autocast' * (evaluation.precision in HALF)}"
    )
    counted = "right without and with the attack" if evaluation.counted == "both" else "right with the attack"
    return (
        f"{attack.protocol()}; acts at {image_size} px; noise seed {evaluation.seed}; batches of "
        f"{evaluation.batch_size}; {model.facts}; {wording}; {passes}; "
        f"counts images {counted}"
    )


def attacks_run(attack: Attack, name: str, n_classes: int) -> tuple[str, ...]:
    """The attacks behind a name: the parts of an ensemble, fewer for few classes; else the name alone."""
    return attack.attacks_run(n_classes) if hasattr(attack, "attacks_run") else (name,)


def evaluate(
    model: PixelClassifier,
    attack: Attack,
    split: Split,
    blank: Record,
    evaluation: Evaluation,
    record_path: Path,
    watch: Watch = unwatched,
    shard: tuple[int, int] = (0, 1),
    device: torch.device = CPU,
) -> Record:
    """The record of a split, or of a shard of the split. The evaluation continues the record in the file `record_path`.

    The file is written again as the record grows. blank: a record without bits that names the cell. A record in the
    file with another fingerprint, or of other images, is not used: the evaluation begins anew. The model is checked
    before it is attacked, and failed checks go into the record as marks. shard: (index, count);
    `zsr.evaluation.records.merged` puts the records of shards together.
    """
    index, count = shard
    shard_split = split.part(slice(index, None, count))
    record = _resumed(record_path, blank, shard_split)
    model.eval().requires_grad_(False)
    with matmul_precision(device, evaluation.precision):
        if not record.n and attack.eps:
            images, labels, _ = split.tensors(range(min(INSPECTED, len(split.ids))), device)
            record = replace(record, marks=inspect(model, images, labels))
        step = evaluation.batch_size * evaluation.save_every
        done, n = record.n, len(shard_split.ids)
        starts = watch(range(done, n, step), done, lambda: record)
        for start in starts:
            images, labels, ids = shard_split.tensors(range(start, min(start + step, n)), device)
            record = _extended(record, model, attack, images, labels, ids, evaluation)
            record.save(record_path)
    return record


def _resumed(record_path: Path, blank: Record, split: Split) -> Record:
    """The record in the file, under the names of the blank record: equal models share their work under any name."""
    record = scratch.readable(record_path, Record.load)
    if record is None or any(getattr(record, name) != getattr(blank, name) for name in SHARED):
        return blank
    if not np.array_equal(record.ids, split.ids[: record.n]):
        return blank
    return replace(record, method=blank.method, seed=blank.seed, attack=blank.attack)


def _extended(
    record: Record,
    model: PixelClassifier,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    ids: list[int],
    evaluation: Evaluation,
) -> Record:
    """The record extended by the verdicts of a batch of images."""
    meter, size = Meter(model, images, evaluation.precision), evaluation.batch_size
    noise = Noise(evaluation.seed, record.set_name, ids)
    adv, whole = attacked(meter, attack, images, labels, noise, size)
    (clean, clean_finite), (robust, finite) = (_verdicts(meter, x, labels, size) for x in (images, adv))
    again = (robust & ~_right_at_low_precision(meter, adv, labels, attack, size)).nonzero().squeeze(1)
    if len(again):
        retried = replace(attack, precision="fp32")
        adv[again], whole[again] = attacked(meter, retried, images[again], labels[again], noise.take(again), size)
        robust, finite = _verdicts(meter, adv, labels, size)
    clean = clean & clean_finite
    bits = {"clean_bits": clean, "adv_bits": torch.where(finite, robust, clean)}
    bits |= {"zero_bits": meter.zero, "broken_bits": meter.broken | ~whole}
    grown: dict[str, Any] = {
        name: np.append(getattr(record, name), image_bits.cpu().numpy()) for name, image_bits in bits.items()
    }
    grown |= {name: getattr(record, name) + total for name, total in meter.totals().items()}
    return replace(record, ids=np.append(record.ids, ids), **grown)


def attacked(
    model: Callable[[Tensor], Tensor],
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Adversarial images, and which of them are finite, (N,). A clean image replaces an image that is not finite.

    The attack may be a user's own, so it gets a copy of the images. Raises StudyError where it gives no such images, or
    images that do not lie in its ball.
    """
    adv: Any = attack(model, images.clone(), labels, noise, batch_size)
    if not isinstance(adv, Tensor) or adv.shape != images.shape:
        given = list(adv.shape) if isinstance(adv, Tensor) else type(adv).__name__
        raise StudyError(f"{_named(attack)} must give images of the shape {list(images.shape)}, and gave {given}")
    whole = adv.isfinite().flatten(1).all(dim=1)
    adv = torch.where(whole[:, None, None, None], adv, images).to(images)
    _check_ball(adv, images, attack)
    return adv, whole


def _right_at_low_precision(meter: Meter, adv: Tensor, labels: Tensor, attack: Attack, batch_size: int) -> Tensor:
    """Which images are classified right in the precision of the attack's gradients, (N,).

    An attack that stops at success may have stopped too early, because its precision is lower than that of the verdict.
    Where the two precisions disagree, the attack continues in fp32.
    """
    precision: Precision = getattr(attack, "precision", "fp32")
    if meter.precision != "fp32" or precision in ("fp32", "fp16") or getattr(attack, "success", "any") == "last":
        return torch.ones_like(labels, dtype=torch.bool)
    rough = Meter(meter.model, meter.images, precision)
    with matmul_precision(adv.device, precision):
        return _verdicts(rough, adv, labels, batch_size)[0]


@torch.no_grad()
def _verdicts(model: Meter, images: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Which predictions are right, (N,), and which logits are finite, (N,)."""
    parts = [model(images[rows]) for rows in filled(len(images), batch_size, images.device)]
    logits = torch.cat(parts)[: len(images)]
    return logits.argmax(dim=1) == labels, logits.isfinite().all(dim=1)


def _check_ball(adv: Tensor, images: Tensor, attack: Attack) -> None:
    """Raise StudyError where attacked images do not lie in the ball of the attack and in [0, 1]."""
    order = 2 if getattr(attack, "norm", "linf") == "l2" else torch.inf
    distance = float((adv - images).flatten(1).norm(p=order, dim=1).max())
    if not distance <= attack.eps + ROUNDING:
        raise StudyError(f"{_named(attack)} left its ball: an image moved by {distance:g}, and eps is {attack.eps:g}")
    if not (adv.min() >= 0 and adv.max() <= 1):
        raise StudyError(f"{_named(attack)} left the range of pixels, [0, 1]: mend the attack")


def _named(attack: Attack) -> str:
    return f"the attack {type(attack).__name__} of {type(attack).__module__}"
