"""Fold the records of all evaluations into metrics: averages per method, every cell, paired differences, the audit."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from tabulate import tabulate

from stages.command import CHECKPOINTS, METRICS, RECORDS, RESULTS, TEXT_EMBEDDINGS, catalogue, stage
from zsr import files
from zsr.data.prepared import absent, classes
from zsr.evaluation import audit, results
from zsr.evaluation.records import Record, check_alike
from zsr.reports import reading


@stage("collect")
def main(document: Mapping, code: str) -> None:
    study = results.without(catalogue(), absent(TEXT_EMBEDDINGS))
    loaded = {
        (method, attack, name): _records(method, attack, name)
        for method in study["methods"]
        for attack in study["attacks"]
        for name in study["judged"]
    }
    _compare(loaded)
    _check_rates(study["methods"])
    cells, groups = results.with_worst_case(results.with_clean(loaded)), study["groups"]
    marks = audit.marks(cells)
    rows = {
        "accuracy": results.cell_rows(cells),
        "averages": results.average_rows(cells, groups),
        "pairs": results.pair_rows(cells, groups),
        "attacks": results.attack_rows(cells, groups),
    }
    for row in rows["averages"]:
        row["sets"] = results.counted_sets(study, row["group"])
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
    n = results.counted_sets(study, "all")
    table = tabulate(lines, [f"accuracy in %, mean over {n} sets", *columns], floatfmt=".1f", tablefmt="plain")
    return f"{table}\nintervals, other groups of sets and marks of the audit: {RESULTS}, tables"


def _records(method: str, attack: str, set_name: str) -> list[Record]:
    """The record of every model of a method."""
    seeds = [int(path.stem) for path in files.listed(CHECKPOINTS / method, ".safetensors")]
    if not seeds:
        raise files.Unusable(CHECKPOINTS / method, "holds no model, a file SEED.safetensors")
    return [
        Record.load(_path(method, attack, set_name, seed), method=method, attack=attack, set_name=set_name, seed=seed)
        for seed in seeds
    ]


def _check_rates(methods: Iterable[str]) -> None:
    """Raise Unusable where a file of rates is none that the stage train has written."""
    for path in (CHECKPOINTS / method / "rates.csv" for method in methods):
        if path.exists():
            reading.results(path)


def _path(method: str, attack: str, set_name: str, seed: int) -> Path:
    return RECORDS / f"{method}-{attack}" / str(seed) / f"{set_name}.json"


def _compare(loaded: Mapping[tuple[str, str, str], list[Record]]) -> None:
    """Raise Unusable where the numbers of a column of the tables would come from different questions."""
    first: dict[tuple[str, str], Record] = {}
    for (method, attack, set_name), records in loaded.items():
        for record in records:
            reference = first.setdefault((attack, set_name), record)
            check_alike(reference, record, _path(method, attack, set_name, record.seed))


if __name__ == "__main__":
    main()
