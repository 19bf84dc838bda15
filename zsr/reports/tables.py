"""All tables for people but that of `zsr.reports.comparison`: Markdown, LaTeX and CSV, protocol facts below each.

From top to bottom: the text of a cell, a table on disk, notes that tables share, then one function for each table. The
function has the name of the table in params.yaml; `TABLES` in `stages.tables` calls it with the rows of the study.

Markdown tables fit a page of 100 columns, one line below each says what a cell is, and tables of accuracies are sorted
by the worst case. LaTeX tables have the same cells, uncut.

In every table ± is a standard deviation over seeds, and [low, high] is a 95 % interval; the notes of the table say over
what. A number that the audit has marked carries a dagger and the number of the mark. The reasons stand below the table.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from tabulate import LATEX_ESCAPE_RULES, tabulate

from zsr import files
from zsr.evaluation.results import CLEAN, STRONGEST, WORST, over_seeds
from zsr.files import distinct
from zsr.reports.markdown import bold, bold_best, item
from zsr.reports.markdown import table as markdown
from zsr.reports.ranking import by_worst_case, worst_attack
from zsr.reports.reading import curve
from zsr.reports.transfer import STANDARD, Run, collapsed, difference, start_and_method
from zsr.reports.transfer import row as row_of_run

Row = Mapping[str, str]
Rows = Sequence[Row]
Column = tuple[str, str]  # group or set, attack
# Our name of an attack -> the papers' name.
PUBLISHED = {"clean": "none", "pgd": "pgd100", "cw": "cw", "autoattack": "autoattack"}
DAGGER = "†"
COUNTED = {
    "both": "Under an attack an image counts when it is right without and with the attack.",
    "adv": "Under an attack an image counts when it is right with the attack, also where it is wrong without.",
}

BEST = "Bold: the best of the column, numbers with † left out."
UNDER = {CLEAN: "without an attack", WORST: "under all attacks together"}
IN_ORDER = {"unseen_strict": 0, "unseen": 1, "all": 2}  # the order of averages over groups of sets


class Part(NamedTuple):
    """One part of a table.

    Attributes:
        header: the names of the columns.
        body: the lines of cells.
        cell: a sentence that says what a cell is.
        keys: the number of columns that say what a line is about.
    """

    header: list
    body: list
    cell: str = ""
    keys: int = 1


# Cells


def with_sd(mean: float, sd: float, form: str = ".1f") -> str:
    """The text "82.3 ± 1.2". form: the format of the mean."""
    return f"{mean:{form}} ± {sd:.1f}"


def sd_of(values: Sequence[float]) -> float:
    """The standard deviation over seeds: 0 for one seed, nan where a value is nan."""
    if not math.isfinite(sum(values)):
        return math.nan
    return stdev(values) if len(values) > 1 else 0.0


def spread(values: Sequence[float]) -> str:
    """The text "mean ± standard deviation" over seeds; for one seed the value alone."""
    return with_sd(fmean(values), sd_of(values)) if len(values) > 1 else f"{fmean(values):.1f}"


def shown(row: Row, form: str = ".1f") -> str:
    """The text of a mean or a cell: "82.3 ± 1.2" over several seeds, "82.3 [80.1, 84.2]" for one seed.

    form: the format of the numbers of one seed.
    """
    value = float(row["mean"] if "mean" in row else row["accuracy"])
    if row["sd"] != "":
        return with_sd(value, float(row["sd"]))
    return f"{value:{form}} [{float(row['low']):{form}}, {float(row['high']):{form}}]"


def shown_cell(row: Row) -> str:
    """The text of a cell. Of one seed and less than a thousand images the numbers are whole percents."""
    return shown(row, ".0f" if int(row["n"]) < 1000 else ".1f")


def signed(row: Row, sign: int = 1) -> str:
    """A difference with its interval, "+3.2 [+2.1, +4.3]". sign -1: the second minus the first."""
    mean, *limits = (sign * float(row[key]) + 0 for key in ("mean", "low", "high"))  # + 0: no -0.0
    low, high = sorted(limits)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def daggers_of(names: str, marks: Rows) -> str:
    """The text after a number with these marks, such as " †1,3". The number of a mark is its position in `marks`."""
    known = distinct(marks, "mark")
    return f" {DAGGER}" + ",".join(str(known.index(name) + 1) for name in names.split()) if names else ""


def marked(text_of: Callable[[Row], str], row: Row, marks: Rows) -> str:
    """The number of a row as `text_of` formats it, with the daggers of the row's marks."""
    return text_of(row) + daggers_of(row.get("marks", ""), marks)


def _minus(pairs: Mapping[tuple, Row], column: Column, first: str, second: str, marks: Rows) -> str:
    """The text of first minus second. pairs: group, attack and two methods, in one order only -> the row."""
    pair = pairs.get((*column, first, second))
    if pair is not None:
        return marked(signed, pair, marks)
    return marked(lambda swapped: signed(swapped, -1), pairs[(*column, second, first)], marks)


