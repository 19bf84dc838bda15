"""Any classifier of pixels under any attacks: what `zsr.evaluate` and the command `zsr evaluate` run."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from zsr import files
from zsr.data.prepared import Split
from zsr.defences._base import Defence, Tower
from zsr.evaluation import audit, results
from zsr.evaluation.defence_records import DefenceResult
from zsr.evaluation.defended import defence_by_name, defending_for, measured
from zsr.evaluation.evaluate import Attack, Evaluation, attacks_run, protocol
from zsr.evaluation.evaluate import evaluate as judge_split
from zsr.evaluation.records import Mark, Record
from zsr.models.heads import PixelClassifier
from zsr.params import BatchSize, ParamError, build, module_of
from zsr.scratch import Watch, unwatched

BATCH_SIZE, SAVE_EVERY = 64, 4
FULL = {"n_iter": 100, "n_queries": 5000}  # the field's numbers; with fewer a result is a quick look
MODEL, IMAGES = "model", "images"  # names of a model and of images that have none
Watched = Callable[[str, str, Path], Watch]  # (set, attack, file of the record) -> how to watch the evaluation


def attack_of(name: str, eps: float | str, **numbers: Any) -> Attack:
    """An attack by the name of its module, such as "autoattack", with the field's defaults.

    Args:
        name: a module of `zsr.attacks`.
        eps: radius of the ball, in units of the pixel range [0, 1]; a text such as "1/255" is a number, too.
        numbers: other values of the attack. A value that the attack does not have is left out.

    Raises:
        ParamError: no such attack; a value out of range.
    """
    schema = module_of("zsr.attacks", name, "attack").ATTACK
    known = {key: value for key, value in numbers.items() if key in schema.__dataclass_fields__}
    if "eps" in schema.__dataclass_fields__:
        known["eps"] = eps
    return build(schema, known, name)


@dataclass(frozen=True)
class Pictures:
    """N labelled images in memory, with what `zsr.evaluation.evaluate.evaluate` asks of a split.

    Attributes:
        images: (N, 3, H, W), fp32 in [0, 1].
        labels: (N,) int64.
        ids: (N,) int64, the numbers of the images, on which the noise of attacks depends.
    """

    images: Tensor
    labels: Tensor
    ids: np.ndarray

    @classmethod
    def checked(cls, images: Any, labels: Any, ids: Sequence[int] | None = None) -> "Pictures":
        """Pictures of arrays or tensors. uint8 images are divided by 255.

        Raises ParamError: images have another shape, or values outside [0, 1]; not one label for each image.
        """
        pixels, numbers = torch.as_tensor(images), torch.as_tensor(labels)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels):
            raise ParamError(f"images must be (N, 3, H, W), got {tuple(pixels.shape)}")
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.detach().float()
        low, high = pixels.min().item(), pixels.max().item()
        if not (0 <= low and high <= 1):
            raise ParamError(
                f"images must lie in [0, 1], got {low:.3g} to {high:.3g}: the model normalises pixels, not the caller"
            )
        if numbers.shape != pixels.shape[:1] or numbers.is_floating_point():
            raise ParamError(
                f"labels must be one whole number for each of {len(pixels)} images, got {tuple(numbers.shape)} of "
                f"{str(numbers.dtype).removeprefix('torch.')}"
            )
        rows = np.arange(len(pixels)) if ids is None else np.asarray(ids, np.int64)
        if len(rows) != len(pixels) or len(set(rows.tolist())) < len(rows):
            raise ParamError(f"ids must be one number for each of {len(pixels)} images, none twice")
        return cls(pixels.cpu(), numbers.long().cpu(), rows)

    def tensors(self, rows: Sequence[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, list[int]]:
        """Images, labels and ids of the given rows."""
        taken = list(rows)
        return self.images[taken].to(device), self.labels[taken].to(device), self.ids[taken].tolist()

    def part(self, rows: slice) -> "Pictures":
        """The images of a slice."""
        return Pictures(self.images[rows], self.labels[rows], self.ids[rows])


@dataclass(frozen=True, eq=False)
class Result:
    """The accuracy of one model on one or several sets, without an attack and under each of several.

    An image counts under an attack where the model is right without and with it, and in the worst case where it counts
    under every attack. Accuracies are in percent; of several sets they are means with equal weights. Intervals are
    95 % and cover the choice of images.

    Attributes:
        records: one record for each set and attack, with a verdict for each image.
        quick: why the numbers are a quick look and not comparable with others; "" where they are no quick look.
    """

    records: tuple[Record, ...]
    quick: str = ""
    _cells: dict = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = {(r.method, r.attack, r.set_name): [r] for r in self.records}
        object.__setattr__(self, "_cells", results.with_worst_case(results.with_clean(given)))

    @property
    def sets(self) -> list[str]:
        """The names of the sets."""
        return list(dict.fromkeys(name for _, _, name in self._cells))

    @property
    def attacks(self) -> list[str]:
        """The names of the attacks, after "clean"; of several attacks, "worst_case" is the last."""
        return list(dict.fromkeys(attack for _, attack, _ in self._cells))

    @property
    def n(self) -> int:
        """The number of images of all sets."""
        return sum(self._record(results.CLEAN, name).n for name in self.sets)

    @property
    def clean(self) -> float:
        """Accuracy without an attack, in percent."""
        return self.accuracy(results.CLEAN)[0]

    @property
    def robust(self) -> float:
        """Accuracy in the worst case of all attacks, in percent."""
        return self.accuracy(self.attacks[-1])[0]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `robust`, in percent."""
        return self.accuracy(self.attacks[-1])[1:]

    @property
    def verdicts(self) -> np.ndarray:
        """Which images count in the worst case, (N,) bool, in the order of the images, set after set."""
        return np.concatenate([self._record(self.attacks[-1], name).hits for name in self.sets])

    @property
    def marks(self) -> dict[tuple[str, str], list[Mark]]:
        """(set, attack) -> why its number is not to be trusted as it stands. No key where nothing was found."""
        return {(name, attack): found for (_, attack, name), found in audit.marks(self._cells).items()}

    def accuracy(self, attack: str, set_name: str = "") -> tuple[float, float, float]:
        """Accuracy under an attack and the ends of its 95 % interval, in percent, of one set or of all sets."""
        names = [set_name] if set_name else self.sets
        samples = [results.Sample.of(self._record(attack, name).hits[None].astype(float)) for name in names]
        summary = results.average(samples)
        return float(summary["mean"]), float(summary["low"]), float(summary["high"])

    def rows(self) -> list[dict[str, str]]:
        """The table of the result: a row for each set, and their mean where there are several."""
        rows = []
        for name in [*self.sets, *([""] if len(self.sets) > 1 else [])]:
            named = [name] if name else self.sets
            count = sum(self._record(results.CLEAN, one).n for one in named)
            row = {"set": name or "mean", "n": str(count)}
            for attack in self.attacks:
                value, low, high = self.accuracy(attack, name)
                row[attack.replace("_", " ")] = f"{value:.1f} [{low:.1f}, {high:.1f}]"
            found = {mark.name for (one, _), marks in self.marks.items() if one in named for mark in marks}
            rows.append(row | {"marks": " ".join(sorted(found))})
        return rows if any(row["marks"] for row in rows) else [_without(row, "marks") for row in rows]

    def save(self, folder: Path) -> list[Path]:
        """Write the records, folder/ATTACK/SET.json; returns their paths."""
        paths = [folder / record.attack / f"{record.set_name}.json" for record in self.records]
        for record, path in zip(self.records, paths):
            record.save(path)
        return paths

    def __repr__(self) -> str:
        from tabulate import tabulate

        return "\n".join([tabulate(self.rows(), headers="keys", disable_numparse=True), *self._notes()])

    def _repr_html_(self) -> str:
        from html import escape

        from tabulate import tabulate

        table = tabulate(self.rows(), headers="keys", tablefmt="html", disable_numparse=True)
        return table + "".join(f"<p>{escape(note)}</p>" for note in self._notes())

    def _notes(self) -> list[str]:
        notes = [f"Quick look: {self.quick}"] if self.quick else []
        reasons = dict.fromkeys(f"{m.name}: {m.reason}" for marks in self.marks.values() for m in marks)
        return notes + [f"Mark {reason}" for reason in reasons]

    def _record(self, attack: str, name: str) -> Record:
        return next(records[0] for (_, a, s), records in self._cells.items() if (a, s) == (attack, name))


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Any,
    labels: Any,
    *,
    attack: str | Attack | Sequence[str | Attack] = "autoattack",
    eps: float | str = 1 / 255,
    n_iter: int = 0,
    classnames: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    ids: Sequence[int] | None = None,
    set_name: str = IMAGES,
    defence: str | Defence = "",
    origin: nn.Module | None = None,
) -> Result | DefenceResult:
    """Attack a classifier and count what it still gets right.

    Args:
        model: pixels in [0, 1] to logits (not probabilities), (B, 3, H, W) -> (B, C); it normalises pixels itself.
        images: (N, 3, H, W), in [0, 1] or uint8.
        labels: (N,) whole numbers, the true classes.
        attack: names of `zsr.attacks`, such as "autoattack" or "pgd", or attacks that are made already.
        eps: radius of the l-infinity ball of attacks that are named, in units of the pixel range [0, 1].
        n_iter: iterations of attacks that are named, for a quick look; 0: the field's numbers.
        classnames: names of the C classes; they are compared with the number of logits.
        seed: seed of the attacks' noise.
        batch_size: images in one pass. It changes rounding only.
        ids: numbers of the images, on which the noise depends; by default their places.
        set_name: name of the set in the result, on which the noise depends, too.
        defence: a name of `zsr.defences`, such as "ttc", or a defence that is made already; the result has its columns.
        origin: a classifier with the original CLIP, where the model was fine-tuned and the defence reads the original.

    Raises:
        StudyError: images, labels or a value are not what they must be; no gradient reaches the pixels.
    """
    size = build(BatchSize, batch_size, "batch_size")
    pictures, device = Pictures.checked(images, labels, ids), _device_of(model)
    named, sets = attacks_by_name(attack, eps, n_iter), {set_name: cast(Split, pictures)}
    _check_classes(model, pictures, classnames, device)
    evaluation = Evaluation(seed=seed, batch_size=min(size, len(pictures.ids)), save_every=SAVE_EVERY)
    with kept_as_it_was(model), kept_as_it_was(origin):
        if defence:
            return _defended(model, origin, sets, named, defence_by_name(defence), evaluation, device)
        return Result(tuple(judged(model, sets, named, evaluation, device=device)), quick_look(named))


