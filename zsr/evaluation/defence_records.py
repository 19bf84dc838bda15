"""Records of defences at test time: verdicts image by image, in three columns, and the worst of them. No torch.

A column says which images the defence was judged on:

- clean: the images as they are.
- oblivious: images that were attacked under the tower without the defence, as papers on defences do.
- adaptive: images that were attacked under the defence, or left as they are where that is worse.
- worst: whatever is worst for the image. This is the number of a defence.

A randomised defence judges an image several times, with fresh random numbers. A column holds the number of verdicts
that are right, and the accuracy is the mean of these numbers over the number of verdicts. Where there are several
attacks, an image has the lowest of its numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from zsr import files
from zsr.evaluation.records import Mark
from zsr.evaluation.results import Sample, average

COUNTS = ("clean", "oblivious", "adaptive")  # right verdicts, of `verdicts`
UNDEFENDED = ("undefended_clean", "undefended")  # 1 where the tower alone is right
CHECKED = ("doubled", "large")  # right verdicts of the first images, in the two checks of the adaptive attack
COLUMNS = (*COUNTS, "worst")
MEAN = "mean"  # in place of the name of a set: the mean over sets
POINT = 1.0  # percent: what counts as a difference in a check
NEAR_ZERO = 5.0  # percent: a higher accuracy at a large eps means that the adaptive attack is too weak
ROUNDING = 1e-9


def _nothing() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class DefenceRecord:
    """One cell (defence, set) of one seed of training. Arrays are NumPy arrays, made of any sequence.

    Attributes:
        defence: the name of the defence, a row of the study.
        method: the name of the tower's method, a row of the study.
        seed: the seed of the tower's training.
        set_name: the name of the set.
        fingerprint: the hash of everything that the verdicts depend on.
        protocol: the facts that travel with the number.
        attacks: the attacks of the oblivious column.
        adaptive_attacks: the attacks of the adaptive column, ATTACK/VARIANT.
        verdicts: number of verdicts for each image.
        violates: RobustBench's conditions that the defence violates.
        large_eps: eps of the second check of the adaptive attack, in units of the pixel range.
        marks: the marks of the gradients, from the checks before the attack.
        ids: (N,) int64, the numbers of the images in the set.
        clean: (N,) right verdicts on the images as they are.
        oblivious: (N,) right verdicts on images that were attacked under the tower alone.
        adaptive: (N,) right verdicts on images that were attacked under the defence, or left as they are.
        undefended_clean: (N,) 1 where the tower alone is right.
        undefended: (N,) 1 where the tower alone is right under all attacks of the oblivious column.
        doubled: (M,) as adaptive, for the first M images, with twice the iterations and twice the draws.
        large: (M,) as adaptive, for the first M images, with large_eps.
        statistics: name of a number that the defence decides by -> column -> a value for each image.
        passes: column or check -> number of passes of the tower without a gradient and with one, counted per image.
        broken: number of verdicts whose logits were not finite; under an attack they count as right.
    """

    defence: str
    method: str
    seed: int
    set_name: str
    fingerprint: str
    protocol: str
    attacks: tuple[str, ...] = ()
    adaptive_attacks: tuple[str, ...] = ()
    verdicts: int = 1
    violates: tuple[str, ...] = ()
    large_eps: float = 0.0
    marks: tuple[Mark, ...] = ()
    ids: np.ndarray = field(default_factory=_nothing)
    clean: np.ndarray = field(default_factory=_nothing)
    oblivious: np.ndarray = field(default_factory=_nothing)
    adaptive: np.ndarray = field(default_factory=_nothing)
    undefended_clean: np.ndarray = field(default_factory=_nothing)
    undefended: np.ndarray = field(default_factory=_nothing)
    doubled: np.ndarray = field(default_factory=_nothing)
    large: np.ndarray = field(default_factory=_nothing)
    statistics: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    passes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    broken: int = 0

    def __post_init__(self) -> None:
        for name in ("ids", *COUNTS, *UNDEFENDED, *CHECKED):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DefenceRecord) and self._document() == other._document()

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.ids)

    @property
    def worst(self) -> np.ndarray:
        """(N,) the lowest count of every image."""
        return np.minimum.reduce([self.clean, self.oblivious, self.adaptive])

    @property
    def hits(self) -> np.ndarray:
        """(N,) the share of right verdicts of every image in the worst case."""
        return self.shares("worst")

    def shares(self, column: str) -> np.ndarray:
        """The share of right verdicts of every image in a column or check."""
        return getattr(self, column) / (1 if column in UNDEFENDED else self.verdicts)

    def percent(self, column: str) -> float:
        """The accuracy of a column or check, in percent; 0 where the column has no image."""
        return 100 * float(self.shares(column).mean()) if len(getattr(self, column)) else 0.0

    def save(self, path: Path) -> None:
        """Write one JSON file. Accuracies stand beside the counts for readers without this class."""
        document = self._document()
        files.write_json(path, document | {"digest": files.json_digest(document)})

    def _document(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).tolist() for name in ("ids", *COUNTS, *UNDEFENDED, *CHECKED)}
        tuples = {name: list(getattr(self, name)) for name in ("attacks", "adaptive_attacks", "violates")}
        statistics = {name: {c: list(v) for c, v in columns.items()} for name, columns in self.statistics.items()}
        passes = {name: list(pair) for name, pair in self.passes.items()}
        marks = [asdict(mark) for mark in self.marks]
        plain = {key.name: getattr(self, key.name) for key in fields(self)}
        accuracies = {column: round(self.percent(column), 2) for column in (*COLUMNS, *UNDEFENDED)}
        lists = {"statistics": statistics, "passes": passes, "marks": marks}
        return plain | arrays | tuples | lists | {"accuracies": accuracies}

    @classmethod
    def load(cls, path: Path, **expected: Any) -> "DefenceRecord":
        """The record in a file that `save` wrote.

        Args:
            path: the file.
            expected: attributes and the values that they must have, such as defence="ttc_clip".

        Raises:
            Unusable: the file is not there or damaged, contradicts itself, or is of another cell.
        """
        document = files.read_json(path)
        if not isinstance(document, dict) or document.pop("digest", "") != files.json_digest(document):
            raise files.Unusable(path, "is no record, or is damaged: its content has another digest than it states")
        try:
            values = {name: document[name] for name in cls.__dataclass_fields__}
            values["marks"] = tuple(Mark(**mark) for mark in values["marks"])
            values |= {name: tuple(values[name]) for name in ("attacks", "adaptive_attacks", "violates")}
            record = cls(**values)
            whole = record._document() == document and record._is_whole()
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise files.Unusable(path, f"is no whole record ({type(error).__name__}: {error})") from None
        if not whole:
            raise files.Unusable(path, "contradicts itself: its counts are not those of its images and verdicts")
        for name, value in expected.items():
            if getattr(record, name) != value:
                raise files.Unusable(path, f"is of the {name} {getattr(record, name)!r}, not of {value!r}")
        return record

    def _is_whole(self) -> bool:
        lengths = {len(getattr(self, name)) for name in (*COUNTS, *UNDEFENDED)} | {self.n}
        most = {name: 1 if name in UNDEFENDED else self.verdicts for name in (*COUNTS, *UNDEFENDED, *CHECKED)}
        inside = all(((getattr(self, name) >= 0) & (getattr(self, name) <= m)).all() for name, m in most.items())
        return len(lengths) == 1 and inside and len(np.unique(self.ids)) == self.n


# What the numbers say about the adaptive attack


def marks(records: Sequence[DefenceRecord]) -> list[Mark]:
    """The marks of the mean over the sets of some records: those of their gradients, then those of their numbers.

    Of several marks of one name the first stands for all.
    """
    first: dict[str, Mark] = {}
    for mark in (mark for record in records for mark in record.marks):
        first.setdefault(mark.name, mark)
    reasons = ((name, find(records)) for name, find in CHECKS.items())
    return [*first.values()] + [Mark(name, reason) for name, reason in reasons if reason]


def _mean(records: Sequence[DefenceRecord], column: str) -> float:
    return fmean(record.percent(column) for record in records)


def _too_weak(records: Sequence[DefenceRecord]) -> str | None:
    adaptive, oblivious = _mean(records, "adaptive"), _mean(records, "oblivious")
    return (
        f"{adaptive:.1f} % under the adaptive attack, {oblivious:.1f} % under the oblivious attack"
        if adaptive > oblivious + POINT + ROUNDING
        else None
    )


def _not_converged(records: Sequence[DefenceRecord]) -> str | None:
    checked = [record for record in records if len(record.doubled)]
    if not checked:
        return None
    before = fmean(100 * float(_lowest(record, record.adaptive).mean()) for record in checked)
    after = fmean(100 * float(_lowest(record, record.doubled).mean()) for record in checked)
    return (
        f"{before:.1f} % of the first images in the worst case, {after:.1f} % with twice the iterations and draws"
        if abs(before - after) >= POINT - ROUNDING
        else None
    )


def _lowest(record: DefenceRecord, adaptive: np.ndarray) -> np.ndarray:
    """Shares of right verdicts of the first images in the worst case, with other counts of the adaptive column."""
    first = slice(len(record.doubled))
    return np.minimum.reduce([record.clean[first], record.oblivious[first], adaptive[first]]) / record.verdicts


def _not_near_zero(records: Sequence[DefenceRecord]) -> str | None:
    checked = [record for record in records if len(record.large)]
    if not checked:
        return None
    left = _mean(checked, "large")
    eps = f"{255 * checked[0].large_eps:g}/255"
    return f"{left:.1f} % of the first images are left at eps {eps}" if left > NEAR_ZERO + ROUNDING else None


def _not_finite(records: Sequence[DefenceRecord]) -> str | None:
    n = sum(record.broken for record in records)
    return f"{n} verdicts had logits that are not finite" if n else None


CHECKS: dict[str, Callable[[Sequence[DefenceRecord]], str | None]] = {
    "adaptive_too_weak": _too_weak,
    "not_converged": _not_converged,
    "not_near_zero": _not_near_zero,
    "not_finite": _not_finite,
}


# Rows of metrics


def rows(records: Sequence[DefenceRecord]) -> list[dict]:
    """One row for each set of a defence, over its seeds, then one row for the mean over sets, whose set is MEAN.

    Accuracies are in percent. low and high are the ends of the 95 % interval of `worst`; COLUMN_low and COLUMN_high are
    those of another column. worst_before and worst_doubled are the worst case of the first images in the check of twice
    the iterations and draws.
    """
    sets = list(dict.fromkeys(record.set_name for record in records))
    parts = {name: [record for record in records if record.set_name == name] for name in sets}
    return [_row(name, {name: part}) for name, part in parts.items()] + [_row(MEAN, parts)]


def _row(name: str, parts: Mapping[str, Sequence[DefenceRecord]]) -> dict:
    together = [record for part in parts.values() for record in part]
    first, n = together[0], sum(part[0].n for part in parts.values())
    row: dict[str, Any] = {"defence": first.defence, "method": first.method, "set": name, "n": n}
    row |= {"seeds": len(together) // len(parts), "verdicts": first.verdicts}
    row |= {column: round(_mean(together, column), 2) for column in (*COLUMNS, *UNDEFENDED)}
    row |= _ends(parts, "worst", "")
    for column in (*COUNTS, *UNDEFENDED):
        row |= _ends(parts, column, f"{column}_")
    for name, counts in (("worst_before", "adaptive"), ("worst_doubled", "doubled")):
        shares = [float(_lowest(record, getattr(record, counts)).mean()) for record in together if len(record.doubled)]
        row |= {name: round(100 * fmean(shares), 2) if shares else ""}
    row |= {column: round(_mean(together, column), 2) if len(first.doubled) else "" for column in CHECKED}
    row |= {"forwards_per_verdict": _per_image(together, "clean", first.verdicts)}
    row |= {"passes_of_attack": _per_image(together, "adaptive", 1)}
    row |= {"statistics": "; ".join(medians(together)), "violates": " ".join(first.violates)}
    found = marks(together)
    row |= {"marks": " ".join(dict.fromkeys(mark.name for mark in found))}
    row |= {"reasons": "; ".join(f"{mark.name}: {mark.reason}" for mark in found)}
    return row | {"attacks": "; ".join(first.adaptive_attacks), "protocol": first.protocol}


def _ends(parts: Mapping[str, Sequence[DefenceRecord]], column: str, prefix: str) -> dict[str, float | str]:
    """The ends of the 95 % interval of a column, under the names `prefix`low and `prefix`high."""
    summary = average([Sample.of(np.stack([record.shares(column) for record in part])) for part in parts.values()])
    return {f"{prefix}low": summary["low"], f"{prefix}high": summary["high"]}


def _per_image(records: Sequence[DefenceRecord], column: str, times: int) -> float:
    """Passes for each image, with and without gradient."""
    return round(sum(sum(r.passes.get(column, ())) for r in records) / sum(times * r.n for r in records), 1)


def medians(records: Sequence[DefenceRecord]) -> list[str]:
    """The medians of the numbers that a defence decides by, such as "r: clean 0.0412, oblivious 0.0607"."""
    lines = []
    for name in records[0].statistics:
        values = {
            column: [value for record in records for value in record.statistics[name][column]]
            for column in records[0].statistics[name]
        }
        lines.append(f"{name}: " + ", ".join(f"{column} {median(each):.4g}" for column, each in values.items() if each))
    return lines


@dataclass(frozen=True, eq=False)
class DefenceResult:
    """The accuracy of one defended model on one or several sets, in the columns of this module.

    Accuracies are in percent; of several sets they are means with equal weights.

    Attributes:
        records: one record for each set, with the number of right verdicts for each image.
    """

    records: tuple[DefenceRecord, ...]

    @property
    def worst(self) -> float:
        """The number of the defence: accuracy in the worst case, in percent."""
        return self.accuracy("worst")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `worst`, in percent."""
        mean = rows(self.records)[-1]
        return mean["low"], mean["high"]

    @property
    def marks(self) -> list[Mark]:
        """Why the number is not to be trusted as it stands; [] where nothing was found."""
        return marks(self.records)

    def accuracy(self, column: str) -> float:
        """The accuracy in a column: clean, oblivious, adaptive, worst, undefended_clean or undefended."""
        return _mean(self.records, column)

    def save(self, folder: Path) -> list[Path]:
        """Write the records, folder/SET.json; returns their paths."""
        paths = [folder / f"{record.set_name}.json" for record in self.records]
        for record, path in zip(self.records, paths):
            record.save(path)
        return paths

    def __repr__(self) -> str:
        from tabulate import tabulate

        table = rows(self.records)
        shown = table if len(table) > 2 else table[:1]
        columns = ("set", "n", *UNDEFENDED, *COLUMNS)
        lines = [[row[column] for column in columns] + [f"[{row['low']:.1f}, {row['high']:.1f}]"] for row in shown]
        header = [column.replace("_", " ") for column in columns] + ["95 % of worst"]
        violated = [f"Violates: {', '.join(self.records[0].violates)}"] if self.records[0].violates else []
        notes = [*medians(self.records), *violated, *(f"Mark {mark.name}: {mark.reason}" for mark in self.marks)]
        return "\n".join([tabulate(lines, header, floatfmt=".1f"), *notes])
