"""The metrics of a study, as reports read them. People may edit these files, so what no stage writes is refused."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from zsr import files
from zsr.evaluation.defence_records import COLUMNS
from zsr.evaluation.results import CLEAN, WORST, counted_sets
from zsr.params import Count, ParamError, build, require_plain

COUNTED = ("both", "adv")
CURVE = ["step", "lr", "loss"]  # the first columns of a curve
DEFENDED_NUMBERS = (*COLUMNS, "low", "high", "undefended", "n")  # columns of a defence
DEFENDED = (*DEFENDED_NUMBERS, "defence", "method", "set", "marks", "reasons", "statistics", "violates", "protocol")
SetNames = tuple[str, ...]
STUDY: dict[str, Any] = {  # what study.json has -> its form
    "arch": str,
    "attacks": dict[str, str],
    "bases": Count,
    "classes": dict[str, Count],
    "groups": dict[str, SetNames],
    "judged": SetNames,
    "methods": dict[str, dict[str, Any]],
}
WHOLE = {  # columns of whole numbers -> the least
    **dict.fromkeys(("n", "seeds"), 1),
    **dict.fromkeys(("seed", "correct", "clean_correct", "adv_correct", "cells", "marked", "chosen"), 0),
}
OF_ALL = {CLEAN, WORST}  # names beside those of attacks
SPREAD = "sd"  # the one number that may be blank: one seed has no standard deviation
NUMBERS = ("accuracy", "mean", "low", "high", "value", SPREAD)
SETS = re.compile(r"[1-9][0-9]{0,5}( of [1-9][0-9]{0,5})?")  # 15 of 16: a set is left out
EPS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,20})?/255")


@dataclass(frozen=True)
class Table:
    """What a CSV file of metrics must be.

    Attributes:
        axes: the columns that name a row, in parts: every value of a part stands with every value of the others, once.
        columns: the other columns that reports read.
        nothing: the header where there are no rows; (): there must be rows.
    """

    axes: tuple[tuple[str, ...], ...] = ()
    columns: tuple[str, ...] = ()
    nothing: tuple[str, ...] = ()


_SUMMARY = ("mean", "low", "high", "seeds", "sd", "marks")
TABLES = {  # name of the file, or of its folder
    "accuracy": Table(
        (("method", "seed"), ("attack",), ("set",)),
        ("n", "clean_correct", "adv_correct", "correct", "accuracy", "low", "high", "protocol", "counted", "marks"),
    ),
    "averages": Table((("group",), ("method",), ("attack",)), ("sets", *_SUMMARY)),
    "pairs": Table((("group",), ("attack",), ("first", "second")), _SUMMARY, ("attack",)),
    "attacks": Table((("group",), ("method",), ("attack", "against")), _SUMMARY, ("attack",)),
    "marks": Table((("method", "attack", "set", "mark", "reason"),), (), ("method", "attack", "set", "mark", "reason")),
    "checks": Table((("check",),), ("rule", "cells", "marked")),
    "rates": Table((("method", "lr", "seed"),), ("chosen",), ("method",)),
    "eps_sweep": Table((("method",), ("set",), ("eps",)), ("n", "correct")),
    "likeness": Table((("run", "start", "method", "seed", "measure", "input", "layer"),), ("value",)),
    "attention": Table((("method",),), ("shift_attack", "shift_noise", "peak_on_object", "object_share")),
}


def results(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of metrics. Raises Unusable where a row says what no stage writes, or a row is missing."""
    rows = files.read_rows(path)
    kind = _kind(path)
    table = TABLES.get(kind)
    if table is None:
        return rows
    if not rows:
        if kind == "pairs" and path.with_name("study.json").exists():
            if len(study(path.with_name("study.json"))["methods"]) > 1:
                raise files.Unusable(path, "has no rows")
        with path.open(encoding="utf-8", errors="replace") as file:
            header = tuple(file.readline().rstrip("\r\n").split(","))
        if not table.nothing or header != table.nothing:
            raise files.Unusable(path, "has no rows")
        return rows
    missing = [name for part in (*table.axes, table.columns) for name in part if name not in rows[0]]
    if missing:
        raise files.Unusable(path, f"has no column {missing[0]}")
    for number, row in enumerate(rows, 1):
        _check_row(path, table, number, row)
    _check_axes(path, table, rows)
    if kind == "rates" and {row["method"] for row in rows} - {r["method"] for r in rows if r["chosen"] != "0"}:
        raise files.Unusable(path, "has a method without a chosen rate")
    return rows


