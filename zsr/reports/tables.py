"""Tables for people: Markdown, LaTeX and CSV from the rows of `zsr.reports.results`, protocol facts below each.

In every table ± is a standard deviation over seeds, and [low, high] is a 95 % interval; the notes of the table say over
what. A number that the audit has marked carries a dagger and the number of the mark. The reasons stand below the table.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tabulate import LATEX_ESCAPE_RULES, tabulate

from zsr import files
from zsr.files import distinct
from zsr.reports.results import STRONGEST, over_seeds

Row = Mapping[str, str]
# Our name of an attack -> the papers' name.
PUBLISHED = {"clean": "none", "pgd": "pgd100", "cw": "cw", "autoattack": "autoattack"}
DAGGER = "†"
COUNTED = {
    "both": "Under an attack an image counts when it is right without and with the attack.",
    "adv": "Under an attack an image counts when it is right with the attack, also where it is wrong without.",
}


def write(folder: Path, name: str, title: str, parts: Mapping[str, tuple[list, list]], notes: Sequence[str]) -> None:
    """Write folder/name.md and folder/name.tex: one table per part (caption -> header, body), the notes below."""
    markdown, latex = [f"# {title}"], []
    for caption, (header, body) in parts.items():
        markdown.append(f"**{caption}**\n\n" + tabulate(body, header, "github", disable_numparse=True))
        latex.append(
            _latex_table(f"{title}: {caption}", tabulate(body, header, "latex_booktabs", disable_numparse=True))
        )
    markdown.append("\n".join(f"- {note}" for note in notes))
    items = "\n".join(rf"\item {_escaped(note)}" for note in notes)
    latex.append("\\begin{itemize}\\footnotesize\n" + items + "\n\\end{itemize}")
    files.write_atomic(folder / f"{name}.md", ("\n\n".join(markdown) + "\n").encode())
    text = "\n\n".join(latex).replace(DAGGER, r"\textdagger{}")
    files.write_atomic(folder / f"{name}.tex", (text + "\n").encode())


def _latex_table(caption: str, tabular: str) -> str:
    return f"\\begin{{table}}\n\\caption{{{_escaped(caption)}}}\n{tabular}\n\\end{{table}}"


def _escaped(text: str) -> str:
    return "".join(LATEX_ESCAPE_RULES.get(character, character) for character in text)


def daggers_of(names: str, marks: Sequence[Row]) -> str:
    """The text after a number with these marks, such as " †1,3". The number of a mark is its position in `marks`."""
    known = distinct(marks, "mark")
    return f" {DAGGER}" + ",".join(str(known.index(name) + 1) for name in names.split()) if names else ""


def reasons(marks: Sequence[Row], shown: Sequence[Row] | None = None) -> list[str]:
    """One note per mark: all cells that carry the mark, with the reasons. shown: the marks in the table, if not all."""
    shown = marks if shown is None else shown
    notes = []
    for name in (name for name in distinct(marks, "mark") if name in distinct(shown, "mark")):
        cells = [f"{r['method']} {r['attack']} {r['set']}: {r['reason']}" for r in shown if r["mark"] == name]
        notes.append(f"{daggers_of(name, marks).strip()} {name.replace('_', ' ')}. {'; '.join(cells)}.")
    return notes


def accuracy(
    folder: Path, cells: Sequence[Row], averages: Sequence[Row], title: str, marks: Sequence[Row] = ()
) -> None:
    """Write the table of accuracies of every method, attack and set, averages first.

    marks: rows of `zsr.reports.audit.mark_rows`.
    """
    by_cell = {(r["method"], r["attack"], r["set"]): r for r in over_seeds(cells)}
    by_group = {(r["method"], r["attack"], r["group"]): r for r in averages}
    sets, groups = distinct(cells, "set"), distinct(averages, "group")
    groups.remove("source")  # this group is one set, which has a column among the sets
    parts = {}
    for attack in distinct(cells, "attack"):
        body = [
            [method]
            + [marked(shown, by_group[method, attack, group], marks) for group in groups]
            + [marked(shown, by_cell[method, attack, s], marks) for s in sets]
            for method in distinct(cells, "method")
        ]
        parts[f"{attack}, accuracy in %"] = (["method", *groups, *sets], body)
    write(folder, "accuracy", title, parts, _accuracy_notes(cells) + reasons(marks))
    files.write_rows(folder / "accuracy.csv", cells)


def marked(text_of: Callable[[Row], str], row: Row, marks: Sequence[Row]) -> str:
    """The number of a row as `text_of` formats it, with the daggers of the row's marks."""
    return text_of(row) + daggers_of(row.get("marks", ""), marks)


def _accuracy_notes(cells: Sequence[Row]) -> list[str]:
    subsets = ", ".join(f"{s} {n} ({ids})" for s, n, ids in dict.fromkeys((r["set"], r["n"], r["ids"]) for r in cells))
    protocols = [f"{attack}: {text}." for attack, text in dict.fromkeys((r["attack"], r["protocol"]) for r in cells)]
    seeds = distinct(cells, "seed")
    spread = (
        "[low, high]: 95 % interval over the choice of test images: Wilson's of a cell; of a mean of cells, every set "
        "weighing the same, Wilson's put together. One base model, one training seed."
        if len(seeds) == 1
        else f"±: standard deviation over {len(seeds)} training seeds ({', '.join(seeds)}) on one base model. A row "
        "that does not train has one seed and a 95 % interval [low, high] over the choice of test images."
    )
    return [
        COUNTED[cells[0].get("counted", "both")],
        f"n, test images of each set (digest of their ids): {subsets}.",
        spread,
        *protocols,
    ]


