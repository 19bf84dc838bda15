"""The metrics of a study, as reports read them. People may edit these files, so what no stage writes is refused."""

import math
from pathlib import Path

from zsr import files
from zsr.evaluation.defence_records import COLUMNS

COUNTED = ("both", "adv")
CURVE = ["step", "lr", "loss"]  # the first columns of a curve
NAME = r"[^.~\s][^.~]*"  # a regular expression of the names of defences, as in names of files
DEFENDED_NUMBERS = (*COLUMNS, "low", "high", "undefended", "n")  # columns of a defence
DEFENDED = (*DEFENDED_NUMBERS, "defence", "method", "set", "marks", "reasons", "statistics", "violates", "protocol")
STUDY = ("attacks", "bases", "classes", "groups", "methods")


def results(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of the stage `collect`. Raises Unusable where a row says what no stage writes."""
    rows = files.read_rows(path)
    for number, row in enumerate(rows, 1):
        if row.get("counted", "both") not in COUNTED:
            raise files.Unusable(path, f"has '{row['counted']}' as `counted` in row {number}: it is both or adv")
    return rows


def defended(folder: Path) -> list[dict[str, str]]:
    """The rows of all defences of a study, as the stage `defend` wrote them. Raises Unusable: a file is another one."""
    rows = []
    for path in files.listed(folder, ".csv", stem=NAME):
        found = files.read_rows(path, DEFENDED_NUMBERS)
        missing = [column for column in DEFENDED if not found or column not in found[0]]
        if missing:
            raise files.Unusable(path, f"has no column {missing[0]}, so it is not a file that the stage defend wrote")
        rows += found
    return rows


def study(path: Path) -> dict:
    """The names of a study, as the stage `collect` wrote them. Raises Unusable: the file is another one."""
    content = files.read_json(path)
    missing = [name for name in STUDY if name not in content] if isinstance(content, dict) else STUDY
    if missing:
        raise files.Unusable(path, f"has no {missing[0]}, so it is not the file that the stage collect wrote")
    return content


def curve(path: Path) -> list[dict[str, str]]:
    """The rows of a curve of training. Raises Unusable: the columns are others, or a number is not finite."""
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = file.readline().rstrip("\n").split(",")
    if columns[: len(CURVE)] != CURVE:
        raise files.Unusable(path, f"begins with other columns than {', '.join(CURVE)}")
    rows = files.read_rows(path, numbers=None)
    if not all(math.isfinite(float(cell)) for row in rows for cell in row.values() if cell):
        raise files.Unusable(path, "has a number that is not finite")
    return rows
