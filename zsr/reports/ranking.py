"""What tables, figures and reports have in common: the order of methods, the one under study, a mean over sets."""

from collections.abc import Mapping, Sequence

import numpy as np

from zsr.evaluation.results import WORST, Sample, average
from zsr.files import distinct

GROUPS = ("unseen", "all", "source")  # the first of these groups of sets that a study has decides the order


def under_study(methods: Mapping[str, Mapping]) -> str:
    """The method that others are compared with: the row of the block `method`; without one TGA-ZSR, or the first row.

    methods: the methods in the catalogue of the study.
    """
    named = [name for name, row in methods.items() if row.get("section") == "method"]
    return next(name for name in [*named, "tga_zsr", next(iter(methods))] if name in methods)


def worst_attack(rows: Sequence[Mapping[str, str]]) -> str:
    """The name of all attacks together; of a study with one attack this attack, and of one with none `clean`."""
    attacks = distinct(rows, "attack")
    return WORST if WORST in attacks else attacks[-1]


def group_of(averages: Sequence[Mapping[str, str]]) -> str:
    """The group of sets that decides the order of the methods."""
    return next(group for group in GROUPS if group in distinct(averages, "group"))


def by_worst_case(averages: Sequence[Mapping[str, str]], group: str = "") -> list[str]:
    """The methods, from the highest to the lowest accuracy in the worst case; equal ones in the order of the rows.

    averages: rows of metrics/results/averages.csv. group: the group of sets that decides, or the result of `group_of`.
    """
    attack, group = worst_attack(averages), group or group_of(averages)
    worst = {r["method"]: float(r["mean"]) for r in averages if (r["group"], r["attack"]) == (group, attack)}
    return sorted(worst, key=lambda method: -worst[method])


def mean_of_sets(rows: Sequence[Mapping[str, str]]) -> tuple[float, float, float]:
    """The mean over sets of the share of images that count, and its 95 % limits, in percent.

    rows: rows of one method and one eps of metrics/eps_sweep.
    """
    shares = [(int(row["n"]), int(row["correct"]) / int(row["n"])) for row in rows]
    summary = average([Sample(n, share, share, np.array([share]), 0.0) for n, share in shares])
    return float(summary["mean"]), float(summary["low"]), float(summary["high"])
