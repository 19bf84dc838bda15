"""Our numbers beside the published numbers, cell by cell, with the known errors of published numbers. No torch.

Attacks have our names throughout, also for published numbers.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from zsr import files
from zsr.files import distinct
from zsr.reports import tables

Row = Mapping[str, str]
Cell = tuple[str, str, str]  # method, attack, set
HEADER = ("set", "method", "attack", "ours", "low", "high", "published", "difference", "marks", "n")
AVERAGE = "average"  # the papers' name of the mean over all sets of the paper
GROUP = "all"  # the group of our averages that stand beside the papers' average
SLACK = 0.01 + 1e-9  # points: the allowed rounding error of an average, of which the sets are rounded to 0.01 too
BLANK = ""
LEFT_OUT = "This study has none of the sets of the paper, so no published number stands beside one of ours."
PAPERS = (
    "ViT-B/32 on whole sets at 224 px, eps 1/255; PGD and CW of 100 steps of size eps, judged at the last iterate, "
    "model and gradient in fp16 without loss scaling; AutoAttack is APGD on cross-entropy and untargeted DLR, also in "
    "fp16; an image counts when it is right with the attack, whatever it was before"
)


class Fault(NamedTuple):
    """A known error of published numbers.

    Attributes:
        method: the method of the numbers.
        attacks: the attacks of the numbers; empty: all attacks.
        sets: the sets of the numbers; empty: all sets.
        text: a description of the error.
    """

    method: str
    attacks: list[str]
    sets: list[str]
    text: str

    @property
    def where(self) -> str:
        """Method, attacks and sets: the words before the text."""
        return " ".join(part for part in (self.method, " and ".join(self.attacks), *self.sets) if part)

    def concerns(self, row: Mapping) -> bool:
        """Does the published number in this row of `rows` have the error?"""
        return (
            row["published"] != BLANK
            and row["method"] == self.method
            and row["attack"] in (self.attacks or [row["attack"]])
            and row["set"] in (self.sets or [row["set"]])
        )


FAULTS = (
    Fault("clip", ["pgd"], ["cifar10"], "2.42 in one table of the paper and 0.42 in another, one of them a typo"),
    Fault("clip", ["pgd"], [AVERAGE], "4.90 in the paper, 7.90 in the notebook of its repository"),
    Fault(
        "pmg_aft",
        [],
        [],
        "measured with CLIP's pixel statistics, though PMG-AFT's repository has those of ImageNet; which it was "
        "trained with is unknown",
    ),
    Fault(
        "tga_zsr",
        ["autoattack"],
        [],
        "of a model with beta 0.009, while the one under the other attacks has beta 0.05",
    ),
    Fault(
        "tga_zsr",
        ["clean"],
        ["cifar10"],
        "its single run has 86.23 in one table of the paper and 96.23 in another, one of them a typo",
    ),
    Fault("tga_zsr", ["clean", "pgd"], [], "the paper gives deviations over seeds, but its scripts know seed 0 only"),
    Fault(
        "tga_zsr",
        ["clean", "pgd"],
        [AVERAGE],
        "the paper quotes two: over seeds 42.09 under PGD and 56.44 clean, of a single run 41.96 and 56.48",
    ),
    Fault(
        "tga_zsr",
        ["pgd", "cw"],
        [],
        "it leads at eps 1/255 only: at 2 and 4/255 the paper's means over three eps imply 12.65 for pmg_aft, 11.19 "
        "for ft_adv, 9.63 for tga_zsr and 9.09 for tecoa",
    ),
)


def write(
    folder: Path,
    cells: Sequence[Row],
    averages: Sequence[Row],
    published: Sequence[Row],
    title: str,
    marks: Sequence[Row] = (),
) -> None:
    """Write folder/published.md, .tex and .csv: one part per attack, a line per set, a column per method.

    The CSV has the rows of `rows`.

    cells, averages: as for `rows`. marks: rows of `zsr.evaluation.audit.mark_rows`.
    """
    compared = rows(cells, averages, published)
    by_cell = {(r["attack"], r["set"], r["method"]): r for r in compared}
    parts = {}
    for attack in distinct(compared, "attack"):
        attack_rows = [row for row in compared if row["attack"] == attack]
        methods = distinct(attack_rows, "method")
        body = [
            [s, *(_beside(by_cell.get((attack, s, m)), marks) for m in methods)] for s in distinct(attack_rows, "set")
        ]
        cell = "A cell: ours / published / ours - published in points, taken before rounding."
        parts[f"{attack}, accuracy in %: ours / published / difference"] = tables.Part(["set", *methods], body, cell)
    shown = [m for m in marks if (m["attack"], m["set"], m["method"]) in by_cell]
    below = notes(compared, cells, published) + tables.reasons(marks, shown)
    tables.write(folder, "published", title, parts, below)
    files.write_rows(folder / "published.csv", compared, header=HEADER)


def _beside(row: Mapping | None, marks: Sequence[Row]) -> str:
    """The text "42.3 / 41.9 / +0.4 †1": ours, published, the difference; a missing number is blank."""
    if row is None:
        return BLANK
    formats = {"ours": ".1f", "published": ".1f", "difference": "+.1f"}
    numbers = [BLANK if row[key] == BLANK else format(round(row[key], 1) + 0, form) for key, form in formats.items()]
    return " / ".join(numbers) + tables.daggers_of(row["marks"], marks)


def rows(cells: Sequence[Row], averages: Sequence[Row], published: Sequence[Row]) -> list[dict]:
    """One row per attack, set and method for which we or the papers have a number; keys of HEADER, percent, points.

    The sets are our sets that the paper has, in the paper's order, and then the average. Without such a set there are
    no rows. Missing numbers are blank. Our average is blank unless our sets are exactly the paper's sets.

    cells, averages: rows of `zsr.evaluation.results` with marks. published: rows of published/*.csv; where several
    tables hold a number, the first counts. low, high: 95 % as in `zsr.evaluation.results`; for a cell with several
    seeds the mean of the limits of the seeds.
    """
    paper, sets = _papers(published), _shared(cells, published)
    if not sets:
        return []
    ours = _ours(cells)
    if _complete(cells, published):
        ours |= _our_averages(averages, ours)
    attacks = [attack for attack in distinct(cells, "attack") if attack in tables.PUBLISHED]
    methods = dict.fromkeys(distinct(cells, "method") + distinct(published, "method"))
    return [
        _row((method, attack, name), ours, paper)
        for attack, name, method in itertools.product(attacks, [*sets, AVERAGE], methods)
        if (method, attack, name) in ours or (method, attack, name) in paper
    ]


def _row(cell: Cell, ours: Mapping[Cell, dict], paper: Mapping[Cell, float]) -> dict:
    method, attack, name = cell
    row: dict[str, Any] = {"set": name, "method": method, "attack": attack}
    row |= ours.get(cell, {}) | {"published": paper.get(cell, BLANK)}
    if cell in ours and cell in paper:
        row["difference"] = round(row["ours"] - row["published"], 2)
    return {key: row.get(key, BLANK) for key in HEADER}


def _papers(published: Sequence[Row]) -> dict[Cell, float]:
    our_names = {theirs: attack for attack, theirs in tables.PUBLISHED.items()}
    numbers: dict[Cell, float] = {}
    for row in published:
        if row["attack"] in our_names:
            cell = row["method"], our_names[row["attack"]], row["dataset"]
            numbers.setdefault(cell, float(row["top1_percent"]))
    return numbers


def _paper_sets(published: Sequence[Row]) -> list[str]:
    return [name for name in distinct(published, "dataset") if name != AVERAGE]


def _shared(cells: Sequence[Row], published: Sequence[Row]) -> list[str]:
    our_sets = distinct(cells, "set")
    return [name for name in _paper_sets(published) if name in our_sets]


def _complete(cells: Sequence[Row], published: Sequence[Row]) -> bool:
    return set(distinct(cells, "set")) == set(_paper_sets(published))


def _ours(cells: Sequence[Row]) -> dict[Cell, dict]:
    """For every cell: accuracy, low and high as means over seeds, the marks, and n, the number of images."""
    seeds: dict[Cell, list[Row]] = {}
    for row in cells:
        seeds.setdefault((row["method"], row["attack"], row["set"]), []).append(row)
    columns = {"ours": "accuracy", "low": "low", "high": "high"}
    return {
        cell: {key: round(fmean(float(row[column]) for row in same), 2) for key, column in columns.items()}
        | {"marks": same[0].get("marks", ""), "n": int(same[0]["n"])}
        for cell, same in seeds.items()
    }


def _our_averages(averages: Sequence[Row], ours: Mapping[Cell, dict]) -> dict[Cell, dict]:
    result = {}
    for row in averages:
        if row["group"] == GROUP:
            method, attack = row["method"], row["attack"]
            limits = {"ours": float(row["mean"]), "low": float(row["low"]), "high": float(row["high"])}
            n = sum(numbers["n"] for (m, a, _), numbers in ours.items() if (m, a) == (method, attack))
            result[method, attack, AVERAGE] = limits | {"marks": row.get("marks", ""), "n": n}
    return result


def notes(compared: Sequence[Mapping], cells: Sequence[Row], published: Sequence[Row]) -> list[str]:
    """The notes below the table of the rows `compared`: reading guide, both protocols, errors of published numbers."""
    if not compared:
        return [LEFT_OUT]
    seeds = len(distinct(cells, "seed"))
    ours = "" if seeds == 1 else f"ours: mean over {seeds} fine-tuning seeds. "
    images = {row["set"]: row["n"] for row in cells}
    shared = ", ".join(f"{name} {images[name]}" for name in _shared(cells, published))
    return [
        f"{ours}Blank: not measured here, or not in the papers. Daggers belong to ours. Intervals are in the CSV.",
        "published: from the TGA-ZSR paper, its first table that has the number; Comp-TGA from the README of its "
        "repository, which has averages only.",
        f"Our test images: {shared}.",
        *_average_note(cells, published),
        _protocols(compared, cells),
        *_above_pgd(compared, _papers(published)),
        *_no_means(compared, _papers(published)),
        *(f"Published {fault.where}: {fault.text}." for fault in FAULTS if any(map(fault.concerns, compared))),
    ]


def _average_note(cells: Sequence[Row], published: Sequence[Row]) -> list[str]:
    if _complete(cells, published):
        return []
    theirs, shared = _paper_sets(published), _shared(cells, published)
    n_others = len(distinct(cells, "set")) - len(shared)
    besides = f" and {n_others} besides" if n_others else ""
    return [
        f"average: the paper's is over its {len(theirs)} sets. This study has {len(shared)} of them{besides}, so no "
        "average of ours stands beside it."
    ]


def _protocols(compared: Sequence[Mapping], cells: Sequence[Row]) -> str:
    shown = distinct(compared, "attack")
    pairs = dict.fromkeys((row["attack"], row["protocol"]) for row in cells if row["attack"] in shown)
    return f"Protocol of the paper: {PAPERS}. Ours: " + ". ".join(f"{attack}: {text}" for attack, text in pairs) + "."


def _above_pgd(compared: Sequence[Mapping], paper: Mapping[Cell, float]) -> list[str]:
    """A note on the shown numbers where published AutoAttack is above published PGD."""
    shown = {(r["method"], r["set"]): None for r in compared if r["attack"] in ("pgd", "autoattack")}
    higher: dict[str, list[str]] = {}
    for method, name in shown:
        weak, strong = (paper.get((method, attack, name)) for attack in ("pgd", "autoattack"))
        if weak is not None and strong is not None and strong > weak:
            higher.setdefault(method, []).append(f"{name} {strong:.2f} over {weak:.2f}")
    text = "; ".join(f"{method}: {', '.join(set_texts)}" for method, set_texts in higher.items())
    return [f"Published AutoAttack above published PGD, though the stronger attack: {text}."] if higher else []


def _no_means(compared: Sequence[Mapping], paper: Mapping[Cell, float]) -> list[str]:
    """A note on the shown published averages that are not the mean of the published sets."""
    texts = []
    for row in compared:
        cell = row["method"], row["attack"]
        sets = [value for (*key, name), value in paper.items() if tuple(key) == cell and name != AVERAGE]
        if row["set"] == AVERAGE and row["published"] != BLANK and sets:
            mean = fmean(sets)
            if abs(mean - row["published"]) > SLACK:
                texts.append(f"{' '.join(cell)} {row['published']:.2f}, its sets {mean:.2f}")
    return [f"Published averages that are not the mean of their sets: {'; '.join(texts)}."] if texts else []
