"""Accuracy of every method under one attack that grows, on each set's first images; of several seeds the first."""

from collections.abc import Mapping
from functools import partial

from stages.command import CHECKPOINTS, METRICS, SETS, TEXT_EMBEDDINGS, catalogue, stage
from stages.progress import over, tell
from zsr import files, scratch
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.measures.eps_sweep import EpsSweep, SweepTask, measure
from zsr.models import heads
from zsr.params import Count, block, component, under_protocol


@stage("eps_sweep", "attack")
def main(document: Mapping, code: str, attack: str) -> None:
    document, rows = under_protocol(document), []
    methods = {m: heads.first_checkpoint(CHECKPOINTS / m) for m in catalogue()["methods"]}
    seed, names = min(int(path.stem) for path in methods.values()), prepared.names(TEXT_EMBEDDINGS)
    sets = {name: prepared.load(SETS, TEXT_EMBEDDINGS, name, seed) for name in names}
    for method, weights in over(f"eps of {attack}", "methods", methods.items()):
        task = SweepTask(
            attack=component(document, "attacks", attack),
            sweep=block(document, f"eps_sweep.{attack}", EpsSweep),
            evaluation=block(document, "evaluate", Evaluation),
            model=block(document, "model", heads.Model),
            compute=block(document, "compute", Compute),
            threads=block(document, "threads", Count),
            weights=weights,
            sets=tuple((name, test_set.images, test_set.text) for name, test_set in sets.items()),
        )
        measured = scratch.kept_json("eps_sweep", scratch.key(task, code), partial(measure, task, sets))
        rows += [{"method": method} | row for row in measured]
    files.write_rows(METRICS / "eps_sweep" / f"{attack}.csv", rows)
    largest = [row for row in rows if row["eps"] == rows[-1]["eps"]]
    share = sum(row["correct"] for row in largest) / sum(row["n"] for row in largest)
    tell(f"{attack}, {len(methods)} methods: {100 * share:.1f} % of the images are right at eps {rows[-1]['eps']}")


if __name__ == "__main__":
    main()
