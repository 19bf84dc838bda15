"""Fold the records of all evaluations into metrics: averages per method, every cell, paired differences, the audit."""

from collections.abc import Mapping
from pathlib import Path

import click
from tabulate import tabulate

from stages.command import CATALOGUE, CHECKPOINTS, METRICS, RECORDS, RESULTS, TEXT_EMBEDDINGS, stage
from zsr import files
from zsr.data.prepared import classes
from zsr.evaluation import audit, results
from zsr.evaluation.records import Record


@stage("collect")
def main(document: Mapping, code: str) -> None:
    study = files.read_json(CATALOGUE)
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
        files.write_rows(RESULTS / f"{table}.csv", rows[table], header=["attack"])
    results.write_summaries(METRICS / "summary", rows["averages"])
    files.write_rows(RESULTS / "marks.csv", audit.mark_rows(marks), header=audit.HEADER)
    files.write_rows(RESULTS / "checks.csv", audit.check_rows(cells, marks))
    files.write_rows(RESULTS / "rates.csv", results.rate_rows(CHECKPOINTS, RECORDS, study), header=["method"])
    files.write_json(RESULTS / "study.json", study | {"classes": classes(TEXT_EMBEDDINGS)})
    click.echo(averages(rows["averages"], study))


def averages(rows: list[dict], study: Mapping) -> str:
    """The means over all sets as a table: a line for each method, a column for each attack."""
    means = {(row["method"], row["attack"]): row["mean"] for row in rows if row["group"] == "all"}
    columns = list(dict.fromkeys(attack for _, attack in means))
    lines = [[method, *(means[method, attack] for attack in columns)] for method in study["methods"]]
    n = len(study["groups"]["all"])
    table = tabulate(lines, [f"accuracy in %, mean over {n} sets", *columns], floatfmt=".1f", tablefmt="plain")
    return f"{table}\nintervals, other groups of sets and marks of the audit: {RESULTS}, tables"


def _seeds(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


if __name__ == "__main__":
    main()
