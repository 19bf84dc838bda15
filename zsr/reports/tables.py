"""All tables for people but that of `zsr.reports.comparison`: Markdown, LaTeX and CSV, protocol facts below each.

From top to bottom: the text of a cell, a table on disk, notes that tables share, then one function for each table. The
function has the name of the table in params.yaml; `TABLES` in `stages.tables` calls it with the rows of the study.

In every table ± is a standard deviation over seeds, and [low, high] is a 95 % interval; the notes of the table say over
what. A number that the audit has marked carries a dagger and the number of the mark. The reasons stand below the table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from tabulate import LATEX_ESCAPE_RULES, tabulate

from zsr import files
from zsr.evaluation.results import CLEAN, STRONGEST, WORST, over_seeds
from zsr.files import distinct, read_rows
from zsr.reports.transfer import STANDARD, Run, collapsed, difference, start_and_method
from zsr.reports.transfer import row as row_of_run

Row = Mapping[str, str]
Rows = Sequence[Row]
Column = tuple[str, str]  # group or set, attack
Part = tuple[list, list]  # header and body of one part of a table
# Our name of an attack -> the papers' name.
PUBLISHED = {"clean": "none", "pgd": "pgd100", "cw": "cw", "autoattack": "autoattack"}
DAGGER = "†"
COUNTED = {
    "both": "Under an attack an image counts when it is right without and with the attack.",
    "adv": "Under an attack an image counts when it is right with the attack, also where it is wrong without.",
}

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


def shown(row: Row) -> str:
    """The text of a mean or a cell: "82.3 ± 1.2" over several seeds, "82.3 [80.1, 84.2]" for one seed."""
    value = float(row["mean"] if "mean" in row else row["accuracy"])
    if row["sd"] != "":
        return with_sd(value, float(row["sd"]))
    return f"{value:.1f} [{float(row['low']):.1f}, {float(row['high']):.1f}]"


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


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return tabulate(body, header, "github", disable_numparse=True)


def write(folder: Path, name: str, title: str, parts: Mapping[str, Part], notes: Sequence[str]) -> None:
    """Write folder/name.md and folder/name.tex: one table per part (caption -> header, body), the notes below."""
    texts = [f"**{caption}**\n\n{markdown(*part)}" for caption, part in parts.items()]
    below = "\n".join(f"- {note}" for note in notes)
    files.write_atomic(folder / f"{name}.md", ("\n\n".join([f"# {title}", *texts, below]) + "\n").encode())
    texts = [_latex(f"{title}: {caption}", *part) for caption, part in parts.items()]
    below = "\n".join(rf"\item {_escaped(note)}" for note in notes)
    below = f"\\begin{{itemize}}\\footnotesize\n{below}\n\\end{{itemize}}"
    latex = "\n\n".join([*texts, below]).replace(DAGGER, r"\textdagger{}")
    files.write_atomic(folder / f"{name}.tex", (latex + "\n").encode())


def _latex(caption: str, header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    tabular = tabulate(body, header, "latex_booktabs", disable_numparse=True)
    return f"\\begin{{table}}\n\\caption{{{_escaped(caption)}}}\n{tabular}\n\\end{{table}}"


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
    sets, groups = distinct(cells, "set"), distinct(averages, "group")
    groups.remove("source")  # this group is one set, which has a column among the sets
    merged, parts = over_seeds(cells), {}
    for attack in distinct(cells, "attack"):
        means = _lines(averages, [(group, attack) for group in groups], marks)
        single = _lines(merged, [(s, attack) for s in sets], marks, kind="set")
        body = [[method, *means[method], *texts] for method, texts in single.items()]
        parts[f"{attack}, accuracy in %"] = (["method", *groups, *sets], body)
    write(folder, "accuracy", title, parts, _accuracy_notes(cells, bases) + reasons(marks))
    files.write_rows(folder / "accuracy.csv", cells)


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
    names, compared = distinct(averages, "attack"), distinct(group_rows, "attack")
    means = _lines(averages, [(group, attack) for attack in names], marks)
    minus = _lines(group_rows, [(group, attack) for attack in compared], marks, signed)
    body = [[method, *texts, *minus.get(method, [])] for method, texts in means.items()]
    header = ["method", *names, *(f"{attack} - {STRONGEST}" for attack in compared)]
    notes = [
        f"Differences in points between attacks on the same models and images; [low, high]: {_covers(group_rows)}. "
        "Above zero the other attack leaves images that AutoAttack fools.",
        _averages_note(averages),
        *reasons(marks),
    ]
    write(folder, "attacks", title, {f"mean over {group} sets, accuracy in %": (header, body)}, notes)
    files.write_rows(folder / "attacks.csv", group_rows, header=["attack"])


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
    body = [list(row.values()) for row in rows]
    write(folder, "orderings", title, {"first minus second, points": (list(rows[0]) if rows else [], body)}, notes)
    files.write_rows(folder / "orderings.csv", rows, header=["attack"])


def _ordering_notes(rows: Rows, pairs: Rows, group: str, marks: Rows) -> list[str]:
    counts = ", ".join(f"{sum(r['here'] == verdict for r in rows)} {verdict}" for verdict in distinct(rows, "here"))
    shown = {name for pair in pairs if pair["group"] == group for name in pair.get("marks", "").split()}
    return [
        "paper: difference of the averages over 16 sets, ViT-B/32, eps 1/255 (published/*.csv; Comp-TGA from the "
        "README of its repository).",
        f"ours: difference of the averages over the sets of group '{group}' of this study, on the same images; "
        f"[low, high]: {_covers(pairs)}. Only the signs compare between the two, not the sizes.",
        "appears: the same sign, and our interval leaves out zero; reversed: the other sign, likewise; "
        "undecided: our interval holds zero.",
        f"In all: {counts}.",
        *(
            f"{_named(name, marks)}: a cell behind the difference bears this mark, whose reason is in the table of the "
            "audit."
            for name in distinct(marks, "mark")
            if name in shown
        ),
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
    parts = {
        "marks": (["", *header], [[daggers_of(r["mark"], marks).strip(), *(r[key] for key in header)] for r in marks]),
        "checks": (["check", "rule", "cells", "marked"], [list(row.values()) for row in checks]),
    }
    notes = [
        "A mark belongs to a cell: a method under an attack on a set. It says why its accuracy is not to be trusted as "
        "it stands; wherever the cell is shown, also in an average or a difference, the mark is shown.",
        "cells: how many the check looked at; none where the study lacks an attack that it compares with.",
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
    body = [[method, *texts] for method, texts in _lines(averages, columns, marks).items()]
    notes = ["Accuracy in %, mean over sets.", _averages_note(averages), *reasons(marks)]
    header = ["row", *(f"{attack} {group}" for group, attack in columns)]
    write(folder, "ablation", title, {"accuracy in %": (header, body)}, notes)


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
    notes = [
        "row minus the one it is compared with, in points, mean over all sets, paired by image and seed; "
        f"[low, high]: {_covers(pairs)}.",
        *reasons(marks),
    ]
    write(folder, "quirks", title, {"difference in points": (["quirk", "row", "against", *names], body)}, notes)


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

    compared: pairs of methods; the difference is first minus second. grid: the rows of metrics/results/rates.csv.
    held_out: number of images that chose the rate.
    """
    parts = {
        "accuracy in %, each method at its own rate": _at_chosen_rates(averages, grid, marks),
        "TWINS minus its controls, points": _minus_controls(pairs, compared, marks),
        "accuracy in % at every rate": _every_rate(grid),
    }
    seeds = len(distinct(grid, "seed"))
    notes = [
        f"The rate of a method is the one of the grid with the highest accuracy under attack on the {held_out} images "
        f"held out of training, mean over {seeds} seeds; {CHOSEN} marks it in the grid. Test images chose nothing.",
        f"target: the test split of the set that methods were trained on. unseen: the mean over the other sets, which "
        f"they saw no more. ±: standard deviation over {seeds} seeds, each with a start of its own; of a row with one "
        "seed [low, high]: 95 % over the choice of images.",
        "Differences: on the same images and seeds; [low, high]: 95 % over the choice of images and of seeds.",
        *reasons(marks),
    ]
    write(folder, "rates", title, parts, notes)