# Tables


def write(folder: Path, name: str, title: str, parts: Mapping[str, Part], notes: Sequence[str]) -> None:
    """Write folder/name.md and folder/name.tex: one table per part (caption -> part), the notes below."""
    texts = [
        f"{bold(caption)}\n\n{markdown(part.header, part.body, part.keys)}"
        + (f"\n\n{item(part.cell, '')}" * bool(part.cell))
        for caption, part in parts.items()
    ]
    below = "\n".join(item(note) for note in notes)
    files.write_atomic(
        folder / f"{name}.md", ("\n\n".join([f"# {title}", *texts, *([below] if notes else [])]) + "\n").encode()
    )
    texts = [_latex(f"{title}: {caption}", part) for caption, part in parts.items()]
    below = "\n".join(rf"\item {_escaped(note)}" for note in notes)
    below = f"\\begin{{itemize}}\\footnotesize\n{below}\n\\end{{itemize}}"
    latex = "\n\n".join([*texts, below]).replace(DAGGER, r"\textdagger{}")
    files.write_atomic(folder / f"{name}.tex", (latex + "\n").encode())


def _latex(caption: str, part: Part) -> str:
    tabular = tabulate(part.body, part.header, "latex_booktabs", disable_numparse=True)
    tabular = re.sub(r"\*\*(.+?)\*\*( *)", r"\\textbf{\1}\2", tabular)
    below = f"\n\\par\\footnotesize {_escaped(part.cell)}" if part.cell else ""
    return f"\\begin{{table}}\n\\caption{{{_escaped(caption)}}}\n{tabular}{below}\n\\end{{table}}"


def _escaped(text: str) -> str:
    return "".join(LATEX_ESCAPE_RULES.get(character, character) for character in text)


def _lines(
    rows: Rows, columns: Sequence[Column], marks: Rows, text_of: Callable[[Row], str] = shown, kind: str = "group"
) -> dict[str, list[str]]:
    """Method -> the texts of its rows in these columns, (group or set, attack). kind: "group" or "set"."""
    by_cell = _by(rows, "method", kind, "attack")
    return {
        method: [marked(text_of, by_cell[(method, *column)], marks) for column in columns]
        for method in distinct(rows, "method")
    }


def _by(rows: Rows, *columns: str) -> dict[tuple[str, ...], Row]:
    """The values of some columns -> the row that has them, the last one of several."""
    return {tuple(row[column] for column in columns): row for row in rows}


