"""The grid of the study of TWINS: candidates at every learning rate, what was measured, and which rate is best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from zsr.errors import ParamError, StudyError
from zsr.params import Positive, block, over
from zsr.records import Record
from zsr.storage import distinct, read_rows

Row = Mapping[str, str]


def rates(document: Mapping) -> list[str]:
    """lrs as the stages' names and folders write them."""
    return [str(lr) for lr in block(document, "lrs", tuple[Positive, ...])]


def at_rate(document: Mapping, lr: float) -> dict:
    """The document with another learning rate. Raises ParamError where it is none of lrs."""
    if str(lr) not in rates(document):
        raise ParamError(f"lrs has {', '.join(rates(document))}, not {lr}")
    return over(document, {"train": {"lr": lr}})


def accuracies(records: Mapping[str, Record | None]) -> dict[str, float | str]:
    """Percent right without the attack and with it too, of records by the name of the images they are of.

    Blank where there is no record: the training did not come to an end.
    """
    found = {}
    for name, record in records.items():
        for kind in ("clean", "robust"):
            found[f"{name}_{kind}"] = round(100 * fmean(getattr(record, f"{kind}_bits")), 2) if record else ""
    return found


def best_rate(rows: Sequence[Mapping]) -> str:
    """The rate with the highest held-out accuracy under attack, mean over seeds; of equal ones the smallest.

    rows: of one candidate, {lr, held_out_robust, ...}; a rate at which a seed has a blank is out. Raises StudyError
    where all are.
    """
    own: dict[str, list[float]] = {}
    for lr in distinct(rows, "lr"):
        values = [row["held_out_robust"] for row in rows if row["lr"] == lr]
        if "" not in values:
            own[lr] = [float(value) for value in values]
    if not own:
        tried = ", ".join(distinct(rows, "lr"))
        raise StudyError(f"{rows[0]['method']} diverges at every rate of lrs ({tried}); add smaller ones")
    return max(sorted(own, key=float), key=lambda lr: fmean(own[lr]))


def twins_and_controls(document: Mapping) -> list[tuple[str, str]]:
    """(a candidate with both wings, a candidate without that minimises the same loss), every such pair."""
    rows = {name: document["methods"][name] for name in block(document, "candidates", tuple[str, ...])}
    loss = {name: row.get("base", row).get("module", name) for name, row in rows.items()}
    twins = [name for name, row in rows.items() if "base" in row and row.get("wings", "both") == "both"]
    return [(one, other) for one in twins for other in rows if other not in twins and loss[other] == loss[one]]


def read_grid(metrics: Path, document: Mapping) -> list[Row]:
    """What `stages.twins_choice` wrote of every candidate: one row per method, rate and seed."""
    return [row for name in document["candidates"] for row in read_rows(metrics / "grid" / f"{name}.csv")]


def read_curves(metrics: Path, document: Mapping) -> dict[tuple[str, str], list[Row]]:
    """(method, rate) -> the curve of its trainings, mean over seeds."""
    pairs = [(name, lr) for name in document["candidates"] for lr in rates(document)]
    return {(name, lr): read_rows(metrics / "curves" / f"{name}-{lr}.csv") for name, lr in pairs}


def chosen(grid: Sequence[Row]) -> dict[str, str]:
    """The rate of every method."""
    return {row["method"]: row["lr"] for row in grid if int(row["chosen"])}
