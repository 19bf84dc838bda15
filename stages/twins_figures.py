"""Figures of the study of TWINS, from metrics alone."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import figures, twins_grid
from zsr.params import Positive, block, read
from zsr.storage import read_rows


@stage
@click.option("--metrics", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, metrics: Path, out: Path) -> None:
    document = read(params)
    name, shown = block(document, "name", str), str(block(document, "shown_lr", Positive))
    grid, curves = twins_grid.read_grid(metrics, document), twins_grid.read_curves(metrics, document)
    spread = "mean over seeds; bars: ± sd"
    figures.learning_rates(out / "rates.png", grid, f"{name}: the target at every learning rate\n{spread}")
    own = {method: rows for (method, lr), rows in curves.items() if lr == shown}
    figures.effective_rates(out / "effective_rate.png", own, f"{name}: at lr {shown}, mean over convolutions and seeds")
    averages = read_rows(metrics / "averages.csv")
    figures.trade_off(
        out / "trade_off.png", averages, "source", f"{name}\nthe target, each method at its own rate; {spread}"
    )


if __name__ == "__main__":
    main()