def _grouped(rows: Sequence[Mapping], *columns: str) -> dict[tuple[str, ...], list[Mapping]]:
    """The values of some columns -> all rows that have them, in the order of first appearance."""
    groups: dict[tuple[str, ...], list[Mapping]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


# Notes


def reasons(marks: Rows, shown: Rows | None = None) -> list[str]:
    """One note per mark: all cells that carry the mark, with the reasons. shown: the marks in the table, if not all."""
    shown = marks if shown is None else shown
    notes = []
    for name in (name for name in distinct(marks, "mark") if name in distinct(shown, "mark")):
        cells = [f"{r['method']} {r['attack']} {r['set']}: {r['reason']}" for r in shown if r["mark"] == name]
        notes.append(f"{_named(name, marks)}. {'; '.join(cells)}.")
    return notes


def _named(name: str, marks: Rows) -> str:
    """The dagger and the words of a mark."""
    return f"{daggers_of(name, marks).strip()} {name.replace('_', ' ')}"


def _several(rows: Rows) -> bool:
    return any(int(row["seeds"]) > 1 for row in rows)


def _covers(rows: Rows) -> str:
    """The words for what the intervals of differences or averages cover."""
    return f"95 % over the choice of images{' and of seeds' if _several(rows) else ''}"


def _averages_note(averages: Rows) -> str:
    return (
        "Averages: mean ± standard deviation over seeds; of one seed the 95 % interval over the choice of images."
        if _several(averages)
        else "Averages: with their 95 % interval over the choice of images."
    )


# The tables of every study


def accuracy(folder: Path, cells: Rows, averages: Rows, title: str, marks: Rows = (), bases: int = 1) -> None:
    """Write the table of accuracies of every method, attack and set, averages first.

    marks: rows of `zsr.evaluation.audit.mark_rows`. bases: number of base models.
    """
    sets, merged, order, parts = distinct(cells, "set"), over_seeds(cells), by_worst_case(averages), {}
    spread = _spread_words(cells, bases)
    for group in _groups(averages):
        attacks = _worst_first(averages)
        means = _lines(averages, [(group, attack) for attack in attacks], marks)
        body = bold_best([[method, *means[method]] for method in order])
        cell = f"A cell: accuracy in %, mean over {_counted(averages, group)}, {spread}. {BEST}"
        parts[f"mean over {group} sets, accuracy in %"] = Part(["method", *attacks], body, cell)
    for attack in distinct(cells, "attack"):
        single = _lines(merged, [(s, attack) for s in sets], marks, shown_cell, kind="set")
        body = bold_best([[method, *single[method]] for method in order])
        under = UNDER.get(attack, f"under {attack}")
        cell = f"A cell: accuracy in % {under}, on the test images of a set, {spread}. {BEST}"
        parts[f"{attack}, accuracy in %"] = Part(["method", *sets], body, cell)
    write(folder, "accuracy", title, parts, _accuracy_notes(cells, bases) + reasons(marks))
    files.write_rows(folder / "accuracy.csv", cells)


def _groups(averages: Rows) -> list[str]:
    """The groups of sets, the strictest first, without that of the source set, which is one set."""
    groups = [group for group in distinct(averages, "group") if group != "source"]
    return sorted(groups, key=lambda group: IN_ORDER.get(group, len(IN_ORDER)))


def _worst_first(rows: Rows) -> list[str]:
    """The attacks as columns: clean, the worst case, then the others."""
    return list(dict.fromkeys([CLEAN, worst_attack(rows), *distinct(rows, "attack")]))


def _counted(averages: Rows, group: str) -> str:
    """The words "the 9 unseen sets"."""
    n = next((row["sets"] for row in averages if row["group"] == group and "sets" in row), "")
    return f"the {n} {group} sets".replace("  ", " ").replace("all sets", "sets")


def _spread_words(cells: Rows, bases: int) -> str:
    seeds = len(distinct(cells, "seed"))
    if seeds == 1:
        return "with the 95 % interval over the choice of images"
    return f"± standard deviation over {bases} base models" if bases > 1 else f"± standard deviation over {seeds} seeds"


def _accuracy_notes(cells: Rows, bases: int) -> list[str]:
    subsets = ", ".join(f"{s} {n} ({ids})" for s, n, ids in dict.fromkeys((r["set"], r["n"], r["ids"]) for r in cells))
    protocols = [f"{attack}: {text}." for attack, text in dict.fromkeys((r["attack"], r["protocol"]) for r in cells)]
    seeds = distinct(cells, "seed")
    spread = (
        "[low, high]: 95 % interval over the choice of test images: Wilson's of a cell; of a mean of cells, every set "
        "weighing the same, Wilson's put together. One base model, one training seed."
        if len(seeds) == 1
        else f"±: standard deviation over {len(seeds)} training seeds ({', '.join(seeds)}) on one base model. A row "
        "that does not train has one seed and a 95 % interval [low, high] over the choice of test images."
        if bases == 1
        else f"±: standard deviation over {bases} base models, each with a training seed of its own "
        f"({', '.join(seeds)})."
    )
    return [
        COUNTED[cells[0].get("counted", "both")],
        f"n, test images of each set (digest of their ids): {subsets}.",
        spread,
        *protocols,
    ]


def attacks(folder: Path, averages: Rows, differences: Rows, group: str, title: str, marks: Rows = ()) -> None:
    """Write the table of all attacks side by side, and of the accuracy under each attack minus that under AutoAttack.

    differences: rows of `zsr.evaluation.results.attack_rows`.
    """
    group_rows = [row for row in differences if row["group"] == group]
    names, compared, order = _worst_first(averages), distinct(group_rows, "attack"), by_worst_case(averages, group)
    means = _lines(averages, [(group, attack) for attack in names], marks)
    minus = _lines(group_rows, [(group, attack) for attack in compared], marks, signed)
    accuracies = Part(
        ["method", *names],
        bold_best([[method, *means[method]] for method in order]),
        f"A cell: accuracy in %, mean over {group} sets. {_averages_note(averages)} {BEST}",
    )
    differences_part = Part(
        ["method", *(f"{attack} - {STRONGEST}" for attack in compared)],
        [[method, *minus[method]] for method in order if method in minus],
        f"A cell: the difference in points on the same models and images, [low, high]: {_covers(group_rows)}. "
        "Above zero the other attack leaves images that AutoAttack fools.",
    )
    parts = {f"mean over {group} sets, accuracy in %": accuracies}
    if compared:
        parts[f"an attack minus {STRONGEST}, points"] = differences_part
    write(folder, "attacks", title, parts, reasons(marks))
    files.write_rows(folder / "attacks.csv", group_rows, header=["attack"])


def vs(folder: Path, pairs: Rows, subject: str, title: str, marks: Rows = ()) -> None:
    """Write the table of every method minus the method under study, on the same images and seeds.

    pairs: rows of metrics/results/pairs.csv. subject: the method under study.
    """
    rows = [_minus_subject(pair, subject) for pair in pairs if subject in (pair["first"], pair["second"])]
    attacks, parts, parts_of = _worst_first(rows), {}, _by(rows, "group", "method", "attack")
    cell = (
        f"A cell: accuracy of the method minus that of {subject}, in points, image by image; [low, high]: "
        f"{_covers(pairs)}. Bold: the interval leaves out zero. Above zero the method is better."
    )
    for group in _groups(rows):
        order = by_worst_case(rows, group)
        body = [
            [method, *(_differing(parts_of[group, method, attack], marks) for attack in attacks)] for method in order
        ]
        parts[f"minus {subject}, mean over {group} sets, points"] = Part(["method", *attacks], body, cell)
    write(folder, "vs", title, parts, _named_marks(rows, marks))
    files.write_rows(folder / "vs.csv", rows, header=["group"])


def _minus_subject(pair: Row, subject: str) -> dict[str, str]:
    """The pair as the other method minus the subject."""
    numbers = {key: pair[key] for key in ("mean", "low", "high")}
    if pair["first"] == subject:
        numbers = {key: f"{-float(pair[of]) + 0}" for key, of in zip(numbers, ("mean", "high", "low"))}
    other = pair["second"] if pair["first"] == subject else pair["first"]
    key = {"group": pair["group"], "attack": pair["attack"], "method": other, "against": subject}
    return key | numbers | {name: pair.get(name, "") for name in ("seeds", "sd", "marks")}


def _differing(row: Row, marks: Rows) -> str:
    """The text of a difference, bold where the interval leaves out zero."""
    text = marked(signed, row, marks)
    return text if float(row["low"]) <= 0 <= float(row["high"]) else bold(text)


def _named_marks(rows: Rows, marks: Rows) -> list[str]:
    """One note per mark that is behind a difference."""
    shown = {name for row in rows for name in row.get("marks", "").split()}
    return [
        f"{_named(name, marks)}: a cell behind the difference bears this mark; the table of the audit has the reason."
        for name in distinct(marks, "mark")
        if name in shown
    ]


def orderings(folder: Path, pairs: Rows, published: Rows, group: str, title: str, marks: Rows = ()) -> None:
    """Write the table of which method beats which: each published difference of averages beside ours, with interval.

    published: rows of published/*.csv; where several tables hold a method, the first counts.
    """
    paper: dict[tuple[str | None, str], float] = {}
    for row in published:
        if row["dataset"] == "average":
            paper.setdefault((row["attack"], row["method"]), float(row["top1_percent"]))
    rows = []
    for pair in pairs:
        first, second = (paper.get((PUBLISHED.get(pair["attack"]), pair[side])) for side in ("first", "second"))
        if pair["group"] == group and first is not None and second is not None:
            rows.append(_ordering(pair, first - second, marks))
    notes = _ordering_notes(rows, pairs, group, marks)
    cell = f"ours: [low, high]: {_covers(pairs)}. Only the signs compare between paper and ours, not the sizes."
    parts = {
        f"{attack}, first minus second, points": Part(
            list(rows[0])[1:], [list(row.values())[1:] for row in rows if row["attack"] == attack], cell, 2
        )
        for attack in distinct(rows, "attack")
    }
    write(folder, "orderings", title, parts, notes)
    files.write_rows(folder / "orderings.csv", rows, header=["attack"])


def _ordering_notes(rows: Rows, pairs: Rows, group: str, marks: Rows) -> list[str]:
    counts = ", ".join(f"{sum(r['here'] == verdict for r in rows)} {verdict}" for verdict in distinct(rows, "here"))
    return [
        "paper: difference of the averages over 16 sets, ViT-B/32, eps 1/255 (published/*.csv; Comp-TGA from the "
        "README of its repository).",
        f"ours: difference of the averages over the sets of group '{group}' of this study, on the same images.",
        "appears: the same sign, and our interval leaves out zero; reversed: the other sign, likewise; "
        "undecided: our interval holds zero.",
        f"In all: {counts}.",
        *_named_marks([pair for pair in pairs if pair["group"] == group], marks),
    ]


def _ordering(pair: Row, paper: float, marks: Rows) -> dict[str, str]:
    mean, low, high = (float(pair[key]) for key in ("mean", "low", "high"))
    verdict = "undecided" if low <= 0 <= high else "appears" if mean * paper > 0 else "reversed"
    return {
        "attack": pair["attack"],
        "first": pair["first"],
        "second": pair["second"],
        "paper": f"{paper:+.2f}",
        "ours": marked(signed, pair, marks),
        "here": verdict,
    }


def audit(folder: Path, marks: Rows, checks: Rows, title: str) -> None:
    """Write the table of the audit, from rows of `zsr.evaluation.audit`: marks with their reasons, and the checks."""
    header = ["method", "attack", "set", "mark", "reason"]
    shown = [key for key in header if key != "mark"]
    parts = {
        _named(name, marks): Part(
            shown, [[row[key] for key in shown] for row in marks if row["mark"] == name], keys=3,
            cell="A line: a method under an attack on a set, and why its accuracy is not to be trusted as it stands.",
        )
        for name in distinct(marks, "mark")
    }  # fmt: skip
    parts["checks"] = Part(
        ["check", "cells", "marked"], [[row["check"], row["cells"], row["marked"]] for row in checks],
        "cells: how many the check looked at; none where the study lacks an attack that it compares with.",
    )  # fmt: skip
    notes = [
        "Wherever a cell with a mark is shown, also in an average or a difference, the mark is shown."
        if marks
        else "No cell has a mark.",
        *(f"{row['check'].replace('_', ' ')}: {row['rule']}." for row in checks),
    ]
    write(folder, "audit", title, parts, notes)
    files.write_rows(folder / "audit.csv", marks, header=header)


# The tables of the ablation


def _headline(averages: Rows) -> tuple[str, str]:
    """The groups of sets that a short table shows: all, and the strictest group of unseen sets."""
    return "all", "unseen_strict" if any(row["group"] == "unseen_strict" for row in averages) else "unseen"


def ablation(folder: Path, averages: Rows, title: str, marks: Rows = ()) -> None:
    """Write the table of every row under every attack: averages over all sets, and over sets neither seen nor easy."""
    columns = [(group, attack) for group in _headline(averages) for attack in distinct(averages, "attack")]
    lines, last = _lines(averages, columns, marks), _headline(averages)[-1]
    body = bold_best([[method, *lines[method]] for method in by_worst_case(averages, last)])
    cell = f"A cell: accuracy in %, mean over sets. {_averages_note(averages)} {BEST}"
    header = ["row", *(f"{attack} {group}" for group, attack in columns)]
    write(folder, "ablation", title, {"accuracy in %": Part(header, body, cell)}, reasons(marks))


def quirks(folder: Path, pairs: Rows, named: Mapping[str, Mapping], title: str, marks: Rows = ()) -> None:
    """Write the table of the effect of each quirk, one column per attack.

    named: row -> {id, against}, the block `quirks` of params.yaml.
    """
    by_pair = _by(pairs, "group", "attack", "first", "second")
    names = distinct(pairs, "attack")
    body = [
        [quirk["id"], name, quirk["against"]]
        + [_minus(by_pair, ("all", attack), name, quirk["against"], marks) for attack in names]
        for name, quirk in named.items()
    ]
    cell = (
        "A cell: row minus the one it is compared with, in points, mean over all sets, paired by image and seed; "
        f"[low, high]: {_covers(pairs)}."
    )
    parts = {"difference in points": Part(["quirk", "row", "against", *names], body, cell, 3)}
    write(folder, "quirks", title, parts, reasons(marks))


# The tables of a study with a grid of learning rates

GROUPS = {"source": "target", "unseen": "unseen"}  # group of the shown averages -> its name in the tables
GRID_COLUMNS = ("test_clean", "test_robust", "held_out_robust")
CURVE_COLUMNS = ("rho", "radial", "weight_norm", "gradient_norm")
CHOSEN = "*"
Curves = Mapping[tuple[str, str], Rows]  # (method, rate) -> rows of its steps


def rates(
    folder: Path,
    averages: Rows,
    pairs: Rows,
    compared: Sequence[tuple[str, str]],
    grid: Rows,
    marks: Rows,
    held_out: int,
    title: str,
) -> None:
    """Write folder/rates.*: accuracies, differences on the same images and seeds, and every rate of the grid.

    compared: pairs of TWINS and a control; the difference is first minus second. grid: the rows of
    metrics/results/rates.csv. held_out: number of images that chose the rate.
    """
    parts = {
        **{
            f"{GROUPS[group]}: accuracy in %, each method at its own rate": _at_chosen_rates(
                averages, group, grid, marks
            )
            for group in GROUPS
        },
        **{
            f"{GROUPS[group]}: TWINS minus its controls, points": _minus_controls(pairs, group, compared, marks)
            for group in GROUPS
            if compared
        },
        "target: accuracy in % at every rate": _every_rate(grid),
    }
    seeds = len(distinct(grid, "seed"))
    started = ", each with a start of its own" if compared else ""
    notes = [
        f"The rate of a method is the one of the grid with the highest accuracy under attack on the {held_out} images "
        f"held out of training, mean over {seeds} seeds; {CHOSEN} marks it in the grid. Test images chose nothing.",
        f"target: the test split of the set that methods were trained on. unseen: the mean over the other sets, which "
        f"they saw no more. ±: standard deviation over {seeds} seeds{started}; "
        "of a row with one seed [low, high]: 95 % over the choice of images.",
        *reasons(marks),
    ]
    write(folder, "rates", title, parts, notes)


def _at_chosen_rates(averages: Rows, group: str, grid: Rows, marks: Rows) -> Part:
    lr_of, attacks = chosen(grid), _worst_first(averages)
    lines = _lines(averages, [(group, attack) for attack in attacks], marks)
    body = bold_best([[method, lr_of.get(method, ""), *lines[method]] for method in by_worst_case(averages, group)], 2)
    cell = f"A cell: accuracy in %. {_averages_note(averages)} lr: the chosen rate. {BEST}"
    return Part(["method", "lr", *attacks], body, cell, 2)


def _minus_controls(pairs: Rows, group: str, compared: Sequence[tuple[str, str]], marks: Rows) -> Part:
    by_pair, attacks = _by(pairs, "group", "attack", "first", "second"), _worst_first(pairs)
    body = [
        [f"{first} - {second}", *(_minus(by_pair, (group, attack), first, second, marks) for attack in attacks)]
        for first, second in compared
    ]
    cell = (
        "A cell: the difference on the same images and seeds; [low, high]: 95 % over the choice of images and of seeds."
    )
    return Part(["", *attacks], body, cell)


def _every_rate(grid: Rows) -> Part:
    body = []
    for (method, lr), seeds in _grouped(grid, "method", "lr").items():
        blank = sum(row[GRID_COLUMNS[0]] == "" for row in seeds)
        cells = [
            f"diverged in {blank} of {len(seeds)} seeds" if blank else spread([float(row[column]) for row in seeds])
            for column in GRID_COLUMNS
        ]
        body.append([method, lr + (CHOSEN if int(seeds[0]["chosen"]) else ""), *cells])
    cell = f"A cell: accuracy in %, mean ± standard deviation over seeds. {CHOSEN}: the chosen rate."
    return Part(["method", "lr", *(column.replace("_", " ") for column in GRID_COLUMNS)], body, cell, 2)


def chosen(grid: Rows) -> dict[str, str]:
    """The rate of every method, from the rows of metrics/results/rates.csv."""
    return {row["method"]: row["lr"] for row in grid if int(row["chosen"])}


def twins_and_controls(methods: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """All pairs (a method with both wings, a method without wings that minimises the same loss).

    methods: the methods in the catalogue of the study.
    """
    trained = {name: method for name, method in methods.items() if "clip" not in (name, method.get("module"))}
    loss = {name: method.get("base", method).get("module", name) for name, method in trained.items()}
    twins = [name for name, method in trained.items() if "base" in method and method.get("wings", "both") == "both"]
    return [
        (twin, control) for twin in twins for control in trained if control not in twins and loss[control] == loss[twin]
    ]


def with_rates(curves: Path, grid: Rows) -> Curves:
    """(method, rate) -> the curve of the trainings, mean over seeds. curves: the folder metrics/curves."""
    pairs = dict.fromkeys((row["method"], row["lr"]) for row in grid)
    return {(method, lr): curve(curves / method / f"{lr}.csv") for method, lr in pairs}


def effective_rate(folder: Path, curves: Curves, lr_of: Mapping[str, str], shown_lr: str, title: str) -> None:
    """Write folder/effective_rate.*: means over steps of the measures that `zsr.measures.effective_rate` logged.

    lr_of: the chosen rate of every method.
    """
    choices = {f"all at lr {shown_lr}": dict.fromkeys(lr_of, shown_lr), "each at its own rate": lr_of}
    header = ["method", "lr", *CURVE_COLUMNS, "lr x rho"]
    cell = "A cell: a mean over convolutions, steps and seeds."
    parts = {
        caption: Part(
            header, [[method, lr, *_means_of_steps(curves[method, lr])] for method, lr in choice.items()], cell, 2
        )
        for caption, choice in choices.items()
    }
    notes = [
        "Of every convolution before BatchNorm, weight W and gradient g before weight decay: rho = ||g|| / ||W||, "
        "radial = |<W, g>| / (||W|| ||g||).",
        "lr x rho: what a step of plain SGD moves a filter by, in lengths of the filter; lr here is the schedule's.",
    ]
    write(folder, "effective_rate", title, parts, notes)


def _means_of_steps(steps: Rows) -> list[str]:
    if not steps:
        return ["diverged"] * (len(CURVE_COLUMNS) + 1)
    means = [fmean(float(row[column]) for row in steps) for column in CURVE_COLUMNS]
    turned = fmean(float(row["lr"]) * float(row["rho"]) for row in steps)
    return [*(f"{mean:.3g}" for mean in means), f"{turned:.2e}"]


def elsewhere(folder: Path, rows: Rows, title: str) -> None:
    """Write folder/elsewhere.*: numbers that others measured, with the source."""
    values = {key: float(row["top1_percent"]) for key, row in _by(rows, "dataset", "attack", "method").items()}
    sets, names, (base, twins) = (distinct(rows, key) for key in ("dataset", "attack", "method"))
    pairs = [(s, attack, values[s, attack, base], values[s, attack, twins]) for s in sets for attack in names]
    body = [[s, attack, f"{one:.2f}", f"{two:.2f}", f"{two - one:+.2f}"] for s, attack, one, two in pairs]
    notes = [
        "Not measured here, and not from the paper of TWINS: Table 2 of AutoLoRa (ICLR 2024), a re-run by others; "
        "ResNet-50, robust on ImageNet at 4/255, fine-tuned and attacked at 8/255. vanilla_rft: their natural plus "
        "adversarial fine-tuning. Their TWINS is understood to be TWINS-TRADES.",
        "No number of the original paper is shown, since none could be checked.",
    ]
    cell = "A cell: accuracy in %, and twins minus the other in points."
    parts = {"accuracy in %": Part(["set", "attack", base, twins, "difference"], body, cell, 2)}
    write(folder, "elsewhere", title, parts, notes)


# The tables of the transfer study

PLAIN = "ft"  # the method that others are compared with


@dataclass(frozen=True)
class Facts:
    """What every table of the transfer study needs: the texts of titles and notes, and facts of the study.

    Attributes:
        title: the title of the study.
        notes: the notes below every table.
        eps: the eps of the attacks, such as "15/255".
        classes: number of classes of the target set.
    """

    title: str
    notes: tuple[str, ...]
    eps: tuple[str, ...]
    classes: int


def transfer_notes(caution: str, cells: Rows, marks: Rows) -> tuple[str, ...]:
    """The notes below every table of the transfer study: caution, seeds, images, protocols, marks of models."""
    attacked = [cell for cell in cells if cell["attack"] not in (CLEAN, WORST)]
    first, seeds = attacked[0], distinct(attacked, "seed")
    mark_texts = [f"{mark['method']} {mark['attack']}, {mark['mark']}: {mark['reason']}" for mark in marks]
    return (
        caution,
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(seeds)}), each of random weights, "
        "heads, order of batches and noise, on one draw of the data. checkpoint final: nothing is chosen by the test "
        "images.",
        COUNTED[first["counted"]],
        f"n, test images of {first['set']} (digest of their ids): {first['n']} ({first['ids']}).",
        *(f"{text}." for text in distinct(attacked, "protocol")),
        *(f"marked: {text}." for text in dict.fromkeys(mark_texts)),
    )


