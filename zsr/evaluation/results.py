"""From records to numbers: cells with intervals, averages over groups of sets, paired differences. No torch.

A cell (method, attack, set) has one record per seed of training. Every interval is 95 %, by one of three rules:

- A cell of one seed: Wilson's interval of the share of the n test images that count.
- A mean over sets with equal weights: Wilson's limits of every set, combined by the rule of Zou and Donner (Statistics
  in Medicine, 2008): the distance of a limit from the mean is the root of the sum of squared distances. So a set of
  which all images count still has room below. With several seeds, the value of an image is the share of seeds under
  which the image counts, and n is scaled by the design effect: by how much less the share varies than one verdict.
- A difference, paired image by image: the normal law, with a variance to which each set adds half an image of each of
  the four outcomes (Agresti and Min, Statistics in Medicine, 2005).

With several seeds the last two intervals also cover the choice of seeds, by Student's law. The spread between seeds
contains the noise of the images a second time, as far as seeds disagree about single images. That part is subtracted
from the spread, so nothing counts twice (the two-way layout of images and seeds). `sd` is the plain standard deviation
over seeds, over n - 1; it is empty for one seed.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from zsr import files
from zsr.evaluation.records import BITS, Record, accuracies

Z = 1.959964  # quantile of the normal law for 95 %
CLEAN = "clean"  # the name of the evaluation without an attack
WORST = "worst_case"  # the name of all attacks of a study together
ROBUST = "robust"  # the name of the accuracy under all attacks of a study, however many there are
UNSEEN = "unseen"  # the name of the group of sets that were not trained on
STRONGEST = "autoattack"  # the attack that the others are compared with
Cell = tuple[str, str, str]  # method, attack, set
Records = Mapping[Cell, Sequence[Record]]


@dataclass(frozen=True)
class Sample:
    """Statistics of an array (seeds, images) of values in [-1, 1], for one set.

    Attributes:
        n: number of images.
        mean: the mean over images of the mean over seeds.
        square: the mean over images of the squared mean over seeds.
        per_seed: (seeds,) the mean over images for each seed.
        residual: the variance that is due neither to the image nor to the seed; 0 for one seed.
    """

    n: int
    mean: float
    square: float
    per_seed: np.ndarray
    residual: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Sample":
        """The statistics of values, (seeds, images)."""
        seeds, n = values.shape
        averaged, per_seed = values.mean(axis=0), values.mean(axis=1)
        mean, square = float(averaged.mean()), float((averaged**2).mean())
        residual = 0.0
        if seeds > 1 and n > 1:
            total = np.square(values, dtype=float).sum()
            left = total - n * (seeds * square + (per_seed**2).sum() - seeds * mean**2)
            residual = max(left, 0.0) / ((seeds - 1) * (n - 1))
        return cls(n, mean, square, per_seed, residual)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % limits of a share of n trials; n need not be a whole number."""
    centre, spread = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + Z**2 / n) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def cell_rows(records: Records) -> list[dict]:
    """One row per cell and seed: counts, accuracy in percent with its Wilson 95 % interval, and the protocol."""
    rows = []
    for (method, attack, set_name), seeds in records.items():
        for record in seeds:
            n, correct = record.n, int(record.hits.sum())
            low, high = wilson(correct / n, n)
            rows.append(
                {
                    "method": method,
                    "attack": attack,
                    "set": set_name,
                    "seed": record.seed,
                    "n": n,
                    "ids": record.ids_digest,
                    "clean_correct": int(record.clean_bits.sum()),
                    "adv_correct": int(record.adv_bits.sum()),
                    "correct": correct,
                    "accuracy": _percent(correct / n),
                    "low": _percent(low),
                    "high": _percent(high),
                    "protocol": record.protocol,
                    "attacks_run": "; ".join(record.attacks_run),
                    "counted": record.counted,
                    "zero_gradient_images": int(record.zero_bits.sum()),
                    "non_finite_images": int(record.broken_bits.sum()),
                    "forwards": record.forwards,
                    "gradients": record.gradients,
                }
            )
    return rows


