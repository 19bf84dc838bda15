"""Markdown, LaTeX and CSV tables, from metrics alone: a clone without models or images can edit and rerun this."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import comparison, tables
from zsr.params import block, read
from zsr.storage import read_rows


@stage
@click.option("--metrics", type=EXISTING, required=True)
@click.option("--published", type=EXISTING, multiple=True, help="Several: the first that has a number counts.")
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, metrics: Path, published: tuple[Path, ...], out: Path) -> None:
    name = block(read(params), "name", str)
    files = ("accuracy", "averages", "attacks", "pairs", "marks", "checks")
    cells, averages, attacks, pairs, marks, checks = (read_rows(metrics / f"{table}.csv") for table in files)
    tables.accuracy(out, cells, averages, f"Accuracy, {name}", marks)
    tables.attacks(out, averages, attacks, "all", f"Attacks side by side, {name}", marks)
    tables.audit(out, marks, checks, f"Audit, {name}")
    paper = [row for path in published for row in read_rows(path)]
    tables.orderings(out, pairs, paper, "all", f"Orderings of the paper, {name}", marks)
    comparison.write(out, cells, averages, paper, f"Beside the published numbers, {name}", marks)


if __name__ == "__main__":
    main()
