"""The transfer study's tables, figures and metrics, from the records of all runs and what likens them."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import storage, transfer_figures, transfer_tables
from zsr.params import Natural, block, read
from zsr.records import Record
from zsr.transfer_params import Grid, Sets, Trained
from zsr.transfer_study import Run, row_of_records
from zsr.transfer_tables import Facts


@stage
@click.option("--records", type=EXISTING, required=True, help="Folder: run, seed, one record per eps.")
@click.option("--likeness", type=EXISTING, required=True)
@click.option("--target", type=EXISTING, required=True, help="Test split of the target set.")
@click.option("--tables", type=WRITTEN, required=True)
@click.option("--figures", type=WRITTEN, required=True)
@click.option("--metrics", type=WRITTEN, required=True)
def main(params: Path, records: Path, likeness: Path, target: Path, tables: Path, figures: Path, metrics: Path) -> None:
    document = read(params)
    data, grid, title = block(document, "data", Sets), block(document, "grid", Grid), block(document, "name", str)
    seeds, backbone = block(document, "seeds", tuple[Natural, ...]), block(document, "backbone.arch", str)
    classes, reference = len(storage.load_facts(target)["classnames"]), block(document, "likeness.reference", str)
    rows, loaded = [], []
    for name, run in block(document, "runs", dict[str, Trained]).items():
        for seed in seeds:
            own = {f"{eps}/255": Record.load(records / name / str(seed) / f"{eps}.json") for eps in grid.named()}
            described = Run(init=run.start, method=run.method, backbone=backbone, dataset=data.target, seed=seed)
            rows.append(row_of_records(described, own))
            loaded += own.values()
    alike, caution = storage.read_rows(likeness), block(document, "caution", str)
    facts = Facts(title, transfer_tables.notes(caution, loaded), tuple(f"{eps}/255" for eps in grid.named()), classes)
    transfer_tables.accuracy(tables, rows, facts, transfer_tables.flags(alike, classes))
    transfer_tables.differences(tables, transfer_tables.difference_rows(rows, facts), facts)
    transfer_tables.likeness(tables, alike, reference, facts)
    transfer_tables.write_metrics(metrics, rows, alike, facts)
    note = f"{title}; {len(seeds)} seeds, bars: ± standard deviation"
    transfer_figures.robustness(figures / "robustness.png", rows, facts.eps, note)
    transfer_figures.likeness(figures / "likeness.png", alike, f"likeness with {reference}; {note}")


if __name__ == "__main__":
    main()