def rows_of_cells(cells: Rows, study: Mapping) -> list[dict]:
    """One row per method and seed, from the rows of metrics/results/accuracy.csv. study: the catalogue of the study."""
    rows, attacked = [], [cell for cell in cells if cell["attack"] in study["attacks"]]
    for (method, seed), same in _grouped(attacked, "method", "seed").items():
        by_eps = {study["attacks"][cell["attack"]]: cell for cell in same}
        first = next(iter(by_eps.values()))
        start, section = start_and_method(study["methods"][method])
        run = Run(init=start, method=section, backbone=study["arch"], dataset=first["set"], seed=int(seed))
        n = int(first["n"])
        robust = {eps: int(cell["correct"]) / n for eps, cell in by_eps.items()}
        rows.append(row_of_run(run, int(first["clean_correct"]) / n, robust, n))
    return rows


def transfer(folder: Path, rows: Sequence[Mapping], facts: Facts, flags: Mapping[str, str]) -> None:
    """Write folder/transfer.*: clean and robust accuracy and drop rate of every run. flags: run -> a warning."""
    captions = {
        "accuracy in %": ["clean", *(f"robust@{eps}" for eps in facts.eps)],
        "drop rate, (clean - robust) / clean, in %": [f"DR@{eps}" for eps in facts.eps],
    }
    cell = "A cell: mean ± standard deviation over seeds. A row: the start of the training, and the method."
    parts = {}
    for caption, columns in captions.items():
        body = [
            [start, method, flags.get(f"{start} {method}", ""), *(spread([100 * r[c] for r in seeds]) for c in columns)]
            for (start, method), seeds in _grouped(rows, "init", "method").items()
        ]
        parts[caption] = Part(["start", "method", "flag", *columns], body, cell, 2)
    write(folder, "transfer", facts.title, parts, facts.notes)
    files.write_rows(folder / "transfer.csv", rows)