def _kind(path: Path) -> str:
    return path.parent.name if path.parent.name in TABLES else path.stem


def _check_row(path: Path, table: Table, number: int, row: dict[str, str]) -> None:
    """Refuse a cell that no stage writes: a blank name, a number that is none, or a number out of its range."""
    names = {name for part in table.axes for name in part}
    numbers = set(row) - names if _kind(path) in ("rates", "attention") else set(NUMBERS)
    for column, cell in row.items():
        if column in names and not cell.strip() and column != "layer":
            reason = "must not be blank"
        elif not cell.isprintable():
            reason = "must be text of one line"
        elif column == "sets":
            reason = "" if SETS.fullmatch(cell) else "must be a number of sets, such as 16, or 15 of 16"
        elif column in WHOLE:
            right = re.fullmatch(r"[0-9]{1,15}", cell) and int(cell) >= WHOLE[column]
            reason = "" if right else f"must be a whole number of at least {WHOLE[column]}"
        elif column == "counted":
            reason = "" if cell in COUNTED else "must be both or adv"
        elif column == "eps":
            reason = "" if EPS.fullmatch(cell) else "must be a fraction such as 8/255"
        elif column == "lr" or column in numbers:
            may_be_blank = column == SPREAD or _kind(path) == "rates"
            reason = "" if _is_finite(cell) or may_be_blank and not cell else "must be a finite number"
        else:
            reason = ""
        if reason:
            raise files.Unusable(path, f"has {cell[:60]!r} as {column} in row {number}, which {reason}")
    if "correct" in row and int(row["correct"]) > int(row["n"]):
        raise files.Unusable(path, f"has {row['correct']} correct of {row['n']} in row {number}")


def _is_finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _check_axes(path: Path, table: Table, rows: Sequence[dict[str, str]]) -> None:
    """Refuse a row that is there twice or is missing, and names that the study beside the file does not have."""
    keys = [tuple(tuple(row[name] for name in part) for part in table.axes) for row in rows]
    twice = len(set(keys)) < len(keys)
    lacking = {key for key in product(*(dict.fromkeys(parts) for parts in zip(*keys)))} - set(keys)
    if twice or lacking:
        key = min(lacking) if lacking else next(key for key in keys if keys.count(key) > 1)
        said = ", ".join(name for part in key for name in part)
        raise files.Unusable(path, f"has {'no row' if lacking else 'two rows'} of {said}")
    for place in (path.with_name("study.json"), path.parents[1] / "results/study.json"):
        if place.exists() and _kind(path) != "likeness":  # its methods have no starts
            _check_names(path, rows, study(place))


def _check_names(path: Path, rows: Sequence[dict[str, str]], known: dict) -> None:
    """Refuse names that the study does not have, and files of all cells without a name that it has."""
    columns = {"method": "methods", "first": "methods", "second": "methods", "set": "judged", "group": "groups"}
    for column, kind in (columns | {"attack": "attacks"}).items():
        names, found = set(known[kind]), {row[column] for row in rows if column in row}
        strange = found - names - (OF_ALL if column == "attack" else set())
        lacking = names - found if _kind(path) in ("accuracy", "averages") and column in rows[0] else set()
        if strange or lacking:
            what = f"'{min(strange)}' as {column}, which is none" if strange else f"no {column} '{min(lacking)}', one"
            raise files.Unusable(path, f"has {what} of the study beside it")


