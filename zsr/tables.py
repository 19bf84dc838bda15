"""Tables for people: Markdown, LaTeX and CSV from the rows of `zsr.results`, protocol facts below each.

A number that the audit has marked bears a dagger and the number of the mark, whose reasons stand below the table.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tabulate import LATEX_ESCAPE_RULES, tabulate

from zsr import storage
from zsr.results import STRONGEST, over_seeds
from zsr.storage import distinct

Row = Mapping[str, str]
PUBLISHED = {"clean": "none", "pgd": "pgd100", "cw": "cw", "autoattack": "autoattack"}  # our attack -> the papers'
DAGGER = "†"
COUNTED = {
    "both": "Under an attack an image counts when it is right without and with the attack.",
    "adv": "Under an attack an image counts when it is right with the attack, also where it is wrong without.",
}


def write(folder: Path, name: str, title: str, parts: Mapping[str, tuple[list, list]], notes: Sequence[str]) -> None:
    """folder/name.md and folder/name.tex: one table per part (caption -> header, body), the notes below."""
    markdown, latex = [f"# {title}"], []
    for caption, (header, body) in parts.items():
        markdown.append(f"**{caption}**\n\n" + tabulate(body, header, "github", disable_numparse=True))
        latex.append(
            _latex_table(f"{title}: {caption}", tabulate(body, header, "latex_booktabs", disable_numparse=True))
        )
    markdown.append("\n".join(f"- {note}" for note in notes))
    items = "\n".join(rf"\item {_escaped(note)}" for note in notes)
    latex.append("\\begin{itemize}\\footnotesize\n" + items + "\n\\end{itemize}")
    storage.write_atomic(folder / f"{name}.md", ("\n\n".join(markdown) + "\n").encode())
    text = "\n\n".join(latex).replace(DAGGER, r"\textdagger{}")
    storage.write_atomic(folder / f"{name}.tex", (text + "\n").encode())


def _latex_table(caption: str, tabular: str) -> str:
    return f"\\begin{{table}}\n\\caption{{{_escaped(caption)}}}\n{tabular}\n\\end{{table}}"


def _escaped(text: str) -> str:
    return "".join(LATEX_ESCAPE_RULES.get(character, character) for character in text)


def daggers_of(names: str, marks: Sequence[Row]) -> str:
    """What follows a number with these marks, as " †1,3"; the place of a mark among all of `marks` is its number."""
    known = distinct(marks, "mark")
    return f" {DAGGER}" + ",".join(str(known.index(name) + 1) for name in names.split()) if names else ""


def reasons(marks: Sequence[Row], shown: Sequence[Row] | None = None) -> list[str]:
    """One note per mark: every cell that bears it, and why. shown: those of `marks` in the table, if not all."""
    shown = marks if shown is None else shown
    notes = []
    for name in (name for name in distinct(marks, "mark") if name in distinct(shown, "mark")):
        cells = [f"{r['method']} {r['attack']} {r['set']}: {r['reason']}" for r in shown if r["mark"] == name]
        notes.append(f"{daggers_of(name, marks).strip()} {name.replace('_', ' ')}. {'; '.join(cells)}.")
    return notes


def accuracy(
    folder: Path, cells: Sequence[Row], averages: Sequence[Row], title: str, marks: Sequence[Row] = ()
) -> None:
    """Accuracy of every method, attack and set, averages first; over several seeds mean ± standard deviation.

    marks: rows of `zsr.audit.mark_rows`.
    """
    by_cell = {(r["method"], r["attack"], r["set"]): r for r in over_seeds(cells)}
    by_group = {(r["method"], r["attack"], r["group"]): r for r in averages}
    sets, groups = distinct(cells, "set"), distinct(averages, "group")
    groups.remove("source")  # one set, which stands among the sets
    parts = {}
    for attack in distinct(cells, "attack"):
        body = [
            [method]
            + [marked(with_spread, by_group[method, attack, group], marks) for group in groups]
            + [marked(_with_interval, by_cell[method, attack, s], marks) for s in sets]
            for method in distinct(cells, "method")
        ]
        parts[f"{attack}, accuracy in %"] = (["method", *groups, *sets], body)
    write(folder, "accuracy", title, parts, _accuracy_notes(cells) + reasons(marks))
    storage.write_rows(folder / "accuracy.csv", cells)


def marked(shown: Callable[[Row], str], row: Row, marks: Sequence[Row]) -> str:
    """A number as `shown` writes it, with the daggers of the row's marks."""
    return shown(row) + daggers_of(row.get("marks", ""), marks)


