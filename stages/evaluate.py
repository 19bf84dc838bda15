"""Judge one row of `methods` under one row of `attacks` on every set, once for each seed of its training.

Where the row was trained at several rates and the attack is that of the grid, the models of every rate are judged, too,
on data.source.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from stages.command import CHECKPOINTS, RECORDS, SETS, TEXT_EMBEDDINGS, stage
from stages.progress import Images, first, tell
from zsr import files
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation, Judging, judge
from zsr.evaluation.records import Record
from zsr.models.heads import Model, checkpoints
from zsr.params import Count, block, component, nested_component, under_protocol


@stage("evaluate", "method", "attack", parallel=True)
def main(document: Mapping, code: str, method: str, attack: str) -> None:
    grid, document = document["grid"], under_protocol(document)
    names = prepared.names(TEXT_EMBEDDINGS)
    folder, out, source = CHECKPOINTS / method, RECORDS / f"{method}-{attack}", block(document, "data.source", str)
    configured = component(document, "attacks", attack)
    models = checkpoints(folder)
    images = Images(f"{method}, {attack}", len(models))

    def run(weights: Path, judged: Sequence[str], out: Path, images: Images, tower: Path | None = None) -> None:
        seed = int((tower or weights).stem)
        sets = {name: prepared.load(SETS, TEXT_EMBEDDINGS, name, seed) for name in judged}
        images.expect([len(data.split.ids) for data in sets.values()])
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
        judge(judging, sets, code, lambda name: images.watch, out / str(seed))

    for weights in models:
        run(weights, names, out, images)
    module = document["attacks"][attack].get("module", attack)
    same_module = grid and grid["attack"]["module"] == module  # of another attack the digest need not know the module
    if same_module and nested_component(grid["attack"], "attacks", "grid.attack") == configured:
        rates = files.listed(folder / "rates", "", stem=r"[0-9][0-9.e+-]*")
        towers = [tower for rate in rates for tower in files.listed(rate, ".safetensors")]
        every_rate = Images(f"{method}, {attack}, every rate", len(towers))
        for tower in towers:
            run(folder / tower.name, [source], out / "rates" / tower.parent.name, every_rate, tower)
    if first():
        tell(result(f"{method}, {attack}", out, [int(path.stem) for path in models], names, images.bar.found))


def result(label: str, out: Path, seeds: Sequence[int], names: Sequence[str], found: int) -> str:
    """An evaluation in one line: means over seeds, and over sets with equal weights, as in the tables.

    out: the folder of the records. found: the number of images that had been judged before.
    """
    records = [Record.load(out / str(seed) / f"{name}.json") for seed in seeds for name in names]
    right, clean = (100 * fmean(float(getattr(r, bits).mean()) for r in records) for bits in ("hits", "clean_bits"))
    n = sum(record.n for record in records)
    kept = f"; {found:,} images from kept work" if found else ""
    return f"{label}: {right:.1f} % right, mean over {len(names)} sets, {n:,} images; clean {clean:.1f} %{kept}"


if __name__ == "__main__":
    main()