def _at_chosen_rates(averages: Rows, grid: Rows, marks: Rows) -> Part:
    lr_of, columns = chosen(grid), [(group, attack) for group in GROUPS for attack in distinct(averages, "attack")]
    body = [[method, lr_of.get(method, ""), *texts] for method, texts in _lines(averages, columns, marks).items()]
    return ["method", "lr", *(f"{GROUPS[group]} {attack}" for group, attack in columns)], body


def _minus_controls(pairs: Rows, compared: Sequence[tuple[str, str]], marks: Rows) -> Part:
    by_pair = _by(pairs, "group", "attack", "first", "second")
    columns = [(group, attack) for group in GROUPS for attack in distinct(pairs, "attack")]
    body = [
        [f"{first} - {second}", *(_minus(by_pair, column, first, second, marks) for column in columns)]
        for first, second in compared
    ]
    return ["", *(f"{GROUPS[group]} {attack}" for group, attack in columns)], body


def _every_rate(grid: Rows) -> Part:
    body = []
    for (method, lr), seeds in _grouped(grid, "method", "lr").items():
        blank = sum(row[GRID_COLUMNS[0]] == "" for row in seeds)
        cells = [
            f"diverged in {blank} of {len(seeds)} seeds" if blank else spread([float(row[column]) for row in seeds])
            for column in GRID_COLUMNS
        ]
        body.append([method, lr + (CHOSEN if int(seeds[0]["chosen"]) else ""), *cells])
    return ["method", "lr", *(column.replace("_", " ") for column in GRID_COLUMNS)], body


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
    return {(method, lr): read_rows(curves / method / f"{lr}.csv") for method, lr in pairs}


