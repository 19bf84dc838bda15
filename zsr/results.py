"""Records to numbers: every cell with its interval, averages over groups of sets, paired differences. No torch."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pvariance

from zsr import storage
from zsr.records import Record

Z = 1.959964  # 95 %
Cell = tuple[str, str, str]  # method, attack, set


def cell_rows(records: Mapping[Cell, Record]) -> list[dict]:
    """One row per cell: counts, accuracy in percent with its Wilson 95 % interval, and the protocol."""
    from scipy.stats import binomtest

    rows = []
    for (method, attack, set_name), record in records.items():
        n, correct = len(record.ids), sum(record.robust_bits)
        low, high = binomtest(correct, n).proportion_ci(method="wilson")
        rows.append(
            {
                "method": method,
                "attack": attack,
                "set": set_name,
                "n": n,
                "ids": record.ids_digest,
                "clean_correct": sum(record.clean_bits),
                "adv_correct": sum(record.adv_bits),
                "correct": correct,
                "accuracy": _percent(correct / n),
                "low": _percent(low),
                "high": _percent(high),
                "protocol": record.protocol,
            }
        )
    return rows


def average_rows(records: Mapping[Cell, Record], groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, method, attack): the mean over the group's sets, each weighing the same, and 95 % half-width.

    The half-width is that of choosing the test images; training seeds and base models are not in it.
    """
    rows = []
    for group, sets in groups.items():
        for method, attack in _methods_and_attacks(records):
            mean, half = _mean_of_means([records[method, attack, s].robust_bits for s in sets])
            rows.append({"group": group, "method": method, "attack": attack, "sets": len(sets)} | _interval(mean, half))
    return rows


def pair_rows(records: Mapping[Cell, Record], groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """One row per (group, attack, two methods): first minus second on the same images, in points, 95 % half-width."""
    rows = []
    methods = list(dict.fromkeys(method for method, _ in _methods_and_attacks(records)))
    attacks = list(dict.fromkeys(attack for _, attack in _methods_and_attacks(records)))
    for method, attack, name in records:
        same = records[methods[0], attack, name].ids
        assert records[method, attack, name].ids == same, f"{method} and {methods[0]} saw other images of {name}"
    for group, attack in itertools.product(groups, attacks):
        for first, second in itertools.combinations(methods, 2):
            differences = [
                [
                    int(a) - int(b)
                    for a, b in zip(*(records[m, attack, s].robust_bits for m in (first, second)), strict=True)
                ]
                for s in groups[group]
            ]
            mean, half = _mean_of_means(differences)
            rows.append({"group": group, "attack": attack, "first": first, "second": second} | _interval(mean, half))
    return rows


def _methods_and_attacks(records: Mapping[Cell, Record]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((method, attack) for method, attack, _ in records))


def _mean_of_means(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean over sets of each set's mean, and its 95 % half-width by the normal law."""
    spread = sum(pvariance(s) / len(s) for s in samples)
    return fmean(fmean(s) for s in samples), Z * math.sqrt(spread) / len(samples)


def _interval(mean: float, half: float) -> dict[str, float]:
    return {"mean": _percent(mean), "half_width": _percent(half)}


def _percent(share: float) -> float:
    return round(100 * share, 2)


def write_summaries(folder: Path, averages: Sequence[dict]) -> None:
    """folder/<group>/<method>.json = {attack: percent}: the layout `dvc metrics show` prints as a table."""
    summaries: dict[tuple[str, str], dict[str, float]] = {}
    for row in averages:
        summaries.setdefault((row["group"], row["method"]), {})[row["attack"]] = row["mean"]
    for (group, method), summary in summaries.items():
        storage.write_json(folder / group / f"{method}.json", summary)
