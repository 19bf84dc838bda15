"""A defence at test time under attacks that do not see the defence, and under attacks that do.

An adaptive attack is an attack of the study on `_Seen`, the defence as a model of pixels: the mean of the surrogate's
logits over fresh draws (EOT, expectation over transformation, Athalye et al., ICML 2018). Where a defence is random,

- an attack returns its last iterate, or the iterate of largest loss, and never the first that fools one draw;
- AutoAttack is APGD on cross-entropy and APGD on the margin, without dropping images that escape by luck;
- the verdicts have other draws than the attack.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from zsr import files, scratch
from zsr.attacks.apgd import APGD, Ascent
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.batch import Noise
from zsr.attacks.pgd import SignAttack
from zsr.attacks.square import Square
from zsr.compute import Compute, matmul_precision
from zsr.data.prepared import Prepared
from zsr.defences._base import AS_IS, ATTACK_DRAWS, Defence, Tower
from zsr.evaluation.defence_records import CHECKED, COUNTS, UNDEFENDED, DefenceRecord, DefenceResult
from zsr.evaluation.evaluate import INSPECTED, Attack, Evaluation, attacked
from zsr.evaluation.records import Mark
from zsr.models import clip, heads
from zsr.models.heads import Model, PixelClassifier, Whole, tower_of
from zsr.models.passes import margin, predict
from zsr.params import (
    Checked,
    Images,
    ImagesOrNone,
    IterationsOrNone,
    ParamError,
    PixelRange,
    Rounds,
    block,
    build,
    module_of,
    over,
    row,
)
from zsr.scratch import Watch, unwatched

VANISHED = 1e-3  # a gradient below this share of the gradient without the defence is of no use


@dataclass(frozen=True, kw_only=True)
class Defending(Checked):
    """The block `defend` of params.yaml: how defences are judged.

    Attributes:
        attacks: the rows of `attacks` that defences are judged under.
        sets: names of sets; empty: all sets.
        images: number of images of each set, the first ones.
        draws: number of draws that an adaptive attack averages over in each step; a deterministic defence has one.
        verdicts: number of verdicts for each image; a deterministic defence has one.
        queries: queries of Square on a defence that is deterministic; 0: Square does not run.
        checked: number of images of each set for the two checks of the adaptive attack, the first ones; 0: no checks.
            The first check doubles iterations and draws; the second takes `large_eps`.
        large_eps: eps at which an adaptive attack must leave next to nothing, in units of the pixel range [0, 1].
    """

    attacks: tuple[str, ...]
    sets: tuple[str, ...] = ()
    images: Images = 1000
    draws: Rounds = 10
    verdicts: Rounds = 5
    queries: IterationsOrNone = 2000
    checked: ImagesOrNone = 20
    large_eps: PixelRange = 24 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attacks or len(set(self.attacks)) < len(self.attacks):
            raise ValueError(f"attacks must be at least one, none twice, got {', '.join(self.attacks) or 'none'}")


# The defence as a model that attacks see


class _WithTerm(torch.autograd.Function):
    """The logits; the gradient of whatever score is taken of them has the gradient of the term's sum added."""

    @staticmethod
    def forward(context: Any, logits: Tensor, term: Tensor) -> Tensor:
        context.save_for_backward(torch.ones_like(term))
        return logits.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, *context.saved_tensors


class _Seen:
    """The defence on a tower as a model of pixels. Every pass has fresh draws."""

    def __init__(self, defence: Defence, tower: Tower, noise: Noise, draws: int, variant: str) -> None:
        self.defence, self.tower, self.noise, self.variant = defence, tower, noise, variant
        self.draws = 1 if defence.deterministic else draws
        self.drawn = ATTACK_DRAWS

    def __call__(self, images: Tensor) -> Tensor:
        """The mean of logits over the draws of this pass, (B, 3, H, W) -> (B, C). All images come, in their order."""
        assert self.defence.deterministic or len(images) == len(self.noise.ids), "a draw belongs to an image"
        draws = range(self.drawn, self.drawn + self.draws)
        self.drawn += self.draws
        parts = [self._pass(images, draw) for draw in draws]
        return torch.stack(parts).mean(dim=0) if len(parts) > 1 else parts[0]

    def _pass(self, images: Tensor, draw: int) -> Tensor:
        if not (images.requires_grad and torch.is_grad_enabled()):
            return self.defence.logits(self.tower, images, self.noise, draw).float()
        logits, term = self.defence.adaptive(self.tower, images, self.noise, draw, self.variant)
        if term is None:
            return logits.float()
        return cast(Tensor, _WithTerm.apply(logits.float(), term / self.draws))


