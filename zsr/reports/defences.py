"""The table of defences at test time, and what other reports show of a defence. No torch.

The rows are those of metrics/defended/*.csv, which the stage `defend` writes: one for each set of a defence, and one
for the mean over sets. The number of a defence is the column `worst`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from zsr import files
from zsr.evaluation.defence_records import COLUMNS, COUNTS, MEAN
from zsr.files import distinct
from zsr.reports import tables
from zsr.reports.markdown import bold_best
from zsr.reports.tables import DAGGER, Part

Row = Mapping[str, str]
Rows = Sequence[Row]
CONDITIONS = {  # a condition of RobustBench as metrics name it -> its number and its words
    "useful_gradients": (1, "gradients through the defence are of use"),
    "deterministic": (2, "equal images get equal logits"),
    "no_inner_loop": (3, "no optimisation runs inside of the model"),
}
KEYS = ("defence", "tower")


# Names and numbers


def means(rows: Rows) -> list[Row]:
    """The rows of means over sets, the highest worst case first."""
    return sorted((row for row in rows if row["set"] == MEAN), key=lambda row: -float(row["worst"]))


def name_of(row: Row) -> str:
    """The name of a defence without its tower: "ttc" for the row ttc_clip on the tower clip."""
    return row["defence"].removesuffix(f"_{row['method']}")


def worst(row: Row, form: str = ".1f") -> str:
    """The text of the number of a defence with its 95 % interval: "48.3 [41.0, 55.6]"."""
    return f"{float(row['worst']):{form}} [{float(row['low']):{form}}, {float(row['high']):{form}}]"


def mark_rows(rows: Rows) -> list[dict[str, str]]:
    """One row for each mark of each defence: defence, mark, reason. Of several reasons of a mark the first counts."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        for text in filter(None, row["reasons"].split("; ")):
            mark, _, reason = text.partition(": ")
            found.setdefault((row["defence"], mark), {"defence": row["defence"], "mark": mark, "reason": reason})
    return list(found.values())


def attacks(row: Row) -> list[str]:
    """The attacks of the study that a defence met, without Square, which comes beside them."""
    named = [attack.partition("/")[0].partition(" ")[0] for attack in row["attacks"].split("; ")]
    return [attack for attack in dict.fromkeys(named) if attack != "square"]


def conditions(row: Row) -> str:
    """The numbers of the conditions of RobustBench that a defence violates: "2, 3"."""
    return ", ".join(str(CONDITIONS[condition][0]) for condition in row["violates"].split()) or "none"


def decided_by(row: Row) -> dict[str, dict[str, str]]:
    """The numbers that a defence decides by: name -> column -> the median over images."""
    texts = [text.partition(": ") for text in filter(None, row["statistics"].split("; "))]
    return {what: dict(column.split(" ") for column in medians.split(", ")) for what, _, medians in texts}


# The table


def table(folder: Path, rows: Rows, title: str) -> None:
    """Write folder/defences.*: accuracies, conditions and cost, what defences decide by, and the sets."""
    averages = means(rows)
    sets = [one for one in distinct(rows, "set") if one != MEAN]
    parts = {
        f"mean over {len(sets)} sets, accuracy in %": accuracies(averages),
        "95 % intervals of the other columns": intervals(averages),
        "conditions and cost": costs(averages),
        "what a defence decides by, median over images": medians_of_decisions(averages),
        "worst case on every set, accuracy in %": _sets(rows, averages, sets),
    }
    notes = [
        *_notes(averages),
        *_reasons(mark_rows(averages)),
        *(f"{row['defence']}: {row['protocol']}." for row in averages),
    ]
    tables.write(folder, "defences", title, {text: part for text, part in parts.items() if part.body}, notes)
    files.write_rows(folder / "defences.csv", rows)