def with_clean(records: Records) -> dict[Cell, list[Record]]:
    """The records, with clean records added where the study has none: every record has the clean verdicts too."""
    if any(attack == CLEAN for _, attack, _ in records):
        return {cell: list(seeds) for cell, seeds in records.items()}
    result: dict[Cell, list[Record]] = {}
    for method in dict.fromkeys(method for method, _, _ in records):
        method_cells = {cell: list(seeds) for cell, seeds in records.items() if cell[0] == method}
        for (_, _, name), seeds in method_cells.items():
            result.setdefault((method, CLEAN, name), [_unattacked(record) for record in seeds])
        result |= method_cells
    return result


def _unattacked(record: Record) -> Record:
    none = np.zeros(record.n, bool)
    return Record(
        method=record.method,
        seed=record.seed,
        attack=CLEAN,
        set_name=record.set_name,
        fingerprint=record.fingerprint,
        protocol=f"no attack; the rest as under {record.attack}, in whose evaluation it was measured",
        attacks_run=(CLEAN,),
        counted=record.counted,
        ids=record.ids,
        **dict.fromkeys(BITS, none) | {"clean_bits": record.clean_bits, "adv_bits": record.clean_bits},
        forwards=record.n,
    )


def with_worst_case(records: Records) -> dict[Cell, list[Record]]:
    """The records; where there are several attacks, with records of all attacks together, as one more attack.

    An image survives where it survives every attack. The lowest of the averages would be higher.
    """
    result = {cell: list(seeds) for cell, seeds in records.items()}
    attacks = list(dict.fromkeys(attack for _, attack in _methods_and_attacks(records) if attack != CLEAN))
    if len(attacks) > 1:
        for method, name in dict.fromkeys((method, name) for method, _, name in records):
            cells = zip(*(records[method, attack, name] for attack in attacks), strict=True)
            result[method, WORST, name] = [_folded(seed, attacks) for seed in cells]
    return result


def _folded(records: Sequence[Record], attacks: Sequence[str]) -> Record:
    first = records[0]
    assert all(_same_images(record, first) for record in records), f"{first.method}: attacks saw other images"
    return Record(
        method=first.method,
        seed=first.seed,
        attack=WORST,
        set_name=first.set_name,
        fingerprint=files.digest(*(record.fingerprint for record in records)),
        protocol=f"an image counts where it survives each of {', '.join(attacks)}",
        attacks_run=tuple(attacks),
        counted=first.counted,
        ids=first.ids,
        **{name: reduce(np.logical_and, (getattr(record, name) for record in records)) for name in BITS},
        forwards=sum(record.forwards for record in records),
        gradients=sum(record.gradients for record in records),
    )


def _same_images(first: Record, second: Record) -> bool:
    return np.array_equal(first.ids, second.ids)


def over_seeds(cells: Sequence[Mapping[str, str]]) -> list[dict]:
    """Rows of `cell_rows`, as read from CSV, merged over seeds: one row per cell, with mean accuracy and sd."""
    merged = []
    for _, group in itertools.groupby(cells, key=lambda row: (row["method"], row["attack"], row["set"])):
        same = list(group)
        values = [float(row["accuracy"]) for row in same]
        first: dict[str, Any] = dict(same[0])
        merged.append(first | {"accuracy": fmean(values), "seeds": len(same), "sd": _spread(values)})
    return merged


def without(study: Mapping[str, Any], absent: Mapping[str, str]) -> dict[str, Any]:
    """The catalogue of a study without the sets that are left out; it names them, where there are any.

    absent: set -> why it is left out.
    """
    if not absent:
        return dict(study)
    kept = {key: [name for name in study[key] if name not in absent] for key in ("sets", "judged")}
    groups = {group: [name for name in sets if name not in absent] for group, sets in study["groups"].items()}
    sizes = {group: len(sets) for group, sets in study["groups"].items()}
    return dict(study) | kept | {"groups": groups, "absent": dict(absent), "whole": sizes}