def tailored(name: str, attack: Any, defence: Defence, variant: str, queries: int = 0) -> dict[str, Any]:
    """What an attack becomes against a defence, under one of its variants; {}: the attack has no such form.

    name: of the attack. queries: of Square, which runs beside the attack on a deterministic defence.
    """
    if defence.deterministic and variant == AS_IS:
        return {name: attack} | ({"square": Square(eps=attack.eps, n_queries=queries)} if queries else {})
    if isinstance(attack, SignAttack):
        return {name: replace(attack, success="last")}
    if isinstance(attack, (AutoAttack, APGD)):
        forms = (
            Ascent(
                norm=getattr(attack, "norm", "linf"),
                eps=attack.eps,
                n_iter=attack.n_iter,
                loss=loss,
                early_drop=False,
                result="loss",
            )
            for loss in ("ce", "margin")
        )
        return {f"{name} {form.name}": form for form in forms}
    return {}


def check_attacks(attacks: Mapping[str, Any], defence: Defence, key: str) -> None:
    """Raise ParamError where an attack has no adaptive form. key: of the list of attacks in params.yaml."""
    for name, attack in attacks.items():
        if not attack.eps or not tailored(name, attack, defence, AS_IS):
            raise ParamError(
                f"{key}: {name} cannot attack {defence.name}, which is random; choose rows of pgd, cw, apgd or "
                "autoattack"
            )


# One set


