"""Figures, from metrics alone."""

from pathlib import Path
from typing import Any

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import figures
from zsr.params import block, read
from zsr.storage import read_rows

BARS = "bars: 95 % over the choice of images, or ± sd over several seeds"


@stage
@click.option("--metrics", type=EXISTING, required=True)
@click.option("--curves", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, metrics: Path, curves: Path, out: Path) -> None:
    document = read(params)
    name = block(document, "name", str)
    cells, averages = read_rows(metrics / "accuracy.csv"), read_rows(metrics / "averages.csv")
    figures.trade_off(out / "trade_off.png", averages, "all", f"{name}\nmean over all sets; {BARS}")
    figures.per_set(out / "per_set.png", cells, f"{name}: accuracy per set; {BARS}")
    rows = {method: read_rows(curves / f"{method}.csv") for method in block(document, "methods", dict[str, Any])}
    figures.training(out / "training.png", rows, f"{name}: loss terms of fine-tuning, as weighted in the sum")


if __name__ == "__main__":
    main()