def _device_of(model: Any) -> torch.device:
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    return parameters[0].device if parameters else torch.device("cpu")


def _defended(
    model: Any, origin: Any, sets: Any, attacks: dict[str, Any], defence: Defence, evaluation: Evaluation, device: Any
) -> DefenceResult:
    if defence.neutral_templates():
        raise ParamError(f"defence {defence.name} reads the text tower; use `zsr evaluate --defence {defence.name}`")
    if defence.needs_features and not hasattr(model, "image_features"):
        raise ParamError(f"defence {defence.name} needs a model of zsr.zero_shot, or one with image_features")
    for module in (model, origin):
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    towers = {name: Tower(model, origin) for name in sets}
    images = sum(len(pictures.ids) for pictures in sets.values())
    return measured(towers, sets, attacks, defence, evaluation, defending_for(attacks, images), device=device)


def attacks_by_name(attack: Any, eps: float | str, n_iter: int = 0) -> dict[str, Attack]:
    """Attacks by name, of names or of attacks that are made already."""
    numbers = {"n_iter": n_iter, "n_queries": n_iter} if n_iter else {}
    named: dict[str, Attack] = {}
    for one in attack if isinstance(attack, (list, tuple)) else [attack]:
        name = one if isinstance(one, str) else type(one).__module__.rpartition(".")[2]
        if name in named:
            raise ParamError(f"attack {name} is there twice")
        named[name] = attack_of(one, eps, **numbers) if isinstance(one, str) else one
    if not named:
        raise ParamError("attack must name at least one attack")
    return named