@dataclass(frozen=True)
class Bench:
    """A defence on a tower, and how it is judged.

    Attributes:
        defence: the defence.
        tower: the tower below the defence.
        attacks: the attacks, by name.
        defending: draws, verdicts and checks.
        evaluation: seed of the noise, and number of images in a pass.
    """

    defence: Defence
    tower: Tower
    attacks: Mapping[str, Attack]
    defending: Defending
    evaluation: Evaluation

    @property
    def verdicts(self) -> int:
        """Number of verdicts for each image."""
        return 1 if self.defence.deterministic else self.defending.verdicts

    def blank(self, facts: str, **cell: Any) -> DefenceRecord:
        """A record without counts. facts: about the model and the prompts. cell: names of the cell and fingerprint."""
        names = tuple(f"{name}/{variant}" for name, variant in self.adaptive_attacks())
        iterate = "" if self.defence.deterministic else ", each the last iterate or the iterate of largest loss"
        draws = 1 if self.defence.deterministic else self.defending.draws
        protocol = (
            f"{self.defence.protocol()}; oblivious: {' and '.join(a.protocol() for a in self.attacks.values())}; "
            f"adaptive: {', '.join(names)} on the defence{iterate}, {draws} draws in each step; verdicts: "
            f"{self.verdicts}; noise seed {self.evaluation.seed}; batches of {self.evaluation.batch_size}; {facts}"
        )
        return DefenceRecord(
            protocol=protocol,
            attacks=tuple(self.attacks),
            adaptive_attacks=names,
            verdicts=self.verdicts,
            violates=self.defence.violates,
            large_eps=self.defending.large_eps,
            **cell,
        )

    def adaptive_attacks(self, scale: int = 1, eps: float = 0.0) -> dict[tuple[str, str], Any]:
        """(name, variant) of every adaptive attack -> the attack. scale, eps: as of `adaptive`."""
        attacks = {name: _changed(attack, scale, eps) for name, attack in self.attacks.items()}
        return {
            (form_name, variant): form
            for variant in self.defence.variants
            for name, attack in attacks.items()
            for form_name, form in tailored(name, attack, self.defence, variant, self.defending.queries).items()
        }

    @torch.no_grad()
    def right(self, images: Tensor, labels: Tensor, noise: Noise, attacked: bool = True) -> tuple[Tensor, int]:
        """The number of right verdicts of every image, (N,), and the number of verdicts that are not finite.

        attacked: a verdict whose logits are not finite counts as right, since the attack has failed.
        """
        counts, broken = torch.zeros_like(labels), 0
        for draw in range(self.verdicts):
            logits = self.defence.logits(self.tower, images, noise, draw).float()
            finite = logits.isfinite().all(dim=1)
            counts += torch.where(finite, logits.argmax(dim=1) == labels, attacked)
            broken += int((~finite).sum())
        return counts, broken

    def oblivious(self, images: Tensor, labels: Tensor, noise: Noise) -> list[Tensor]:
        """The images of every attack under the tower alone."""
        return [attacked(self.tower, attack, images, labels, noise)[0] for attack in self.attacks.values()]

    def adaptive(
        self, images: Tensor, labels: Tensor, noise: Noise, counts: Tensor, scale: int = 1, eps: float = 0.0
    ) -> tuple[Tensor, int, Tensor]:
        """The lowest counts over all adaptive attacks, (N,), the number of broken verdicts, and the last images.

        An image of which no verdict is right any more is spared further attacks.

        Args:
            images: (N, 3, H, W) in [0, 1].
            labels: (N,).
            noise: of the images.
            counts: right verdicts on the images as they are, (N,).
            scale: factor of iterations and of draws.
            eps: eps in place of that of the attacks; 0: that of the attacks.
        """
        counts, broken, last = counts.clone(), 0, images.clone()
        for (_, variant), attack in self.adaptive_attacks(scale, eps).items():
            rows = counts.nonzero().squeeze(1)
            if not len(rows):
                break
            part = noise.take(rows)
            seen = _Seen(self.defence, self.tower, part, scale * self.defending.draws, variant)
            last[rows] = attacked(seen, attack, images[rows], labels[rows], part)[0]
            left, failed = self.right(last[rows], labels[rows], part)
            counts[rows], broken = torch.minimum(counts[rows], left), broken + failed
        return counts, broken, last

    def gradient_marks(self, images: Tensor, labels: Tensor, noise: Noise) -> tuple[Mark, ...]:
        """Marks of gradients that vanish: of the logits from end to end, and of the surrogate."""
        plain = _gradient_norms(self.tower, images, labels)
        found = []
        for name, through, forward in (
            ("zero_gradient", "from end to end", self.defence.logits),
            ("weak_surrogate", "of the surrogate", self.defence.surrogate),
        ):
            norms = _gradient_norms(partial(_drawn, forward, self.tower, noise), images, labels)
            lost = int((norms < VANISHED * plain).sum())
            if lost:
                size = f"the median is {(norms / plain).median():.1g} of that without the defence"
                found.append(Mark(name, f"the gradient {through} vanishes at {lost} of {len(images)} images: {size}"))
        return tuple(found)

    def judged(self, images: Tensor, labels: Tensor, noise: Noise, checked: int) -> dict[str, Any]:
        """Everything that a record holds of N images, by its names. checked: the number of images to check, at most N.

        Counts are tensors (N,); of the checks, (checked,).
        """
        watched = _Passes(self.tower)
        clean, broken = self.right(images, labels, noise, attacked=False)
        moved, clean_passes = {"clean": images}, watched.since()
        counts = {"clean": clean, "undefended_clean": _right(self.tower, images, labels)}
        attacked = self.oblivious(images, labels, noise)
        counts["undefended"] = _lowest([_right(self.tower, adv, labels) for adv in attacked])
        verdicts = [self.right(adv, labels, noise) for adv in attacked]
        counts["oblivious"], moved["oblivious"] = _lowest([right for right, _ in verdicts]), attacked[-1]
        broken, oblivious_passes = broken + sum(failed for _, failed in verdicts), watched.since()
        counts["adaptive"], failed, moved["adaptive"] = self.adaptive(images, labels, noise, clean)
        passes = {"clean": clean_passes, "oblivious": oblivious_passes, "adaptive": watched.since()}
        few = images[:checked], labels[:checked], noise.take(torch.arange(checked)), clean[:checked]
        counts["doubled"], counts["large"] = (
            self.adaptive(*few, **change)[0] for change in ({"scale": 2}, {"eps": self.defending.large_eps})
        )
        passes["checks"] = watched.since()
        with torch.no_grad():
            statistics = {c: self.defence.statistics(self.tower, x, noise, 0) for c, x in moved.items()}
        return {"counts": counts, "broken": broken + failed, "passes": passes, "statistics": statistics}