def counted_sets(study: Mapping[str, Any], group: str) -> int | str:
    """The number of sets of a group; "15 of 16" where one is left out."""
    n, whole = len(study["groups"][group]), study.get("whole", {}).get(group, 0)
    return n if n == whole or not whole else f"{n} of {whole}"


def average_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): the mean over seeds and over the group's sets, with equal weights."""
    samples = {cell: Sample.of(_shares(seeds)) for cell, seeds in records.items()}
    rows = []
    for group, sets in groups.items():
        for method, attack in _methods_and_attacks(records):
            key = {"group": group, "method": method, "attack": attack, "sets": len(sets)}
            rows.append(key | average([samples[method, attack, s] for s in sets]))
    return rows


def average(samples: Sequence[Sample]) -> dict[str, float | str]:
    """The mean of shares over sets, in percent, with interval, number of seeds and sd."""
    limits = [_limits(sample) for sample in samples]
    below, above = (
        math.sqrt(sum((bounds[side] - sample.mean) ** 2 for bounds, sample in zip(limits, samples))) / len(samples)
        for side in (0, 1)
    )
    return _summary(samples, below, above, within=(0.0, 1.0))


def _limits(sample: Sample) -> tuple[float, float]:
    single, shared = sample.mean * (1 - sample.mean), sample.square - sample.mean**2
    return wilson(sample.mean, sample.n * (single / shared if shared > 1e-12 else 1.0))


def pair_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, attack, two methods): first minus second in points, on the same images and seeds."""
    rows = []
    methods = list(dict.fromkeys(method for method, _ in _methods_and_attacks(records)))
    attacks = list(dict.fromkeys(attack for _, attack in _methods_and_attacks(records)))
    for (method, attack, name), seeds in records.items():
        reference = records[methods[0], attack, name][0]
        assert all(_same_images(record, reference) for record in seeds), (
            f"{method} and {methods[0]} saw other images of {name}"
        )
    samples = _paired(records, lambda cell: [(partner, *cell[1:]) for partner in methods[methods.index(cell[0]) + 1 :]])
    for group, attack in itertools.product(groups, attacks):
        for first, second in itertools.combinations(methods, 2):
            key: dict[str, Any] = {"group": group, "attack": attack, "first": first, "second": second}
            rows.append(key | difference([samples[(first, attack, s), (second, attack, s)] for s in groups[group]]))
    return rows


def attack_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): accuracy under the attack minus that under AutoAttack, on the same images.

    There are no rows where the study has no AutoAttack.
    """
    others = [pair for pair in _methods_and_attacks(records) if pair[1] not in (CLEAN, WORST, STRONGEST)]
    compared = [(method, attack) for method, attack in others if (method, STRONGEST) in _methods_and_attacks(records)]
    samples = _paired(records, lambda cell: [(cell[0], STRONGEST, cell[2])] if cell[:2] in compared else [])
    rows = []
    for group, (method, attack) in itertools.product(groups, compared):
        pairs = [((method, attack, s), (method, STRONGEST, s)) for s in groups[group]]
        key: dict[str, Any] = {"group": group, "method": method, "attack": attack, "against": STRONGEST}
        rows.append(key | difference([samples[pair] for pair in pairs]))
    return rows


def _paired(records: Records, partners: Callable[[Cell], Iterable[Cell]]) -> dict[tuple[Cell, Cell], Sample]:
    """(cell, partner) -> the statistics of the differences, for every cell and each of its partners."""
    shares = {cell: _shares(seeds) for cell, seeds in records.items()}
    return {
        (cell, partner): Sample.of(shares[cell] - shares[partner]) for cell in records for partner in partners(cell)
    }  # a method that does not train has one seed, which is compared with every seed


def difference(samples: Sequence[Sample]) -> dict[str, float | str]:
    """The mean of differences over sets, in points, with interval, number of seeds and sd."""
    variance = 0.0
    for sample in samples:
        n, total, squares = sample.n + 2, sample.n * sample.mean, sample.n * sample.square + 1
        variance += (squares / n - (total / n) ** 2) / n
    half = Z * math.sqrt(variance) / len(samples)
    return _summary(samples, half, half, within=(-1.0, 1.0))


