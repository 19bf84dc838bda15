"""Records to numbers: every cell with its interval, averages over groups of sets, paired differences. No torch.

A cell's records are those of its seeds of training. Every interval is 95 %, by one of three rules:

- A cell of one seed: Wilson's interval of the share of its n test images that count.
- A mean over sets, each weighing the same: Wilson's limits of every set, put together as Zou and Donner (Statistics in
  Medicine, 2008) do: each limit is as far from the mean as the root of the sum of squared distances. So a set of which
  all images count still has room below. Of several seeds an image has the share of seeds under which it counts, and
  n is scaled by the design effect: by how much less that share varies than a single verdict.
- A difference, paired image by image: the normal law, with a variance to which each set adds half an image of each of
  the four outcomes (Agresti and Min, Statistics in Medicine, 2005).

With several seeds the last two also cover the choice of seeds, by Student's law. The spread between seeds holds the
noise of the images once more, as far as seeds disagree about single images; that part is taken out of it, so nothing
counts twice (the two-way layout of images and seeds). `sd` is the plain standard deviation over seeds, over n - 1;
empty where there is one.
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

Z = 1.959964  # 95 %
CLEAN = "clean"  # the attack that is none
WORST = "worst_case"  # all attacks of a study together
STRONGEST = "autoattack"  # what the others are compared with
Cell = tuple[str, str, str]  # method, attack, set
Records = Mapping[Cell, Sequence[Record]]


@dataclass(frozen=True)
class Sample:
    """What is known of numbers (seeds, images) in [-1, 1], of one set.

    Attributes:
        n: images.
        mean: of an image's mean over seeds, the mean over images.
        square: of an image's mean over seeds, the mean over images of its square.
        per_seed: (seeds,) the mean over images.
        residual: variance of what is due neither to the image nor to the seed; 0 of one seed.
    """

    n: int
    mean: float
    square: float
    per_seed: np.ndarray
    residual: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Sample":
        """values: (seeds, images)."""
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
    """Wilson's 95 % limits of a share of n trials; n need not be whole."""
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
    """The records, and those without an attack, unless the study has them: every record has the verdicts of both."""
    if any(attack == CLEAN for _, attack, _ in records):
        return {cell: list(seeds) for cell, seeds in records.items()}
    result: dict[Cell, list[Record]] = {}
    for method in dict.fromkeys(method for method, _, _ in records):
        own = {cell: list(seeds) for cell, seeds in records.items() if cell[0] == method}
        for (_, _, name), seeds in own.items():
            result.setdefault((method, CLEAN, name), [_unattacked(record) for record in seeds])
        result |= own
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
    """The records, and where there are several attacks those of all together, as one more attack.

    An image survives where it survives every attack: never the lowest of averages, which would be higher.
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
    assert all(_same(record, first) for record in records), f"{first.method}: attacks saw other images"
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


def _same(record: Record, other: Record) -> bool:
    return np.array_equal(record.ids, other.ids)


def over_seeds(cells: Sequence[Mapping[str, str]]) -> list[dict]:
    """Rows of `cell_rows`, as read from CSV, with those of one cell merged: mean accuracy, and sd over seeds."""
    merged = []
    for _, group in itertools.groupby(cells, key=lambda row: (row["method"], row["attack"], row["set"])):
        same = list(group)
        values = [float(row["accuracy"]) for row in same]
        first: dict[str, Any] = dict(same[0])
        merged.append(first | {"accuracy": fmean(values), "seeds": len(same), "sd": _spread(values)})
    return merged


def average_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): the mean over the group's sets, each weighing the same, and over seeds."""
    samples = {cell: Sample.of(_shares(seeds)) for cell, seeds in records.items()}
    rows = []
    for group, sets in groups.items():
        for method, attack in _methods_and_attacks(records):
            key = {"group": group, "method": method, "attack": attack, "sets": len(sets)}
            rows.append(key | average([samples[method, attack, s] for s in sets]))
    return rows