class _Passes:
    """The passes of a tower between two moments."""

    def __init__(self, tower: Tower) -> None:
        self.tower, self.before = tower, (tower.forwards, tower.gradients)

    def since(self) -> list[int]:
        """Passes without and with a gradient since the last call."""
        before, self.before = self.before, (self.tower.forwards, self.tower.gradients)
        return [now - then for now, then in zip(self.before, before)]


def _changed(attack: Any, scale: int, eps: float) -> Any:
    """The attack with `scale` times the iterations, and with another eps, with which its step grows; 0: its own."""
    changes: dict[str, Any] = {"n_iter": scale * attack.n_iter} if scale > 1 and hasattr(attack, "n_iter") else {}
    if eps:
        step = getattr(attack, "step_size", 0)
        changes |= {"eps": eps} | ({"step_size": min(step * eps / attack.eps, 1.0)} if step else {})
    return replace(attack, **changes)


def _right(tower: Tower, images: Tensor, labels: Tensor) -> Tensor:
    return (predict(tower, images).argmax(dim=1) == labels).long()


def _lowest(counts: list[Tensor]) -> Tensor:
    return torch.stack(counts).amin(dim=0)


def _drawn(forward: Any, tower: Tower, noise: Noise, images: Tensor) -> Tensor:
    return forward(tower, images, noise, 0)


