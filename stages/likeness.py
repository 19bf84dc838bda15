"""What every row with a linear head has of one start, the pre-trained model of its seed."""

from collections.abc import Mapping
from functools import partial

from stages.command import CHECKPOINTS, METRICS, SETS, STARTS, catalogue, stage
from stages.progress import over, tell
from zsr import files, scratch
from zsr.compute import Compute
from zsr.measures.likeness import Likeness, LikenessTask, measure
from zsr.models.heads import Model
from zsr.params import Count, Natural, block
from zsr.reports.transfer import start_and_method


@stage("likeness", "start")
def main(document: Mapping, code: str, start: str) -> None:
    methods, rows = catalogue()["methods"], []
    target, seeds = SETS / block(document, "data.source", str), block(document, "seeds", tuple[Natural, ...])
    pairs = [(name, seed) for name in methods for seed in seeds]
    for name, seed in over(f"likeness with {start}", "models", pairs):
        task = LikenessTask(
            likeness=block(document, f"likeness.{start}", Likeness),
            seed=seed,
            model=block(document, "model", Model),
            compute=block(document, "compute", Compute),
            threads=block(document, "threads", Count),
            weights=CHECKPOINTS / name / f"{seed}.safetensors",
            reference=STARTS / start / f"{seed}.safetensors",
            test=target / "test.safetensors",
            train=target / "train.safetensors",
        )
        measured = scratch.kept_json("likeness", scratch.key(task, code), partial(measure, task))
        start_of_row, method = start_and_method(methods[name])
        key = {"run": name, "start": start_of_row, "method": method, "seed": seed}
        rows += [key | row for row in measured]
    files.write_rows(METRICS / "likeness" / f"{start}.csv", rows)
    tell(f"likeness with {start}: {len(pairs)} models")


if __name__ == "__main__":
    main()