def effective_rate(folder: Path, curves: Curves, lr_of: Mapping[str, str], shown_lr: str, title: str) -> None:
    """Write folder/effective_rate.*: means over steps of the measures that `zsr.measures.effective_rate` logged.

    lr_of: the chosen rate of every method.
    """
    choices = {f"all at lr {shown_lr}": dict.fromkeys(lr_of, shown_lr), "each at its own rate": lr_of}
    header = ["method", "lr", *CURVE_COLUMNS, "lr x rho"]
    parts = {
        caption: (header, [[method, lr, *_means_of_steps(curves[method, lr])] for method, lr in choice.items()])
        for caption, choice in choices.items()
    }
    notes = [
        "Of every convolution before BatchNorm, weight W and gradient g before weight decay: rho = ||g|| / ||W||, "
        "radial = |<W, g>| / (||W|| ||g||); means over convolutions, steps and seeds.",
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
    write(folder, "elsewhere", title, {"accuracy in %": (["set", "attack", base, twins, "difference"], body)}, notes)


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
    parts = {}
    for caption, columns in captions.items():
        body = [
            [start, method, seeds[0]["checkpoint"], flags.get(f"{start} {method}", "")]
            + [spread([100 * r[column] for r in seeds]) for column in columns]
            for (start, method), seeds in _grouped(rows, "init", "method").items()
        ]
        parts[caption] = (["start", "method", "checkpoint", "flag", *columns], body)
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
    captions = {
        "start": f"a start against {STANDARD}, same method",
        "method": f"a method against {PLAIN}, same start",
    }
    parts = {
        caption: (header, [_difference_line(r) for r in rows if r["compared"] == compared])
        for compared, caption in captions.items()
    }
    notes = [
        "first minus second, in points, on the same images, paired by seed; ±: standard deviation over seeds. loses "
        "more: in how many seeds the first has the higher drop rate. saturated: both are below twice chance, so "
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
            parts[caption] = _every_run(input_rows, "layer")
    for measure, caption in {
        "accuracy": "accuracy in % under one perturbation for all images, and on one band of frequency",
        "fooled": "images in % whose class a perturbation for all images changes",
    }.items():
        parts[caption] = _every_run(by_measure.get((measure,), []), "input")
    notes = [
        f"universal: made on the {reference} model of the seed, shown to every run; random_signs: the same size at "
        "every pixel with signs drawn at random. ±: standard deviation over seeds.",
        *facts.notes,
    ]
    write(folder, "likeness", f"{facts.title}: likeness", parts, notes)


def _every_run(rows: Rows, column: str) -> Part:
    names, body = distinct(rows, column), []
    for run_rows in _grouped(rows, "run").values():
        values = _grouped(run_rows, column)
        cells = [spread([100 * float(r["value"]) for r in values[name,]]) for name in names]
        body.append([run_rows[0]["start"], run_rows[0]["method"], *cells])
    return ["start", "method", *names], body
