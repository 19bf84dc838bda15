"""Which numbers of a study are not to be trusted as they stand, and why: checks of its records. No torch.

A mark belongs to a cell (method, attack, set). A check that needs an attack is silent where the study has it not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from zsr.records import Mark, Record
from zsr.results import CLEAN, WORST, Cell, Records

UNDEFENDED = "clip"  # the method that is none
WHITE_BOX = ("pgd", "cw", "apgd", "fab", "autoattack")  # attacks that follow a gradient
GAP = 5.0  # points: PGD so far above AutoAttack has lost its gradient somewhere
STRONGER = 1.0  # points: APGD may be above PGD by the luck of their starts, not by more
BLACK_BOX = 0.2  # points: AutoAttack's own margin for Square
UNDEFENDED_LEFT = 5.0  # percent: more is no attack on a model that nobody defended
ZEROS = 0.01  # share of gradient entries that are exactly zero: in fp32 there are hardly any

HEADER = ("method", "attack", "set", "mark", "reason")
Marks = Mapping[Cell, Sequence[Mark]]


@dataclass(frozen=True)
class Check:
    """rule: what is marked, for people. find: the records of a cell's seeds, and all records -> a reason, or none."""

    name: str
    rule: str
    find: Callable[[Cell, Sequence[Record], Records], str | None]


def marks(records: Records) -> dict[Cell, list[Mark]]:
    """Of every cell that has any: marks of the model, then those of the records' checks."""
    found: dict[Cell, list[Mark]] = {}
    for cell, seeds in records.items():
        own = list(dict.fromkeys(mark for record in seeds for mark in record.marks))
        reasons = ((check.name, check.find(cell, seeds, records)) for check in CHECKS)
        own += [Mark(name, reason) for name, reason in reasons if reason]
        if own:
            found[cell] = own
    for method, attack, name in records:
        if attack == WORST:
            folded = [a for m, a, s in records if (m, s) == (method, name) and a not in (CLEAN, WORST)]
            if all((method, a, name) in found for a in folded):
                reason = f"so is every attack folded into it: {', '.join(folded)}"
                found.setdefault((method, attack, name), []).append(Mark("all_marked", reason))
    return found


def mark_rows(found: Marks) -> list[dict]:
    """One row per mark."""
    return [
        dict(zip(HEADER, (method, attack, name, mark.name, mark.reason)))
        for (method, attack, name), own in found.items()
        for mark in own
    ]


def check_rows(records: Records, found: Marks) -> list[dict]:
    """One row per check: its rule, the cells it looked at and those it marked. Checks of models come as one."""
    names = {check.name for check in CHECKS} | {"all_marked"}
    on_models = [cell for cell, own in found.items() if any(mark.name not in names for mark in own)]
    attacked = [cell for cell in records if cell[1] not in (CLEAN, WORST)]
    rows = [{"check": "model", "rule": MODEL_RULE, "cells": len(attacked), "marked": len(on_models)}]
    for check in CHECKS:
        marked = sum(any(mark.name == check.name for mark in own) for own in found.values())
        rows.append({"check": check.name, "rule": check.rule, "cells": len(records), "marked": marked})
    return rows


def annotated(rows: Iterable[Mapping], found: Marks, groups: Mapping[str, Sequence[str]]) -> list[dict]:
    """Rows of `zsr.results`, each with the names of the marks of every cell that its number comes from."""
    result = []
    for row in rows:
        sets = [row["set"]] if "set" in row else groups[row["group"]]
        methods = [row["method"]] if "method" in row else [row["first"], row["second"]]
        own = (mark.name for m in methods for s in sets for mark in found.get((m, row["attack"], s), ()))
        result.append(dict(row) | {"marks": " ".join(dict.fromkeys(own))})
    return result


