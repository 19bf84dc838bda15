"""Records to numbers: every cell with its interval, averages over groups of sets, paired differences. No torch.

A cell's records are those of its seeds of fine-tuning. Two kinds of uncertainty are kept apart: the choice of test
images (`low`, `high`, `half_width`) and the seed (`sd`, over n - 1; empty where there is one seed).
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pvariance, stdev

from zsr import storage
from zsr.records import BITS, Record

Z = 1.959964  # 95 %
CLEAN = "clean"  # the attack that is none
WORST = "worst_case"  # all attacks of a study together
STRONGEST = "autoattack"  # what the others are compared with
Cell = tuple[str, str, str]  # method, attack, set
Records = Mapping[Cell, Sequence[Record]]


def cell_rows(records: Records) -> list[dict]:
    """One row per cell and seed: counts, accuracy in percent with its Wilson 95 % interval, and the protocol."""
    from scipy.stats import binomtest

    rows = []
    for (method, attack, set_name), seeds in records.items():
        for record in seeds:
            n, correct = len(record.ids), sum(record.hits)
            low, high = binomtest(correct, n).proportion_ci(method="wilson")
            rows.append(
                {
                    "method": method,
                    "attack": attack,
                    "set": set_name,
                    "seed": record.seed,
                    "n": n,
                    "ids": record.ids_digest,
                    "clean_correct": sum(record.clean_bits),
                    "adv_correct": sum(record.adv_bits),
                    "correct": correct,
                    "accuracy": _percent(correct / n),
                    "low": _percent(low),
                    "high": _percent(high),
                    "protocol": record.protocol,
                    "attacks_run": "; ".join(record.attacks_run),
                    "counted": record.counted,
                    "zero_gradient_images": sum(record.zero_bits),
                    "non_finite_images": sum(record.broken_bits),
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
    none = (False,) * len(record.ids)
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
        forwards=len(record.ids),
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
    assert all(record.ids == first.ids for record in records), f"{first.method}: attacks saw other images"
    return Record(
        method=first.method,
        seed=first.seed,
        attack=WORST,
        set_name=first.set_name,
        fingerprint=storage.digest(*(record.fingerprint for record in records)),
        protocol=f"an image counts where it survives each of {', '.join(attacks)}",
        attacks_run=tuple(attacks),
        counted=first.counted,
        ids=first.ids,
        **{name: _every(getattr(record, name) for record in records) for name in BITS},
        forwards=sum(record.forwards for record in records),
        gradients=sum(record.gradients for record in records),
    )


def _every(bits: Iterable[Sequence[bool]]) -> tuple[bool, ...]:
    return tuple(map(all, zip(*bits, strict=True)))


def over_seeds(cells: Sequence[Mapping[str, str]]) -> list[dict]:
    """Rows of `cell_rows`, as read from CSV, with those of one cell merged: mean accuracy, and sd over seeds."""
    merged = []
    for _, same in itertools.groupby(cells, key=lambda row: (row["method"], row["attack"], row["set"])):
        same = list(same)
        values = [float(row["accuracy"]) for row in same]
        merged.append(dict(same[0]) | {"accuracy": fmean(values), "seeds": len(same), "sd": _spread(values)})
    return merged


def average_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): the mean over the group's sets, each weighing the same, and over seeds.

    half_width: 95 %, of choosing the test images; base models are not in it, nor is the seed.
    """
    rows = []
    for group, sets in groups.items():
        for method, attack in _methods_and_attacks(records):
            cells = [records[method, attack, s] for s in sets]
            mean, half = _mean_of_means([_hits(cell) for cell in cells])
            key = {"group": group, "method": method, "attack": attack, "sets": len(sets)}
            rows.append(key | _interval(mean, half) | _seeds(_by_seed(cells)))
    return rows