def _methods_and_attacks(records: Records) -> list[tuple[str, str]]:
    return list(dict.fromkeys((method, attack) for method, attack, _ in records))


def _shares(seeds: Sequence[Record]) -> np.ndarray:
    """(seeds, images): 1 where the image counts, else 0, as int8, so that arrays can be subtracted."""
    return np.stack([record.hits for record in seeds]).astype(np.int8)


def _summary(samples: Sequence[Sample], below: float, above: float, within: tuple[float, float]) -> dict:
    """A mean over sets. The limits combine the half-widths of the images and, with several seeds, of the seeds."""
    per_seed = np.mean([sample.per_seed for sample in samples], axis=0)
    mean, seeds = fmean(sample.mean for sample in samples), _seed_half_width(samples, per_seed)
    low, high = max(mean - math.hypot(below, seeds), within[0]), min(mean + math.hypot(above, seeds), within[1])
    interval = {"mean": _percent(mean), "low": _percent(low), "high": _percent(high)}
    return interval | {"seeds": len(per_seed), "sd": _spread((100 * per_seed).tolist())}


def _seed_half_width(samples: Sequence[Sample], per_seed: np.ndarray) -> float:
    """95 % half-width of a mean over seeds by Student's law, without the part of the images; 0 for one seed."""
    from scipy.stats import t

    k = len(per_seed)
    if k < 2:
        return 0.0
    image_variance = sum(sample.residual / sample.n for sample in samples) / len(samples) ** 2
    return t.ppf(0.975, k - 1) * math.sqrt(max(per_seed.var(ddof=1) - image_variance, 0.0) / k)


def _spread(values: Sequence[float]) -> float | str:
    return round(stdev(values), 2) if len(values) > 1 else ""


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def write_summaries(folder: Path, averages: Sequence[dict]) -> None:
    """Write folder/<method>.json: the numbers that `dvc metrics show` prints as a table, means over sets, in percent.

    `clean` is the accuracy without an attack on all sets. `robust` is that under all attacks together; in a study of
    one attack, under this attack. `unseen` is `robust` on the sets that were not trained on, where there are any. Where
    averages have marks, `marked` counts the attacks whose number on all sets the audit has marked.
    """
    summaries: dict[str, dict[str, float]] = {}
    for row in averages:
        summary, attacked = summaries.setdefault(row["method"], {}), row["attack"] != CLEAN
        if row["group"] == "all":
            summary[ROBUST if attacked else CLEAN] = row["mean"]  # the row of all attacks together comes last
            if "marks" in row:
                summary["marked"] = summary.get("marked", 0) + bool(row["marks"])
        elif row["group"] == UNSEEN and attacked:
            summary[UNSEEN] = row["mean"]
    for method, summary in summaries.items():
        files.write_json(folder / f"{method}.json", summary)


def rate_rows(checkpoints: Path, records: Path, study: Mapping) -> list[dict]:
    """One row per method, rate and seed, for the methods that were tried at several rates.

    Args:
        checkpoints: the output folder of `stages.train`: results of each rate on held-out images, and the choice.
        records: the output folder of `stages.evaluate`: results of each rate on test images, which choose nothing.
        study: the catalogue of the study.
    """
    rows, (source,) = [], study["groups"]["source"]
    for method in study["methods"]:
        tried = checkpoints / method / "rates.csv"
        for row in files.read_rows(tried) if tried.exists() else []:
            key: dict[str, Any] = {name: row.pop(name) for name in ("method", "lr", "seed")}
            record_files = sorted(records.glob(f"{method}-*/rates/{key['lr']}/{key['seed']}/{source}.json"))
            of_cell = {"method": method, "seed": int(key["seed"]), "set_name": source}
            record = Record.load(record_files[0], **of_cell) if record_files else None
            rows.append(key | accuracies("test", record) | row)
    return rows
