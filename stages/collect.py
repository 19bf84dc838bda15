"""Fold the records of all evaluations into metrics: averages per method, every cell, paired differences, the audit."""

from pathlib import Path
from typing import Any

import click

from stages.command import EXISTING, WRITTEN, stage
from zsr import audit, results, storage
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
    cells, groups = results.with_worst_case(results.with_clean(loaded)), data.groups()
    marks = audit.marks(cells)
    rows = {
        "accuracy": results.cell_rows(cells),
        "averages": results.average_rows(cells, groups),
        "pairs": results.pair_rows(cells, groups),
        "attacks": results.attack_rows(cells, groups),
    }
    for table, plain in rows.items():
        rows[table] = audit.annotated(plain, marks, groups)
        storage.write_rows(out / f"{table}.csv", rows[table], header=["attack"])
    results.write_summaries(out, rows["averages"])
    storage.write_rows(out / "marks.csv", audit.mark_rows(marks), header=audit.HEADER)
    storage.write_rows(out / "checks.csv", audit.check_rows(cells, marks))


def _seeds(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