def accuracies(averages: Rows) -> Part:
    """Accuracy of every defence in its columns, from the rows of means."""
    marks = mark_rows(averages)
    lines = [
        [
            name_of(row),
            row["method"],
            *(f"{float(row[column]):.1f}" for column in COLUMNS[:-1]),
            worst(row) + tables.daggers_of(row["marks"], marks),
            f"{float(row['undefended']):.1f}",
        ]
        for row in averages
    ]
    place = len(KEYS) + COLUMNS.index("worst")
    best = [[*line[:place], bolder[place], *line[place + 1 :]] for line, bolder in zip(lines, bold_best(lines, 2))]
    cell = (
        "A cell: accuracy in %, mean over sets. [low, high]: 95 % over the choice of images. tower alone: the tower "
        f"without the defence, under the attacks of the column oblivious. Bold: the best worst case, numbers with "
        f"{DAGGER} left out."
    )
    return Part([*KEYS, *COLUMNS, "tower alone"], best, cell, 2)


def intervals(averages: Rows) -> Part:
    """Every column besides `worst` with its interval. averages: rows of means."""
    columns = (*COUNTS, "undefended")
    lines = [
        [name_of(row), row["method"], row["n"], *(_with_ends(row, column) for column in columns)] for row in averages
    ]
    cell = (
        "n: number of images of all sets, the same images in every column. A cell: accuracy in % and its 95 % interval "
        "over the choice of images, and of seeds where there are several."
    )
    return Part([*KEYS, "n", *COUNTS, "tower alone"], lines, cell, 3)


def _with_ends(row: Row, column: str) -> str:
    """The text of a column: "63.2 [57, 69]"."""
    low, high = float(row[f"{column}_low"]), float(row[f"{column}_high"])
    return f"{float(row[column]):.1f} [{low:.0f}, {high:.0f}]"


def costs(averages: Rows) -> Part:
    """The conditions that every defence violates, and its passes of the tower."""
    lines = [
        [
            name_of(row),
            row["method"],
            conditions(row),
            row["verdicts"],
            row["forwards_per_verdict"],
            row["passes_of_attack"],
        ]
        for row in averages
    ]
    violated = "; ".join(f"{number}: {words}" for number, words in CONDITIONS.values())
    cell = (
        f"violates: the conditions of RobustBench that the defence violates ({violated}). verdicts: how often an image "
        "is judged, with fresh random numbers. passes: forward and backward passes of the tower for one image."
    )
    return Part([*KEYS, "violates", "verdicts", "passes of a verdict", "passes of the attack"], lines, cell, 2)


def medians_of_decisions(averages: Rows) -> Part:
    """The medians of the numbers that defences decide by; defences without such a number have no line."""
    columns = COLUMNS[:-1]
    lines = [
        [name_of(row), row["method"], what, *(medians.get(column, "") for column in columns)]
        for row in averages
        for what, medians in decided_by(row).items()
    ]
    cell = "A cell: the median over the images of all sets. Of the attacks of a column the last one counts."
    return Part([*KEYS, "number", *columns], lines, cell, 3)


def _sets(rows: Rows, averages: Rows, sets: Sequence[str]) -> Part:
    cells = {(row["defence"], row["set"]): worst(row, ".0f") for row in rows}
    lines = [[name_of(row), row["method"], *(cells[row["defence"], one] for one in sets)] for row in averages]
    return Part(
        [*KEYS, *sets], lines, "A cell: the worst case in %, with its 95 % interval over the choice of images.", 2
    )


def _notes(averages: Rows) -> list[str]:
    return [
        "clean: images without an attack. oblivious: images that were attacked under the tower alone, as papers on "
        "defences do; the defence judges them. So this column is transfer from the tower. adaptive: images that were "
        "attacked under the defence.",
        "worst: an image has the lowest of its counts of right verdicts in the three columns. This is the number of a "
        "defence, and the only one to set beside fine-tuned towers.",
    ]


def _reasons(marks: Rows) -> list[str]:
    """One note per mark, with the defences that bear it."""
    return [
        f"{tables.daggers_of(mark, marks).strip()} {mark.replace('_', ' ')}. "
        + "; ".join(f"{row['defence']}: {row['reason']}" for row in marks if row["mark"] == mark)
        + "."
        for mark in distinct(marks, "mark")
    ]
