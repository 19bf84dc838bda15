"""How every learning rate of a grid did, on held-out images and on test images. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsr.evaluation.records import Record, accuracies
from zsr.files import read_rows


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
            key: dict[str, Any] = {name: row.pop(name) for name in ("method", "lr", "seed")}
            found = list(records.glob(f"{method}-*/rates/{key['lr']}/{key['seed']}/{source}.json"))
            rows.append(key | accuracies("test", Record.load(found[0]) if found else None) | row)
    return rows


def chosen(rates: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The rate of every method, from the rows of metrics/results/rates.csv."""
    return {row["method"]: row["lr"] for row in rates if int(row["chosen"])}
