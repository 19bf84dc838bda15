"""The rows of `starts`: models that other trainings begin with, trained on data.start_source once for each seed.

One stage owns them all, so that no row that was taken out leaves a folder behind; kept work spares those that stay.
"""

from collections.abc import Mapping
from pathlib import Path

from stages.command import BASE_MODEL, SETS, STARTS, TEXT_EMBEDDINGS, stage
from stages.progress import Training, tell, trained
from zsr import compute, files
from zsr.models import heads
from zsr.params import Natural, block, row
from zsr.training.finetune import task_of, train_once, without_start
from zsr.training.loop import COLUMNS, mean_curve


@stage("start", parallel=True)
def main(document: Mapping, code: str) -> None:
    first = compute.rank() == 0
    for name in document["starts"]:
        runs = {seed: Training(f"{name}, seed {seed}") for seed in block(document, "seeds", tuple[Natural, ...])}
        rows = mean_curve([_train(document, code, name, seed, run) for seed, run in runs.items()])
        if first:
            files.write_rows(STARTS / name / "curve.csv", rows, COLUMNS)
            tell(trained(name, rows, list(runs.values())))
    if first:
        files.write_json(STARTS / "starts.json", list(document["starts"]))


def _train(document: Mapping, code: str, name: str, seed: int, run: Training) -> list[dict[str, str]]:
    source, start = block(document, "data.start_source", str), row(document, "starts", name)
    origin = "file" if start.file else without_start(document)
    task = task_of(
        document,
        "starts",
        name,
        seed,
        images=SETS / source / "train.safetensors",
        text_embeddings=files.of_seed(TEXT_EMBEDDINGS / source, seed),
        weights=Path(start.file) if start.file else files.of_seed(BASE_MODEL, seed),
        origin=origin,
        sha256=start.sha256,
    )
    tower, rows = train_once(task, code, run)
    if compute.rank() == 0:
        whole = heads.load(task.model, files.of_seed(BASE_MODEL, seed), tower)
        heads.save(STARTS / name / f"{seed}.safetensors", whole, task.model, heads.norm_stats(whole), placed=True)
    return rows


if __name__ == "__main__":
    main()