def attacks(
    folder: Path, averages: Sequence[Row], differences: Sequence[Row], group: str, title: str, marks: Sequence[Row] = ()
) -> None:
    """Write the table of all attacks side by side, and of the accuracy under each attack minus that under AutoAttack.

    differences: rows of `zsr.reports.results.attack_rows`.
    """
    group_rows = [row for row in differences if row["group"] == group]
    by_cell = {(r["method"], r["attack"]): r for r in averages if r["group"] == group}
    minus = {(r["method"], r["attack"]): r for r in group_rows}
    names, compared = distinct(averages, "attack"), distinct(group_rows, "attack")
    body = [
        [method]
        + [marked(shown, by_cell[method, attack], marks) for attack in names]
        + [marked(signed, minus[method, attack], marks) for attack in compared]
        for method in distinct(averages, "method")
    ]
    header = ["method", *names, *(f"{attack} - {STRONGEST}" for attack in compared)]
    notes = [
        f"Differences in points between attacks on the same models and images; [low, high]: {_covers(group_rows)}. "
        "Above zero the other attack leaves images that AutoAttack fools.",
        _averages_note(averages),
        *reasons(marks),
    ]
    write(folder, "attacks", title, {f"mean over {group} sets, accuracy in %": (header, body)}, notes)
    files.write_rows(folder / "attacks.csv", group_rows, header=["attack"])


def signed(row: Row, sign: int = 1) -> str:
    """A difference with its interval, "+3.2 [+2.1, +4.3]". sign -1: the second minus the first."""
    mean, *limits = (sign * float(row[key]) + 0 for key in ("mean", "low", "high"))  # + 0: no -0.0
    low, high = sorted(limits)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _covers(rows: Sequence[Row]) -> str:
    """The words for what the intervals of differences or averages cover."""
    several = any(int(row["seeds"]) > 1 for row in rows)
    return f"95 % over the choice of images{' and of seeds' if several else ''}"


def _averages_note(averages: Sequence[Row]) -> str:
    several = any(int(row["seeds"]) > 1 for row in averages)
    return (
        "Averages: mean ± standard deviation over seeds; of one seed the 95 % interval over the choice of images."
        if several
        else "Averages: with their 95 % interval over the choice of images."
    )


def orderings(
    folder: Path,
    pairs: Sequence[Row],
    published: Sequence[Row],
    group: str,
    title: str,
    marks: Sequence[Row] = (),
) -> None:
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


def _ordering_notes(rows: Sequence[Row], pairs: Sequence[Row], group: str, marks: Sequence[Row]) -> list[str]:
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
            f"{daggers_of(name, marks).strip()} {name.replace('_', ' ')}: a cell behind the difference bears this "
            "mark, whose reason is in the table of the audit."
            for name in distinct(marks, "mark")
            if name in shown
        ),
    ]


def _ordering(pair: Row, paper: float, marks: Sequence[Row]) -> dict[str, str]:
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


def shown(row: Row) -> str:
    """The text of a mean or a cell: "82.3 ± 1.2" over several seeds, "82.3 [80.1, 84.2]" for one seed."""
    value = float(row["mean"] if "mean" in row else row["accuracy"])
    if row["sd"] != "":
        return f"{value:.1f} ± {float(row['sd']):.1f}"
    return f"{value:.1f} [{float(row['low']):.1f}, {float(row['high']):.1f}]"


def audit(folder: Path, marks: Sequence[Row], checks: Sequence[Row], title: str) -> None:
    """Write the table of the audit, from rows of `zsr.reports.audit`: marks with their reasons, and the checks."""
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


def ablation(folder: Path, averages: Sequence[Row], title: str, marks: Sequence[Row] = ()) -> None:
    """Write the table of every row under every attack: averages over all sets, and over sets neither seen nor easy."""
    by_cell = {(r["method"], r["attack"], r["group"]): r for r in averages}
    columns = [(a, g) for g in ("all", "unseen_strict") for a in distinct(averages, "attack")]
    body = [
        [method, *(marked(shown, by_cell[(method, *column)], marks) for column in columns)]
        for method in distinct(averages, "method")
    ]
    notes = ["Accuracy in %, mean over sets.", _averages_note(averages), *reasons(marks)]
    header = ["row", *(f"{attack} {group}" for attack, group in columns)]
    write(folder, "ablation", title, {"accuracy in %": (header, body)}, notes)


def quirks(
    folder: Path, pairs: Sequence[Row], named: Mapping[str, Mapping], title: str, marks: Sequence[Row] = ()
) -> None:
    """Write the table of the effect of each quirk, one column per attack.

    named: row -> {id, against}, the block `quirks` of params.yaml.
    """
    by_pair = {(r["attack"], r["first"], r["second"]): r for r in pairs if r["group"] == "all"}
    attacks = distinct(pairs, "attack")
    body = []
    for name, quirk in named.items():
        effects = []
        for attack in attacks:
            swapped = (attack, name, quirk["against"]) not in by_pair
            pair = by_pair[(attack, quirk["against"], name) if swapped else (attack, name, quirk["against"])]
            effects.append(signed(pair, -1 if swapped else 1) + daggers_of(pair.get("marks", ""), marks))
        body.append([quirk["id"], name, quirk["against"], *effects])
    notes = [
        "row minus the one it is compared with, in points, mean over all sets, paired by image and seed; "
        f"[low, high]: {_covers(pairs)}.",
        *reasons(marks),
    ]
    write(folder, "quirks", title, {"difference in points": (["quirk", "row", "against", *attacks], body)}, notes)