def _gradient_norms(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Norm of the margin's gradient by the pixels of every image, (N,); 0 where no gradient flows."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        scores = margin(model(leaf).float(), labels).sum()
        if not scores.requires_grad:
            return images.new_zeros(len(images))
        (gradient,) = torch.autograd.grad(scores, leaf, allow_unused=True)
    return images.new_zeros(len(images)) if gradient is None else gradient.flatten(1).norm(dim=1)


# The record of one set, which grows batch by batch and can be resumed


def judge_split(
    bench: Bench, split: Any, blank: DefenceRecord, path: Path, watch: Watch = unwatched, device: Any = "cpu"
) -> DefenceRecord:
    """The record of the first images of a split, which continues the record in the file `path`.

    blank: a record without counts that names the cell. A record in the file of another fingerprint is not used.
    """
    n, size = min(bench.defending.images, len(split.ids)), bench.evaluation.batch_size
    record = _resumed(path, blank, split)
    with matmul_precision(torch.device(device), "fp32"):
        starts = watch(range(record.n, n, size), record.n, lambda: record)
        for start in starts:
            images, labels, ids = split.tensors(range(start, min(start + size, n)), device)
            noise = Noise(bench.evaluation.seed, blank.set_name, ids)
            if not start:
                few = slice(INSPECTED)
                marks = bench.gradient_marks(images[few], labels[few], replace(noise, ids=ids[few]))
                record = replace(record, marks=marks)
            checked = min(max(bench.defending.checked - start, 0), len(ids))
            record = _extended(record, ids, bench.judged(images, labels, noise, checked))
            record.save(path)
    return record


def _resumed(path: Path, blank: DefenceRecord, split: Any) -> DefenceRecord:
    record = scratch.readable(path, DefenceRecord.load)
    if record is None or (record.fingerprint, record.protocol) != (blank.fingerprint, blank.protocol):
        return blank
    if not np.array_equal(record.ids, split.ids[: record.n]):
        return blank
    return replace(record, defence=blank.defence, method=blank.method, seed=blank.seed)


def _extended(record: DefenceRecord, ids: list[int], new: Mapping[str, Any]) -> DefenceRecord:
    """The record with the counts of more images."""
    counts: dict[str, Any] = {
        name: np.append(getattr(record, name), new["counts"][name].cpu().numpy())
        for name in (*COUNTS, *UNDEFENDED, *CHECKED)
    }
    statistics = {
        name: {
            column: [*record.statistics.get(name, {}).get(column, ()), *(float(f"{v:.6g}") for v in values.tolist())]
            for column, values in ((column, found[name]) for column, found in new["statistics"].items())
        }
        for name in new["statistics"]["clean"]
    }
    passes = {
        name: [a + b for a, b in zip(record.passes.get(name, (0, 0)), more)] for name, more in new["passes"].items()
    }
    ids_so_far = np.append(record.ids, ids)
    return replace(
        record, ids=ids_so_far, statistics=statistics, passes=passes, broken=record.broken + new["broken"], **counts
    )


# A row of `defences` on a row of `methods`


@dataclass(frozen=True, kw_only=True)
class DefendedTask:
    """All inputs of one record, which make the key of its kept work: a defended model on a set.

    Attributes:
        defence: the defence with its hyper-parameters.
        defending: draws, verdicts, images and checks.
        attacks: the attacks, by name.
        set_name: the name of the set, on which the noise depends.
        seed: the seed of the noise.
        batch_size: number of images in a pass.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads.
        weights: the file of the model.
        base: the file of the original CLIP, which gives `Tower.origin` and `Tower.neutral`; None: neither is read.
        images: the file of the split.
        text_embeddings: the file of the text embeddings.
    """

    defence: Defence
    defending: Defending
    attacks: dict[str, Any]
    set_name: str
    seed: int
    batch_size: int
    model: Model
    compute: Compute
    threads: int
    weights: Path
    base: Path | None
    images: Path
    text_embeddings: Path


@dataclass(frozen=True, kw_only=True)
class DefendedModel:
    """One model under one defence, on any number of sets.

    Attributes:
        name: the row of `defences`.
        method: the row of `methods`.
        seed: the seed of the training.
        defence: the defence with its hyper-parameters.
        defending: draws, verdicts, images and checks.
        attacks: the attacks, by name.
        evaluation: seed of the noise, and number of images in a pass.
        model: the architecture.
        compute: where the model runs.
        threads: number of CPU threads.
        weights: the file of the model.
        base: the file of the original CLIP.
    """

    name: str
    method: str
    seed: int
    defence: Defence
    defending: Defending
    attacks: dict[str, Any]
    evaluation: Evaluation
    model: Model
    compute: Compute
    threads: int
    weights: Path
    base: Path

    def task(self, set_name: str, data: Prepared) -> DefendedTask:
        """The inputs of the record of one set."""
        reads_base = self.defence.needs_origin or self.defence.neutral_templates()
        return DefendedTask(
            defence=self.defence,
            defending=replace(self.defending, attacks=tuple(self.attacks), sets=()),
            attacks=self.attacks,
            set_name=set_name,
            seed=self.evaluation.seed,
            batch_size=self.evaluation.batch_size,
            model=self.model,
            compute=self.compute,
            threads=self.threads,
            weights=self.weights,
            base=self.base if reads_base else None,
            images=data.images,
            text_embeddings=data.text,
        )


def defending_of(document: Mapping, name: str) -> Defending:
    """How a row of `defences` is judged: the block `defend`, with the values that the row changes."""
    named_row, common = row(document, "defences", name), block(document, "defend", dict[str, Any])
    build(Defending, common, "defend")
    return build(Defending, over(common, named_row.train), f"{named_row.key}.defend")


def judge(
    defended: DefendedModel, sets: Mapping[str, Prepared], code: str, watch_of: Any, out: Path
) -> list[DefenceRecord]:
    """Write out/<set>.json for every set, and return the records. code: as in `zsr.scratch.key`."""
    torch.set_num_threads(defended.threads)
    whole = heads.load(defended.model, defended.weights)
    origin, neutral = of_base(defended.defence, whole, defended.model, defended.base)
    records = []
    for name, data in sets.items():
        task = defended.task(name, data)
        key = scratch.key(task, code)
        made = [_classifier(task, each, data) for each in (whole, origin) if each is not None]
        tower = Tower(
            made[0], made[1] if origin else None, None if neutral is None else neutral.to(task.compute.place())
        )
        bench = Bench(defended.defence, tower, task.attacks, task.defending, defended.evaluation)
        facts = f"acts at {data.split.images.shape[1]} px; {made[0].facts}; {data.wording}"
        blank = bench.blank(
            facts, defence=defended.name, method=defended.method, seed=defended.seed, set_name=name, fingerprint=key
        )
        with scratch.claimed("defend", f"{key}.json") as path:
            record = judge_split(bench, data.split, blank, path, watch_of(name), task.compute.place())
        record.save(out / f"{name}.json")
        records.append(record)
    return records


def of_base(defence: Defence, whole: Whole, model: Model, base: Path) -> tuple[Whole | None, Tensor | None]:
    """The original CLIP and the embedding of prompts without a class, both only where the defence reads them.

    The first is also None where `whole` has the tower of the original CLIP.
    """
    templates = defence.neutral_templates()
    if not defence.needs_origin and not templates:
        return None, None
    original = heads.load(model, base)
    neutral = neutral_text(original, model.arch, templates) if templates else None
    pairs = zip(tower_of(whole).state_dict().values(), tower_of(original).state_dict().values(), strict=True)
    fine_tuned = defence.needs_origin and not all(torch.equal(one, other) for one, other in pairs)
    return (original if fine_tuned else None), neutral


def neutral_text(whole: Whole, arch: str, templates: Sequence[str]) -> Tensor:
    """The mean of unit text embeddings of templates without a class name, (D,)."""
    parts = [clip.embed_texts(whole, arch, [template.replace("{}", "")])[0] for template in templates]
    return torch.stack(parts).mean(dim=0)


def _classifier(task: DefendedTask, whole: Whole, data: Prepared) -> PixelClassifier:
    made = heads.classifier(task.model, whole, data.text_embeddings, task.compute)
    return cast(PixelClassifier, made).eval().requires_grad_(False)


def measured(
    towers: Mapping[str, Tower],
    sets: Mapping[str, Any],
    attacks: dict[str, Any],
    defence: Defence,
    evaluation: Evaluation,
    defending: Defending,
    *,
    name: str = "model",
    facts: Mapping[str, str] | None = None,
    device: Any = "cpu",
    kept: Path | None = None,
    fingerprint: str = "",
    watched: Any = lambda set_name: unwatched,
) -> DefenceResult:
    """A defence on any model, on any sets. The arguments are those of `zsr.evaluation.measure.judged`.

    towers: name of a set -> the tower. facts: name of a set -> facts about the model and the prompts.
    """
    check_attacks(attacks, defence, "attack")
    records = []
    with TemporaryDirectory() if kept is None else nullcontext(str(kept)) as folder:
        for set_name, split in sets.items():
            bench = Bench(defence, towers[set_name], attacks, defending, evaluation)
            key = files.digest(fingerprint, repr(defence), repr(attacks), repr(defending), repr(evaluation))
            cell = {"defence": defence.name, "method": name, "seed": 0, "set_name": set_name, "fingerprint": key}
            path = Path(folder) / f"{set_name}.json"
            with files.claimed(path):
                blank = bench.blank((facts or {}).get(set_name, "logits of a model"), **cell)
                records.append(judge_split(bench, split, blank, path, watched(set_name), device))
    return DefenceResult(tuple(records))


def defence_by_name(defence: str | Defence) -> Defence:
    """A defence by the name of its module, with the published numbers, or a defence that is made already.

    Raises ParamError: no such defence.
    """
    return (
        defence
        if isinstance(defence, Defence)
        else build(module_of("zsr.defences", defence, "defence").DEFENCE, {}, "")
    )


def defending_for(attacks: Mapping[str, Any], images: int) -> Defending:
    """The usual numbers of draws, verdicts and checks. The large eps is 24/255, or four times that of the attacks."""
    eps = max(attack.eps for attack in attacks.values())
    large = 24 / 255 if eps <= 6 / 255 else min(4 * eps, 1.0)
    return Defending(attacks=tuple(attacks), images=images, large_eps=large)
