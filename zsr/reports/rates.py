"""The choice of a learning rate among those of a grid, on held-out images. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from zsr.errors import StudyError
from zsr.evaluation.records import Record
from zsr.files import distinct, read_rows


def accuracies(name: str, record: Record | None) -> dict[str, float | str]:
    """Percent right without the attack and with it too; blank where there is no record: the training diverged."""
    bits = {"clean": record.clean_bits, "robust": record.robust_bits} if record else {}
    return {f"{name}_{kind}": round(100 * float(bits[kind].mean()), 2) if bits else "" for kind in ("clean", "robust")}


def best_rate(rows: Sequence[Mapping]) -> str:
    """The rate with the highest held-out accuracy under attack, mean over seeds; of equal ones the smallest.

    rows: of one method, {lr, held_out_robust, ...}; a rate at which a seed has a blank is out. Raises StudyError where
    all are.
    """
    values_of: dict[str, list[float]] = {}
    for lr in distinct(rows, "lr"):
        values = [row["held_out_robust"] for row in rows if row["lr"] == lr]
        if "" not in values:
            values_of[lr] = [float(value) for value in values]
    if not values_of:
        tried = ", ".join(distinct(rows, "lr"))
        raise StudyError(f"{rows[0]['method']} diverges at every rate of grid.lrs ({tried}); add smaller ones")
    return max(sorted(values_of, key=float), key=lambda lr: fmean(values_of[lr]))


def rate_rows(checkpoints: Path, records: Path, study: Mapping) -> list[dict]:
    """One row per method, rate and seed, of the methods that were tried at several rates.

    Args:
        checkpoints: folder of what `stages.train` wrote: how each rate did on held-out images, and which was chosen.
        records: folder of what `stages.evaluate` wrote: how each rate did on test images, which chose nothing.
        study: the catalogue of the study.
    """
    rows, (source,) = [], study["groups"]["source"]
    for method in study["methods"]:
        tried = checkpoints / method / "rates.csv"
        for row in read_rows(tried) if tried.exists() else []:
            key = {name: row.pop(name) for name in ("method", "lr", "seed")}
            found = list(records.glob(f"{method}-*/rates/{key['lr']}/{key['seed']}/{source}.json"))
            rows.append(key | accuracies("test", Record.load(found[0]) if found else None) | row)
    return rows


def chosen(rates: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The rate of every method, from the rows of metrics/results/rates.csv."""
    return {row["method"]: row["lr"] for row in rates if int(row["chosen"])}