def _accuracy_notes(cells: Sequence[Row]) -> list[str]:
    subsets = ", ".join(f"{s} {n} ({ids})" for s, n, ids in dict.fromkeys((r["set"], r["n"], r["ids"]) for r in cells))
    protocols = [f"{attack}: {text}." for attack, text in dict.fromkeys((r["attack"], r["protocol"]) for r in cells)]
    seeds = distinct(cells, "seed")
    spread = (
        "[low, high]: Wilson 95 % interval of a cell. ±: 95 % half-width of a mean of cells, every set weighing the "
        "same. Both come from the choice of test images alone: one base model, one fine-tuning seed."
        if len(seeds) == 1
        else f"±: standard deviation over {len(seeds)} fine-tuning seeds ({', '.join(seeds)}) on one base model. A "
        "method that does not train has one; its ± is then the 95 % half-width of choosing the test images."
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
    """Every method under all attacks side by side, and what each leaves beyond AutoAttack on the same images.

    differences: rows of `zsr.results.attack_rows`.
    """
    own = [row for row in differences if row["group"] == group]
    by_cell = {(r["method"], r["attack"]): r for r in averages if r["group"] == group}
    minus = {(r["method"], r["attack"]): r for r in own}
    names, compared = distinct(averages, "attack"), distinct(own, "attack")
    body = [
        [method]
        + [marked(with_spread, by_cell[method, attack], marks) for attack in names]
        + [marked(_signed, minus[method, attack], marks) for attack in compared]
        for method in distinct(averages, "method")
    ]
    header = ["method", *names, *(f"{attack} - {STRONGEST}" for attack in compared)]
    notes = [
        "Differences in points between attacks on the same models and images; ±: 95 % half-width over the choice of "
        "images. Above zero the other attack leaves images that AutoAttack fools.",
        *reasons(marks),
    ]
    write(folder, "attacks", title, {f"mean over {group} sets, accuracy in %": (header, body)}, notes)
    storage.write_rows(folder / "attacks.csv", own, header=["attack"])


def _signed(row: Row) -> str:
    return f"{float(row['mean']):+.1f} ± {float(row['half_width']):.1f}"


def orderings(
    folder: Path,
    pairs: Sequence[Row],
    published: Sequence[Row],
    group: str,
    title: str,
    marks: Sequence[Row] = (),
) -> None:
    """Which method beats which: the sign of each published difference of averages beside ours, with its interval.

    published: rows of published/*.csv; where several tables hold a method, the first counts.
    """
    paper: dict[tuple[str, str], float] = {}
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
    storage.write_rows(folder / "orderings.csv", rows, header=["attack"])


def _ordering_notes(rows: Sequence[Row], pairs: Sequence[Row], group: str, marks: Sequence[Row]) -> list[str]:
    several = any(int(pair["seeds"]) > 1 for pair in pairs)
    counts = ", ".join(f"{sum(r['here'] == verdict for r in rows)} {verdict}" for verdict in distinct(rows, "here"))
    shown = {name for pair in pairs if pair["group"] == group for name in pair.get("marks", "").split()}
    return [
        "paper: difference of the averages over 16 sets, ViT-B/32, eps 1/255 (published/*.csv; Comp-TGA from the "
        "README of its repository).",
        f"ours: difference of the averages over the sets of group '{group}' of this study, on the same images, "
        f"± its 95 % half-width over the choice of images{' and of seeds' if several else ''}. Only the signs compare "
        "between the two, not the sizes.",
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
    mean, half = float(pair["mean"]), float(pair["half_width"])
    verdict = "undecided" if abs(mean) <= half else "appears" if mean * paper > 0 else "reversed"
    return {
        "attack": pair["attack"],
        "first": pair["first"],
        "second": pair["second"],
        "paper": f"{paper:+.2f}",
        "ours": f"{mean:+.1f} ± {half:.1f}" + daggers_of(pair.get("marks", ""), marks),
        "here": verdict,
    }


def with_spread(row: Row) -> str:
    """mean ± standard deviation over seeds, or, of one seed, ± half-width."""
    return f"{float(row['mean']):.1f} ± {float(row['sd'] or row['half_width']):.1f}"


def _with_interval(row: Row) -> str:
    if row["sd"] != "":
        return f"{row['accuracy']:.1f} ± {row['sd']:.1f}"
    return f"{row['accuracy']:.1f} [{float(row['low']):.0f}, {float(row['high']):.0f}]"


def audit(folder: Path, marks: Sequence[Row], checks: Sequence[Row], title: str) -> None:
    """Rows of `zsr.audit`: every mark with its reason, and the checks that ran."""
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
    storage.write_rows(folder / "audit.csv", marks, header=header)


def ablation(folder: Path, rows: Sequence[Mapping], facts: str, marks: Sequence[Row] = ()) -> None:
    """Rows of `zsr.results.variant_rows`: mean ± standard deviation over seeds. marks: of the audit of all variants."""
    columns = [key for key in rows[0] if f"{key} sd" in rows[0]]
    shown = {r["variant"]: [m for m in marks if m["method"] == r["variant"]] for r in rows}
    own = [mark for of_variant in shown.values() for mark in of_variant]
    daggers = {v: daggers_of(" ".join(distinct(of_variant, "mark")), own) for v, of_variant in shown.items()}
    body = [
        [r["variant"] + daggers[r["variant"]], *(f"{r[c]:.1f} ± {r[f'{c} sd']:.1f}" for c in columns)] for r in rows
    ]
    notes = [f"Accuracy in %, mean over sets, ± standard deviation over seeds: {facts}.", *reasons(own)]
    write(folder, "ablation", "Ablation of TGA-ZSR", {"accuracy in %": (["variant", *columns], body)}, notes)
    storage.write_rows(folder / "ablation.csv", rows)


def quirks(folder: Path, rows: Sequence[Mapping], facts: str, marks: Sequence[Row] = ()) -> None:
    """Rows of `zsr.results.effect_rows`: what a switch changes, one column per attack."""
    attacks = distinct(rows, "attack")
    effects = {}
    for r in rows:
        behind = [m for m in marks if m["method"] in (r["variant"], r["against"]) and m["attack"] == r["attack"]]
        daggers = daggers_of(" ".join(distinct(behind, "mark")), marks)
        effects[r["variant"], r["attack"]] = f"{r['mean']:+.1f} ± {r['half_width']:.1f}" + daggers
    names = {r["variant"]: (r["quirk"], r["variant"], r["against"]) for r in rows}
    body = [[*names[v], *(effects[v, attack] for attack in attacks)] for v in names]
    notes = [
        "variant minus the one it is compared with, in points, mean over all sets, paired by image and seed; "
        f"±: 95 % half-width over the choice of images and of seeds: {facts}.",
        *reasons(marks),
    ]
    header = ["quirk", "variant", "against", *attacks]
    write(folder, "quirks", "Effects of quirks", {"difference in points": (header, body)}, notes)
    storage.write_rows(folder / "quirks.csv", rows)
