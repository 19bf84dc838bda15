"""Checks of a study's records: which numbers are not to be trusted as they stand, and why. No torch.

A mark belongs to a cell (method, attack, set). A check that needs an attack is skipped where the attack is missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean

import numpy as np

from zsr.evaluation.records import Mark
from zsr.evaluation.results import CLEAN, WORST, Cell, Records

UNDEFENDED = "clip"  # the row without a defence
WHITE_BOX = ("pgd", "cw", "apgd", "fab", "autoattack")  # attacks that follow a gradient
GAP = 5.0  # points: a larger gap of PGD above AutoAttack means that PGD has lost its gradient
STRONGER = 1.0  # points: APGD may be above PGD by this much, by the luck of the starts
BLACK_BOX = 0.2  # points: AutoAttack's margin for Square
UNDEFENDED_LEFT = 5.0  # percent: a higher accuracy of an undefended model means that the attack is too weak
ROUNDING = 1e-9  # tolerance for rounding of percentages
ZEROS = 0.01  # share of gradient entries that may be exactly zero: in fp32 hardly any are

HEADER = ("method", "attack", "set", "mark", "reason")
Marks = Mapping[Cell, Sequence[Mark]]


@dataclass(frozen=True)
class Check:
    """One check of records.

    Attributes:
        name: the name of the check's marks.
        rule: a description of the marked cells, for people.
        concerns: does the check look at the cell?
        find: the reason of the mark, or None.
    """

    name: str
    rule: str
    concerns: Callable[[Cell, Records], bool]
    find: Callable[[Cell, Records], str | None]


def marks(records: Records) -> dict[Cell, list[Mark]]:
    """The marks of every cell that has marks: first the marks of the model, then those from checks of the records."""
    result: dict[Cell, list[Mark]] = {}
    for cell, seeds in records.items():
        cell_marks = list(dict.fromkeys(mark for record in seeds for mark in record.marks))
        reasons = ((check.name, check.find(cell, records)) for check in CHECKS if check.concerns(cell, records))
        cell_marks += [Mark(name, reason) for name, reason in reasons if reason]
        if cell_marks:
            result[cell] = cell_marks
    for method, attack, name in records:
        if attack == WORST and (method, attack, name) not in result:
            folded = [a for m, a, s in records if (m, s) == (method, name) and a not in (CLEAN, WORST)]
            if all((method, a, name) in result for a in folded):
                result[method, attack, name] = [Mark(ALL_MARKED, f"as is every attack in it: {', '.join(folded)}")]
    return result


def mark_rows(marks_by_cell: Marks) -> list[dict]:
    """One row per mark."""
    return [
        dict(zip(HEADER, (method, attack, name, mark.name, mark.reason)))
        for (method, attack, name), cell_marks in marks_by_cell.items()
        for mark in cell_marks
    ]


def check_rows(records: Records, marks_by_cell: Marks) -> list[dict]:
    """One row per check: rule, number of checked cells, number of marked cells. Checks of models share one row."""
    attacked = [cell for cell in records if cell[1] not in (CLEAN, WORST)]
    on_models = sum(any(record.marks for record in records[cell]) for cell in attacked)
    rows = [{"check": "model", "rule": MODEL_RULE, "cells": len(attacked), "marked": on_models}]
    for check in CHECKS:
        cells = sum(check.concerns(cell, records) for cell in records)
        marked = sum(any(mark.name == check.name for mark in cell_marks) for cell_marks in marks_by_cell.values())
        rows.append({"check": check.name, "rule": check.rule, "cells": cells, "marked": marked})
    return rows


def annotated(rows: Iterable[Mapping], marks_by_cell: Marks, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """Rows of `zsr.evaluation.results`, each with the names of the marks of all cells that the number depends on."""
    result = []
    for row in rows:
        sets = [row["set"]] if "set" in row else groups[row["group"]]
        methods = [row["method"]] if "method" in row else [row["first"], row["second"]]
        attacks = [row["attack"], *([row["against"]] if "against" in row else [])]
        mark_names = (
            mark.name for m in methods for a in attacks for s in sets for mark in marks_by_cell.get((m, a, s), ())
        )
        result.append(dict(row) | {"marks": " ".join(dict.fromkeys(mark_names))})
    return result


def _any(cell: Cell, records: Records) -> bool:
    return True


def _attacked(cell: Cell, records: Records) -> bool:
    return cell[1] != CLEAN


def _by_gradient(cell: Cell, records: Records) -> bool:
    return cell[1] != WORST and any(record.gradients for record in records[cell])


def _beside(attacks: Sequence[str], other_attack: str) -> Callable[[Cell, Records], bool]:
    """Is the cell one of the given attacks, in a study that has the other attack too?"""
    return lambda cell, records: cell[1] in attacks and (cell[0], other_attack, cell[2]) in records


def _zero_gradient(cell: Cell, records: Records) -> str | None:
    left = sum(int((record.zero_bits & record.hits).sum()) for record in records[cell])
    return (
        f"{left} of {_images(cell, records)} images count as right that had no gradient at any pixel" if left else None
    )


def _underflow(cell: Cell, records: Records) -> str | None:
    zeros, pixels = (sum(getattr(record, name) for record in records[cell]) for name in ("zero_pixels", "pixels"))
    return f"{100 * zeros / pixels:.1f} % of gradient entries exactly zero" if zeros > ZEROS * pixels else None


def _not_finite(cell: Cell, records: Records) -> str | None:
    n = sum(int(record.broken_bits.sum()) for record in records[cell])
    return f"{n} of {_images(cell, records)} images had logits or gradients that are not finite" if n else None


def _above_clean(cell: Cell, records: Records) -> str | None:
    robust, clean = _percent(cell, records), 100 * fmean(float(record.clean_bits.mean()) for record in records[cell])
    return f"{robust:.1f} % under the attack, {clean:.1f} % without" if robust > clean else None


def _clean_differs(cell: Cell, records: Records) -> str | None:
    pairs = zip(records[cell], records[cell[0], CLEAN, cell[2]])
    n = sum(int((record.clean_bits != clean_record.clean_bits).sum()) for record, clean_record in pairs)
    return f"{n} of {_images(cell, records)} verdicts without the attack are not those of {CLEAN}" if n else None


def _above(other_attack: str, margin: float) -> Callable[[Cell, Records], str | None]:
    """Is the accuracy of the cell above the accuracy under another attack by more than a margin?"""

    def find(cell: Cell, records: Records) -> str | None:
        accuracy, other_accuracy = _percent(cell, records), _percent((cell[0], other_attack, cell[2]), records)
        return (
            f"{accuracy:.1f} %, but {other_accuracy:.1f} % under {other_attack}"
            if accuracy - other_accuracy > margin + ROUNDING
            else None
        )

    return find


def _square_beats_white_box(cell: Cell, records: Records) -> str | None:
    method, _, name = cell
    white = [records[method, attack, name] for attack in WHITE_BOX if (method, attack, name) in records]
    left = [reduce(np.logical_and, (record.hits for record in same)) for same in zip(*white)]
    square = records[method, "square", name]
    n, images = sum(int((x & ~y.hits).sum()) for x, y in zip(left, square)), _images(cell, records)
    return f"Square fools {n} of {images} images that no gradient did" if 100 * n > BLACK_BOX * images else None


def _undefended(cell: Cell, records: Records) -> str | None:
    left = _percent(cell, records)
    return f"{left:.1f} % left, although nothing was defended" if left > UNDEFENDED_LEFT else None


def _percent(cell: Cell, records: Records) -> float:
    return 100 * fmean(float(record.hits.mean()) for record in records[cell])


def _images(cell: Cell, records: Records) -> int:
    return sum(record.n for record in records[cell])


ALL_MARKED = "all_marked"
MODEL_RULE = (
    "before it is attacked a model is in eval mode, answers twice the same, gives logits and neither probabilities "
    "nor plain cosines, is finite also near the images, and its gradient reaches the pixels, vanishes nowhere, "
    "agrees with small steps and is no part of the forward"
)
CHECKS = (
    Check(
        "zero_gradient",
        "an image counts as right that had an input gradient of zero at every pixel",
        _by_gradient,
        _zero_gradient,
    ),
    Check(
        "underflow",
        f"more than {100 * ZEROS:g} % of the entries of gradients that are not zero everywhere were exactly zero",
        _by_gradient,
        _underflow,
    ),
    Check("not_finite", "logits or gradients were not finite", _any, _not_finite),
    Check(
        "clean_differs",
        "the verdicts without the attack are not those of the other attacks' evaluations",
        lambda cell, records: cell[1] not in (CLEAN, WORST) and (cell[0], CLEAN, cell[2]) in records,
        _clean_differs,
    ),
    Check("above_clean", "accuracy under the attack is above that without", _attacked, _above_clean),
    Check(
        "pgd_above_autoattack",
        f"PGD is above AutoAttack by more than {GAP:g} points",
        _beside(["pgd"], "autoattack"),
        _above("autoattack", GAP),
    ),
    Check(
        "apgd_above_pgd",
        f"APGD, or AutoAttack, is above PGD by more than {STRONGER:g} point",
        _beside(["apgd", "autoattack"], "pgd"),
        _above("pgd", STRONGER),
    ),
    Check(
        "square_beats_white_box",
        f"Square fools more than {BLACK_BOX:g} % of the images beyond what all gradient attacks fool",
        _beside(WHITE_BOX, "square"),
        _square_beats_white_box,
    ),
    Check(
        "undefended_survives",
        f"undefended CLIP keeps more than {UNDEFENDED_LEFT:g} %: the attack, or its eps on the set, is too weak",
        lambda cell, records: cell[0] == UNDEFENDED and cell[1] != CLEAN,
        _undefended,
    ),
)
