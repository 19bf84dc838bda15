"""Judge one row of `methods` under one row of `attacks` on every set, once for each seed of its training.

Where the row was trained at several rates and the attack is that of the grid, the models of every rate are judged, too,
on data.source.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.command import CHECKPOINTS, RECORDS, SETS, TEXT_EMBEDDINGS, progress, stage
from zsr import files
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation, Judging, judge
from zsr.models.heads import Model, checkpoints
from zsr.params import Count, block, component, nested_component, under_protocol


@stage("evaluate", "method", "attack", parallel=True)
def main(document: Mapping, code: str, method: str, attack: str) -> None:
    grid, document = document["grid"], under_protocol(document)
    names = prepared.names(TEXT_EMBEDDINGS)
    folder, out, source = CHECKPOINTS / method, RECORDS / f"{method}-{attack}", block(document, "data.source", str)
    configured = component(document, "attacks", attack)

    def run(weights: Path, judged: Sequence[str], out: Path, tower: Path | None = None) -> None:
        seed = int((tower or weights).stem)
        sets = {name: prepared.load(SETS, TEXT_EMBEDDINGS, name, seed) for name in judged}
        judging = Judging(
            method=method,
            seed=seed,
            attack_name=attack,
            attack=configured,
            evaluation=block(document, "evaluate", Evaluation),
            model=block(document, "model", Model),
            compute=block(document, "compute", Compute),
            threads=block(document, "threads", Count),
            weights=weights,
            tower=tower,
        )
        judge(judging, sets, code, lambda name: progress(f"{method} {attack} {name}", "batch"), out / str(seed))

    for weights in checkpoints(folder):
        run(weights, names, out)
    module = document["attacks"][attack].get("module", attack)
    grid_attack = nested_component(grid["attack"], "attacks", "grid.attack") if grid else None
    if grid and grid["attack"]["module"] == module and configured == grid_attack:
        rates = files.listed(folder / "rates", "", stem=r"[0-9][0-9.e+-]*")
        for tower in (tower for rate in rates for tower in files.listed(rate, ".safetensors")):
            run(folder / tower.name, [source], out / "rates" / tower.parent.name, tower)


if __name__ == "__main__":
    main()