def _zero_gradient(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    left = sum(zero and hit for record in seeds for zero, hit in zip(record.zero_bits, record.hits))
    if left:
        return f"{left} of {_images(seeds)} images count as right and had an input gradient of zero at every pixel"


def _underflow(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    zeros, pixels = sum(record.zero_pixels for record in seeds), sum(record.pixels for record in seeds)
    if zeros > ZEROS * pixels:
        return f"{zeros / pixels:.1%} of the entries of gradients were exactly zero: there the attack does not move"


def _not_finite(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    n = sum(sum(record.broken_bits) for record in seeds)
    if n:
        return f"{n} of {_images(seeds)} images had logits or gradients that are not finite, which fooled nobody"


def _above_clean(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    robust, clean = _percent(seeds), 100 * fmean(fmean(record.clean_bits) for record in seeds)
    if robust > clean:
        return f"{robust:.1f} % under the attack, {clean:.1f} % without"


def _pgd_above_autoattack(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    return _above(cell, seeds, records, "autoattack", GAP) if cell[1] == "pgd" else None


def _apgd_above_pgd(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    return _above(cell, seeds, records, "pgd", STRONGER) if cell[1] in ("apgd", "autoattack") else None


def _above(cell: Cell, seeds: Sequence[Record], records: Records, other: str, margin: float) -> str | None:
    method, _, name = cell
    same = records.get((method, other, name))
    if same and _percent(seeds) > _percent(same) + margin:
        return f"{_percent(seeds):.1f} %, but {_percent(same):.1f} % under {other}"


def _square_beats_white_box(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    method, attack, name = cell
    square = records.get((method, "square", name))
    if attack not in WHITE_BOX or not square:
        return None
    white = [records[method, a, name] for a in WHITE_BOX if (method, a, name) in records]
    left = [[all(bits) for bits in zip(*(record.hits for record in same))] for same in zip(*white)]
    fooled = sum(hit and not by for ours, his in zip(left, square) for hit, by in zip(ours, his.hits))
    if 100 * fooled > BLACK_BOX * _images(seeds):
        return f"Square, without a gradient, fools {fooled} of {_images(seeds)} images that no gradient attack fooled"


def _undefended(cell: Cell, seeds: Sequence[Record], records: Records) -> str | None:
    method, attack, _ = cell
    if method == UNDEFENDED and attack != CLEAN and _percent(seeds) > UNDEFENDED_LEFT:
        return f"{_percent(seeds):.1f} % of an undefended model: the attack, or its eps on this set, is too weak"


def _percent(seeds: Sequence[Record]) -> float:
    return 100 * fmean(fmean(record.hits) for record in seeds)


def _images(seeds: Sequence[Record]) -> int:
    return sum(len(record.ids) for record in seeds)


MODEL_RULE = (
    "before it is attacked a model is in eval mode, answers twice the same, gives logits and neither probabilities "
    "nor plain cosines, is finite also near the images, and its gradient reaches the pixels, vanishes nowhere, "
    "agrees with small steps and is no part of the forward"
)
CHECKS = (
    Check(
        "zero_gradient", "an image counts as right that had an input gradient of zero at every pixel", _zero_gradient
    ),
    Check(
        "underflow",
        f"more than {ZEROS:.0%} of the entries of gradients that are not zero everywhere were exactly zero",
        _underflow,
    ),
    Check("not_finite", "logits or gradients were not finite", _not_finite),
    Check("above_clean", "accuracy under the attack is above that without", _above_clean),
    Check("pgd_above_autoattack", f"PGD is above AutoAttack by more than {GAP:g} points", _pgd_above_autoattack),
    Check("apgd_above_pgd", f"APGD, or AutoAttack, is above PGD by more than {STRONGER:g} point", _apgd_above_pgd),
    Check(
        "square_beats_white_box",
        f"Square fools more than {BLACK_BOX:g} % of the images beyond what all gradient attacks fool",
        _square_beats_white_box,
    ),
    Check("undefended_survives", f"undefended CLIP keeps more than {UNDEFENDED_LEFT:g} % under an attack", _undefended),
)
