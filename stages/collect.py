"""Fold the records of all evaluations into metrics: averages per method, every cell, paired differences."""

from pathlib import Path
from typing import Any

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import results, storage
from zsr.data.world import Data
from zsr.params import block, read
from zsr.records import Record


@stage
@click.option("--records", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, records: Path, out: Path) -> None:
    document = read(params)
    data = block(document, "data", Data)
    methods, attacks = (block(document, kind, dict[str, Any]) for kind in ("methods", "attacks"))
    loaded = {
        (method, attack, name): [Record.load(seed / f"{name}.json") for seed in _seeds(records / f"{method}-{attack}")]
        for method in methods
        for attack in attacks
        for name in data.sets
    }
    averages = results.average_rows(loaded, data.groups())
    results.write_summaries(out, averages)
    storage.write_rows(out / "accuracy.csv", results.cell_rows(loaded))
    storage.write_rows(out / "averages.csv", averages)
    storage.write_rows(out / "pairs.csv", results.pair_rows(loaded, data.groups()))


def _seeds(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
