"""The metrics of a study, as reports read them. People may edit these files, so what no stage writes is refused."""

import math
from collections.abc import Mapping
from pathlib import Path

from zsr import files
from zsr.evaluation.results import counted_sets

COUNTED = ("both", "adv")
CURVE = ["step", "lr", "loss"]  # the first columns of a curve
STUDY = ("attacks", "bases", "classes", "groups", "methods")


def results(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of the stage `collect`. Raises Unusable where a row says what no stage writes."""
    rows = files.read_rows(path)
    for number, row in enumerate(rows, 1):
        if row.get("counted", "both") not in COUNTED:
            raise files.Unusable(path, f"has '{row['counted']}' as `counted` in row {number}: it is both or adv")
    return rows


def study(path: Path) -> dict:
    """The names of a study, as the stage `collect` wrote them. Raises Unusable: the file is another one."""
    content = files.read_json(path)
    missing = [name for name in STUDY if name not in content] if isinstance(content, dict) else STUDY
    if missing:
        raise files.Unusable(path, f"has no {missing[0]}, so it is not the file that the stage collect wrote")
    return content


def titled(name: str, study: Mapping) -> str:
    """The name of a study in titles. Where sets are left out, it says how many and which: averages are without them."""
    absent = study.get("absent", {})
    if not absent:
        return name
    without = ", ".join(f"{one} {why}" for one, why in absent.items())
    return f"{name} ({counted_sets(study, 'all')} sets; left out: {without})"


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