def quick_look(attacks: Mapping[str, Attack]) -> str:
    """Which attacks run with fewer iterations than the field's; "" where none does."""
    few = [
        f"{name} with {key} {getattr(attack, key)} in place of {full}"
        for name, attack in attacks.items()
        for key, full in FULL.items()
        if getattr(attack, key, full) < full
    ]
    return ", ".join(few)


def judged(
    model: Any,
    sets: Mapping[str, Split],
    attacks: Mapping[str, Attack],
    evaluation: Evaluation,
    *,
    name: str = MODEL,
    wordings: Mapping[str, str] | None = None,
    device: torch.device | None = None,
    kept: Path | None = None,
    fingerprint: str = "",
    watched: Watched = lambda set_name, attack, path: unwatched,
) -> Iterator[Record]:
    """The record of every set under every attack, as each is done.

    model: a classifier, or name of a set -> its classifier. sets, attacks: by name. name: of the model in the records.
    wordings: name of a set -> description of its prompts. device: of the model. kept: the folder in which records grow,
    so that an interrupted run goes on; None: nothing is kept. fingerprint: the hash of the model and the sets, where
    something is kept. watched: how to watch each evaluation.
    """
    with TemporaryDirectory() if kept is None else nullcontext(str(kept)) as folder:
        for set_name, split in sets.items():
            classifier = cast(PixelClassifier, model[set_name] if isinstance(model, Mapping) else model)
            for attack_name, attack in attacks.items():
                wording = (wordings or {}).get(set_name, "no prompts")
                blank = Record(
                    method=name,
                    seed=0,
                    attack=attack_name,
                    set_name=set_name,
                    fingerprint=files.digest(fingerprint, repr(attack), repr(evaluation)),
                    protocol=_protocol(classifier, attack, split, wording, evaluation),
                    attacks_run=attacks_run(attack, attack_name, _classes(classifier, split, device)),
                    counted=evaluation.counted,
                )
                path = Path(folder) / attack_name / f"{set_name}.json"
                watch = watched(set_name, attack_name, path)
                with files.claimed(path):
                    yield judge_split(
                        classifier, attack, split, blank, evaluation, path, watch, device=device or torch.device("cpu")
                    )


