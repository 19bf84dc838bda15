"""Judge one row of `defences`, a defence on the tower of a row of `methods`, on the first images of every set.

The metrics are a row for each set and one for their mean, with the accuracy of each column and the marks of the audit.
"""

from collections.abc import Mapping

from stages.command import BASE_MODEL, CHECKPOINTS, DEFENDED, METRICS, SETS, TEXT_EMBEDDINGS, stage
from stages.progress import Images, tell
from zsr import files
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.defence_records import COLUMNS, medians, rows
from zsr.evaluation.defended import DefendedModel, defending_of, judge
from zsr.evaluation.evaluate import Evaluation
from zsr.models.heads import Model, checkpoints
from zsr.params import Count, block, component, row, under_protocol


@stage("defend", "name")
def main(document: Mapping, code: str, name: str) -> None:
    document, on = under_protocol(document), row(document, "defences", name).on
    defending, towers = defending_of(document, name), checkpoints(CHECKPOINTS / on)
    sets, images, records = defending.sets or prepared.names(TEXT_EMBEDDINGS), Images(name, len(towers)), []
    for weights in towers:
        seed = int(weights.stem)
        loaded = {one: prepared.load(SETS, TEXT_EMBEDDINGS, one, seed) for one in sets}
        images.expect([min(defending.images, len(data.split.ids)) for data in loaded.values()])
        model = DefendedModel(
            name=name,
            method=on,
            seed=seed,
            defence=component(document, "defences", name),
            defending=defending,
            attacks={attack: component(document, "attacks", attack) for attack in defending.attacks},
            evaluation=block(document, "evaluate", Evaluation),
            model=block(document, "model", Model),
            compute=block(document, "compute", Compute),
            threads=block(document, "threads", Count),
            weights=weights,
            base=files.of_seed(BASE_MODEL, seed),
        )
        records += judge(model, loaded, code, lambda set_name: images.watch, DEFENDED / name / str(seed))
    table = rows(records)
    files.write_rows(METRICS / "defended" / f"{name}.csv", table)
    files.write_json(METRICS / "defended" / f"{name}.json", {column: table[-1][column] for column in COLUMNS})
    _tell(name, on, table[-1], medians(records))


def _tell(name: str, on: str, mean: Mapping, numbers: list[str]) -> None:
    columns = ", ".join(f"{column} {mean[column]:.1f}" for column in COLUMNS)
    tell(f"{name} on {on}: {columns} % right; undefended {mean['undefended']:.1f} %")
    for line in [*numbers, *filter(None, mean["reasons"].split("; "))]:
        tell(f"  {line}")


if __name__ == "__main__":
    main()