def of_names(folder: Path, names: Iterable[str]) -> list[Path]:
    """The CSV files of the given names, sorted. A file of a row that the study no longer has is passed over."""
    return [folder / f"{name}.csv" for name in sorted(names)]


def defended(folder: Path, names: Iterable[str]) -> list[dict[str, str]]:
    """The rows of the named defences, as the stage `defend` wrote them.

    Raises Unusable: a file is not there, or is another one.
    """
    rows = []
    for path in of_names(folder, names):
        found = files.read_rows(path, DEFENDED_NUMBERS)
        missing = [column for column in DEFENDED if not found or column not in found[0]]
        if missing:
            raise files.Unusable(path, f"has no column {missing[0]}, so it is not a file that the stage defend wrote")
        for row in found:
            if row["defence"] != path.stem:
                raise files.Unusable(path, f"is of the defence {row['defence'][:60]!a}, not of {path.stem}")
        rows += found
    return rows


def study(path: Path) -> dict:
    """The names of a study, as the stage `collect` wrote them. Raises Unusable: the file is another one."""
    content = files.read_json(path)
    missing = [name for name in STUDY if name not in content] if isinstance(content, dict) else list(STUDY)
    if missing:
        raise files.Unusable(path, f"has no {missing[0]}, so it is not the file that the stage collect wrote")
    try:
        for name, form in STUDY.items():
            build(form, content[name], name)
        build(dict[str, str], content.get("absent", {}), "absent")
    except ParamError as error:
        raise files.Unusable(path, f"is of another form than the stage collect wrote: {error}") from None
    for name, eps in content["attacks"].items():
        if not EPS.fullmatch(eps):
            raise files.Unusable(path, f"has {eps[:60]!r} as eps of {name}, which must be a fraction such as 8/255")
    if not {"all", "source"} <= content["groups"].keys():
        raise files.Unusable(path, "lacks one of the groups of sets, all and source")
    return content


def orderings(path: Path, pairs: Iterable[Mapping[str, str]], verdicts: Collection[str]) -> list[dict[str, str]]:
    """The rows of the table of orderings, as the stage `tables` wrote them. Raises Unusable: a row is another one.

    pairs: the differences that the rows are about. verdicts: what may stand in the column `here`.
    """
    rows, known = files.read_rows(path, ("paper",)), {(row["attack"], row["first"], row["second"]) for row in pairs}
    for number, row in enumerate(rows, 1):
        pair = (row.get("attack"), row.get("first"), row.get("second"))
        if pair not in known or row.get("here") not in verdicts or not _is_finite(row.get("paper", "")):
            raise files.Unusable(
                path, f"has another row {number} than the stage tables wrote; run dvc repro -f -s tables"
            )
    return rows


def titled(name: str, study: Mapping) -> str:
    """The name of a study in titles. Where sets are left out, it says how many and which: averages are without them."""
    absent = study.get("absent", {})
    if not absent:
        return name
    without = ", ".join(f"{one} {why}" for one, why in absent.items())
    return f"{name} ({counted_sets(study, 'all')} sets; left out: {without})"


def curve(path: Path) -> list[dict[str, str]]:
    """The rows of a curve of training. Raises Unusable: the columns are others, or a number is not finite."""
    require_plain(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        columns = file.readline().rstrip("\n").split(",")
    if columns[: len(CURVE)] != CURVE:
        raise files.Unusable(path, f"begins with other columns than {', '.join(CURVE)}")
    rows = files.read_rows(path, numbers=None)
    for number, row in enumerate(rows, 1):
        if not all(row[column].strip() for column in CURVE):
            raise files.Unusable(path, f"has a blank in row {number}, in one of the columns {', '.join(CURVE)}")
        if not re.fullmatch(r"[0-9]{1,15}", row["step"]):
            raise files.Unusable(path, f"has '{row['step'][:60]}' as step in row {number}, which is no whole number")
        if not all(math.isfinite(float(cell)) for cell in row.values() if cell):
            raise files.Unusable(path, "has a number that is not finite")
    return rows
