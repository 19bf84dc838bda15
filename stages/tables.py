"""Markdown, LaTeX and CSV tables, from metrics alone: a clone without models or images can edit and rerun this."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import tables
from zsr.params import block, read
from zsr.storage import read_rows


@stage
@click.option("--metrics", type=EXISTING, required=True)
@click.option("--published", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, metrics: Path, published: Path, out: Path) -> None:
    name = block(read(params), "name", str)
    cells, averages, pairs = (read_rows(metrics / f"{table}.csv") for table in ("accuracy", "averages", "pairs"))
    tables.accuracy(out, cells, averages, f"Accuracy, {name}")
    tables.orderings(out, pairs, read_rows(published), "all", f"Orderings of the paper, {name}")


if __name__ == "__main__":
    main()