def flags(alike: Rows, classes: int) -> dict[str, str]:
    """The runs whose features have become a constant in a seed: "robust dm" -> "collapsed 2 of 4".

    The reference is the plain fine-tuned model of the same start and seed, which is taken as not collapsed.
    """
    values = {key: float(r["value"]) for key, r in _by(alike, "start", "method", "seed", "measure").items()}
    collapses: dict[str, list[bool]] = {}
    for (start, method, seed, measure), value in values.items():
        reference = values.get((start, PLAIN, seed, "variance"))
        if measure == "variance" and reference is not None:
            entropy = values[start, method, seed, "cross_entropy"]
            collapses.setdefault(f"{start} {method}", []).append(collapsed(value, reference, entropy, classes))
    return {run: f"collapsed {sum(bits)} of {len(bits)}" for run, bits in collapses.items() if any(bits)}


def differences(folder: Path, rows: Sequence[Mapping], facts: Facts) -> None:
    """Write folder/differences.*, from the rows of `difference_rows`."""
    header = ["first", "second", "eps", "clean", "robust", "drop rate", "loses more", "saturated"]
    cell = "A cell: first minus second in points, on the same images, paired by seed; ±: standard deviation over seeds."
    captions = {
        "start": f"a start against {STANDARD}, same method",
        "method": f"a method against {PLAIN}, same start",
    }
    parts = {
        caption: Part(header, [_difference_line(r) for r in rows if r["compared"] == compared], cell, 3)
        for compared, caption in captions.items()
    }
    notes = [
        "loses more: in how many seeds the first has the higher drop rate. saturated: both are below twice chance, so "
        "nothing can be said.",
        *facts.notes,
    ]
    write(folder, "differences", f"{facts.title}: differences", parts, notes)
    files.write_rows(folder / "differences.csv", rows, header=["compared"])