class kept_as_it_was:
    """A context that gives back a module's training mode and which parameters require gradients."""

    def __init__(self, model: Any) -> None:
        self.modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self.parameters = list(model.parameters()) if isinstance(model, nn.Module) else []

    def __enter__(self) -> None:
        self.before = [module.training for module in self.modules], [p.requires_grad for p in self.parameters]

    def __exit__(self, *error: Any) -> None:
        for module, training in zip(self.modules, self.before[0]):
            module.training = training
        for parameter, needed in zip(self.parameters, self.before[1]):
            parameter.requires_grad_(needed)


def weights_digest(model: nn.Module) -> str:
    """A digest of all parameters and buffers of a module."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _without(row: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in row.items() if name != key}


@torch.no_grad()
def _classes(model: Any, split: Any, device: torch.device | None) -> int:
    return model(split.tensors(range(1), device or torch.device("cpu"))[0]).shape[1]


def _check_classes(model: Any, pictures: Pictures, classnames: Sequence[str], device: torch.device) -> None:
    logits, most = _classes(model, pictures, device), int(pictures.labels.max())
    if classnames and len(classnames) != logits:
        raise ParamError(f"classnames has {len(classnames)} names, and the model gives {logits} logits")
    if most >= logits or int(pictures.labels.min()) < 0:
        raise ParamError(f"labels must be from 0 to {logits - 1}, one of {logits} logits, got {most}")


def _protocol(model: Any, attack: Attack, split: Any, wording: str, evaluation: Evaluation) -> str:
    images, facts = split.images, getattr(model, "facts", f"logits of {type(model).__name__}")
    side = images.shape[2] if images.shape[1] == 3 else images.shape[1]
    return protocol(cast(PixelClassifier, _Facts(facts)), attack, side, wording, evaluation)


@dataclass(frozen=True)
class _Facts:
    facts: str