def average(samples: Sequence[Sample]) -> dict[str, float | str]:
    """The mean of shares over sets, in percent, with its interval; seeds and sd."""
    limits = [_limits(sample) for sample in samples]
    below, above = (
        math.sqrt(sum((of[side] - sample.mean) ** 2 for of, sample in zip(limits, samples))) / len(samples)
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
        other = records[methods[0], attack, name][0]
        assert all(_same(record, other) for record in seeds), f"{method} and {methods[0]} saw other images of {name}"
    samples = _paired(records, lambda cell: [(other, *cell[1:]) for other in methods[methods.index(cell[0]) + 1 :]])
    for group, attack in itertools.product(groups, attacks):
        for first, second in itertools.combinations(methods, 2):
            key: dict[str, Any] = {"group": group, "attack": attack, "first": first, "second": second}
            rows.append(key | difference([samples[(first, attack, s), (second, attack, s)] for s in groups[group]]))
    return rows


def attack_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): accuracy under it minus that under AutoAttack, on the same images.

    None where the study has no AutoAttack.
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
    """Of every cell and each of its partners, what is known of their differences."""
    shares = {cell: _shares(seeds) for cell, seeds in records.items()}
    return {
        (cell, other): Sample.of(shares[cell] - shares[other]) for cell in records for other in partners(cell)
    }  # a row that does not train has one seed, which stands for all


def difference(samples: Sequence[Sample]) -> dict[str, float | str]:
    """The mean of differences over sets, in points, with its interval; seeds and sd."""
    variance = 0.0
    for sample in samples:
        n, total, squares = sample.n + 2, sample.n * sample.mean, sample.n * sample.square + 1
        variance += (squares / n - (total / n) ** 2) / n
    half = Z * math.sqrt(variance) / len(samples)
    return _summary(samples, half, half, within=(-1.0, 1.0))


def _methods_and_attacks(records: Records) -> list[tuple[str, str]]:
    return list(dict.fromkeys((method, attack) for method, attack, _ in records))


def _shares(seeds: Sequence[Record]) -> np.ndarray:
    """(seeds, images): does the image count? In numbers that can be taken from each other."""
    return np.stack([record.hits for record in seeds]).astype(np.int8)


def _summary(samples: Sequence[Sample], below: float, above: float, within: tuple[float, float]) -> dict:
    """A mean over sets whose limits lie as far away as its images and, where there are several, its seeds say."""
    per_seed = np.mean([sample.per_seed for sample in samples], axis=0)
    mean, seeds = fmean(sample.mean for sample in samples), _half_width_of_seeds(samples, per_seed)
    low, high = max(mean - math.hypot(below, seeds), within[0]), min(mean + math.hypot(above, seeds), within[1])
    interval = {"mean": _percent(mean), "low": _percent(low), "high": _percent(high)}
    return interval | {"seeds": len(per_seed), "sd": _spread((100 * per_seed).tolist())}


def _half_width_of_seeds(samples: Sequence[Sample], per_seed: np.ndarray) -> float:
    """95 % half-width of a mean over seeds by Student's law, without what images add to it; 0 where there is one."""
    from scipy.stats import t

    k = len(per_seed)
    if k < 2:
        return 0.0
    of_images = sum(sample.residual / sample.n for sample in samples) / len(samples) ** 2
    return t.ppf(0.975, k - 1) * math.sqrt(max(per_seed.var(ddof=1) - of_images, 0.0) / k)


def _spread(values: Sequence[float]) -> float | str:
    return round(stdev(values), 2) if len(values) > 1 else ""


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def write_summaries(folder: Path, averages: Sequence[dict]) -> None:
    """folder/<group>/<method>.json = {attack: percent}: the layout `dvc metrics show` prints as a table.

    Of averages with marks, `marked` counts the attacks whose number the audit has marked.
    """
    summaries: dict[tuple[str, str], dict[str, float]] = {}
    for row in averages:
        summaries.setdefault((row["group"], row["method"]), {})[row["attack"]] = row["mean"]
        if "marks" in row:
            summary = summaries[row["group"], row["method"]]
            summary["marked"] = summary.pop("marked", 0) + bool(row["marks"])
    for (group, method), summary in summaries.items():
        files.write_json(folder / group / f"{method}.json", summary)


def rate_rows(checkpoints: Path, records: Path, study: Mapping) -> list[dict]:
    """One row per method, rate and seed, of the methods that were tried at several rates.

    Args:
        checkpoints: folder of what `stages.train` wrote: how each rate did on held-out images, and which was chosen.
        records: folder of what `stages.evaluate` wrote: how each rate did on test images, which chose nothing.
        study: the catalogue of the study.
    """
    rows, (source,) = [], study["groups"]["source"]
    for method in study["methods"]:
        tried = checkpoints / method / "rates.csv"
        for row in files.read_rows(tried) if tried.exists() else []:
            key: dict[str, Any] = {name: row.pop(name) for name in ("method", "lr", "seed")}
            found = list(records.glob(f"{method}-*/rates/{key['lr']}/{key['seed']}/{source}.json"))
            rows.append(key | accuracies("test", Record.load(found[0]) if found else None) | row)
    return rows