def _difference_line(row: Mapping) -> list[str]:
    return [
        *(row[name] for name in ("first", "second", "eps")),
        f"{100 * row['clean']:+.1f}",
        *(with_sd(100 * row[name], 100 * row[f"{name}_sd"], "+.1f") for name in ("robust", "drop_rate")),
        f"{row['agree']} of {row['seeds']}",
        "saturated" if row["saturated"] else "",
    ]


def difference_rows(rows: Sequence[Mapping], facts: Facts) -> list[dict]:
    """Every start against scratch by the same method, and every method against plain fine-tuning from the same start.

    A row is first minus second, in shares, by `zsr.reports.transfer.difference`, with standard deviations over seeds.
    """
    runs = _grouped(rows, "init", "method")
    pairs = [("start", (init, method), (STANDARD, method)) for init, method in runs if init != STANDARD]
    pairs += [("method", (init, method), (init, PLAIN)) for init, method in runs if method != PLAIN]
    return [
        {"compared": compared, "first": " ".join(first), "second": " ".join(second)}
        | _paired(runs[first], runs[second], eps, facts.classes)
        for compared, first, second in pairs
        if second in runs
        for eps in facts.eps
    ]


def _paired(first: Sequence[Mapping], second: Sequence[Mapping], eps: str, classes: int) -> dict:
    result, by_seed = difference(first, second, eps, classes), {r["seed"]: r for r in second}
    spreads = {
        f"{name}_sd": sd_of([r[column] - by_seed[r["seed"]][column] for r in first])
        for name, column in (("robust", f"robust@{eps}"), ("drop_rate", f"DR@{eps}"))
    }
    return result | spreads | {"clean": fmean(r["clean"] for r in first) - fmean(r["clean"] for r in second)}