def pair_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, attack, two methods): first minus second in points, on the same images and seeds.

    half_width: 95 %, of the choice of test images and, where there are several, of the seeds.
    """
    rows = []
    methods = list(dict.fromkeys(method for method, _ in _methods_and_attacks(records)))
    attacks = list(dict.fromkeys(attack for _, attack in _methods_and_attacks(records)))
    for (method, attack, name), seeds in records.items():
        same = records[methods[0], attack, name][0].ids
        assert all(record.ids == same for record in seeds), f"{method} and {methods[0]} saw other images of {name}"
    for group, attack in itertools.product(groups, attacks):
        for first, second in itertools.combinations(methods, 2):
            pair = [[records[method, attack, s] for s in groups[group]] for method in (first, second)]
            key = {"group": group, "attack": attack, "first": first, "second": second}
            rows.append(key | difference(*pair))
    return rows


def attack_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): accuracy under it minus that under AutoAttack, on the same images.

    None where the study has no AutoAttack. half_width as in `pair_rows`.
    """
    rows = []
    cells = _methods_and_attacks(records)
    for group, (method, attack) in itertools.product(groups, cells):
        if attack not in (CLEAN, WORST, STRONGEST) and (method, STRONGEST) in cells:
            pair = [[records[method, a, s] for s in groups[group]] for a in (attack, STRONGEST)]
            key = {"group": group, "method": method, "attack": attack, "against": STRONGEST}
            rows.append(key | difference(*pair))
    return rows


def difference(first: Sequence[Sequence[Record]], second: Sequence[Sequence[Record]]) -> dict[str, float]:
    """first minus second, each one cell per set: mean, half_width, seeds and sd of `pair_rows`."""
    images = [[a - b for a, b in zip(_hits(x), _hits(y), strict=True)] for x, y in zip(first, second, strict=True)]
    mean, half = _mean_of_means(images)
    one, other = _by_seed(first), _by_seed(second)
    n = max(len(one), len(other))  # a method that does not train has one seed, which stands for all
    per_seed = [one[i % len(one)] - other[i % len(other)] for i in range(n)]
    return _interval(mean, math.hypot(half, _half_width_of_seeds(per_seed))) | _seeds(per_seed)


def variant_rows(records: Records, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per method: averages over groups of sets under every attack, mean and sd over seeds side by side."""
    rows: dict[str, dict] = {}
    for average in average_rows(records, groups):
        row = rows.setdefault(average["method"], {"variant": average["method"]})
        column = f"{average['attack']} {average['group']}"
        row |= {column: average["mean"], f"{column} sd": average["sd"]}
    return list(rows.values())


def effect_rows(records: Records, quirks: Mapping[str, tuple[str, str]], sets: Sequence[str]) -> list[dict]:
    """One row per variant and attack: its accuracy minus that of another, as in `pair_rows`.

    quirks: variant -> (the quirk's ID, the variant it is compared with).
    """
    rows = []
    for variant, (quirk, against) in quirks.items():
        for attack in dict.fromkeys(attack for _, attack in _methods_and_attacks(records)):
            pair = [[records[name, attack, s] for s in sets] for name in (variant, against)]
            key = {"quirk": quirk, "variant": variant, "against": against, "attack": attack}
            rows.append(key | difference(*pair))
    return rows


def _methods_and_attacks(records: Records) -> list[tuple[str, str]]:
    return list(dict.fromkeys((method, attack) for method, attack, _ in records))


def _hits(seeds: Sequence[Record]) -> list[float]:
    """Of every image, the share of seeds under which it counts."""
    return [fmean(bits) for bits in zip(*(record.hits for record in seeds), strict=True)]


def _by_seed(cells: Sequence[Sequence[Record]]) -> list[float]:
    """Of every seed, the mean over sets."""
    return [fmean(fmean(record.hits) for record in sets) for sets in zip(*cells, strict=True)]


def _mean_of_means(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean over sets of each set's mean, and its 95 % half-width by the normal law."""
    spread = sum(pvariance(s) / len(s) for s in samples)
    return fmean(fmean(s) for s in samples), Z * math.sqrt(spread) / len(samples)


def _half_width_of_seeds(values: Sequence[float]) -> float:
    """95 % half-width of a mean over seeds by Student's law; 0 where there is one."""
    from scipy.stats import t

    n = len(values)
    return t.ppf(0.975, n - 1) * stdev(values) / math.sqrt(n) if n > 1 else 0.0


def _interval(mean: float, half: float) -> dict[str, float]:
    return {"mean": _percent(mean), "half_width": _percent(half)}


def _seeds(values: Sequence[float]) -> dict[str, float | str]:
    return {"seeds": len(values), "sd": _spread([100 * value for value in values])}


def _spread(values: Sequence[float]) -> float | str:
    return round(stdev(values), 2) if len(values) > 1 else ""


def _percent(share: float) -> float:
    return round(100 * share, 2)


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
        storage.write_json(folder / group / f"{method}.json", summary)
