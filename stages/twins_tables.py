"""Tables of the study of TWINS, from metrics alone."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import tables, twins_grid, twins_tables
from zsr.params import Count, Positive, block, read
from zsr.storage import read_rows


@stage
@click.option("--metrics", type=EXISTING, required=True)
@click.option("--published", type=EXISTING, required=True, help="Numbers that others measured.")
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, metrics: Path, published: Path, out: Path) -> None:
    document = read(params)
    name, held_out = block(document, "name", str), block(document, "held_out", Count)
    files = ("accuracy", "averages", "pairs", "marks", "checks")
    cells, averages, pairs, marks, checks = (read_rows(metrics / f"{table}.csv") for table in files)
    grid, curves = twins_grid.read_grid(metrics, document), twins_grid.read_curves(metrics, document)
    compared, facts = twins_grid.twins_and_controls(document), f"the {held_out} images held out of training"
    twins_tables.study(out, averages, pairs, compared, grid, marks, facts, name)
    shown = str(block(document, "shown_lr", Positive))
    twins_tables.effective_rates(out, curves, twins_grid.chosen(grid), shown, f"Effective rates, {name}")
    twins_tables.elsewhere(out, read_rows(published), "TWINS elsewhere")
    tables.accuracy(out, cells, averages, f"Accuracy, {name}", marks)
    tables.audit(out, marks, checks, f"Audit, {name}")


if __name__ == "__main__":
    main()