def likeness(folder: Path, alike: Rows, reference: str, facts: Facts) -> None:
    """Write folder/likeness.*: similarity per layer, the universal perturbation and its control, bands of frequency.

    alike: rows of metrics/likeness, with run, start, method, seed, measure, input, layer and value.
    """
    by_measure, parts = _grouped(alike, "measure"), {}
    for (measure,) in (key for key in by_measure if key[0] in ("cka", "cca")):
        for (given,), input_rows in _grouped(by_measure[measure,], "input").items():
            caption = f"{measure.upper()} with the {reference} model of the seed, {given} images, in %"
            parts[caption] = _every_run(input_rows, "layer", "likeness in %")
    for measure, caption in {
        "accuracy": "accuracy in % under one perturbation for all images, and on one band of frequency",
        "fooled": "images in % whose class a perturbation for all images changes",
    }.items():
        parts[caption] = _every_run(by_measure.get((measure,), []), "input", "share of images in %")
    notes = [
        f"universal: made on the {reference} model of the seed, shown to every run; random_signs: the same size at "
        "every pixel with signs drawn at random.",
        *facts.notes,
    ]
    write(folder, "likeness", f"{facts.title}: likeness", parts, notes)


def _every_run(rows: Rows, column: str, what: str) -> Part:
    names, body = distinct(rows, column), []
    for run_rows in _grouped(rows, "run").values():
        values = _grouped(run_rows, column)
        cells = [spread([100 * float(r["value"]) for r in values[name,]]) for name in names]
        body.append([run_rows[0]["start"], run_rows[0]["method"], *cells])
    return Part(["start", "method", *names], body, f"A cell: {what}, mean ± standard deviation over seeds.", 2)
