"""Fold the records of all evaluations into metrics: averages per method, every cell, paired differences, the audit."""

from collections.abc import Mapping
from pathlib import Path

from stages.command import CATALOGUE, CHECKPOINTS, METRICS, RECORDS, RESULTS, TEXT_EMBEDDINGS, stage
from zsr import audit, results, storage
from zsr.data.prepared import classes
from zsr.rates import rate_rows
from zsr.records import Record


@stage("collect")
def main(document: Mapping, code: str) -> None:
    study = storage.read_json(CATALOGUE)
    loaded = {
        (method, attack, name): [Record.load(seed / f"{name}.json") for seed in _seeds(RECORDS / f"{method}-{attack}")]
        for method in study["methods"]
        for attack in study["attacks"]
        for name in study["judged"]
    }
    cells, groups = results.with_worst_case(results.with_clean(loaded)), study["groups"]
    marks = audit.marks(cells)
    rows = {
        "accuracy": results.cell_rows(cells),
        "averages": results.average_rows(cells, groups),
        "pairs": results.pair_rows(cells, groups),
        "attacks": results.attack_rows(cells, groups),
    }
    for table, plain in rows.items():
        rows[table] = audit.annotated(plain, marks, groups)
        storage.write_rows(RESULTS / f"{table}.csv", rows[table], header=["attack"])
    results.write_summaries(METRICS / "summary", rows["averages"])
    storage.write_rows(RESULTS / "marks.csv", audit.mark_rows(marks), header=audit.HEADER)
    storage.write_rows(RESULTS / "checks.csv", audit.check_rows(cells, marks))
    storage.write_rows(RESULTS / "rates.csv", rate_rows(CHECKPOINTS, RECORDS, study), header=["method"])
    storage.write_json(RESULTS / "study.json", study | {"classes": classes(TEXT_EMBEDDINGS)})


def _seeds(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
