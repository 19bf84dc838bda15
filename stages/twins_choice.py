"""Choose a candidate's learning rate on held-out images, and pass on its models of that rate."""

import itertools
from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from stages.verdicts import Judged, judge
from zsr import storage, twins_grid
from zsr.data import prepared
from zsr.models import clip
from zsr.params import Count, Natural, block, component, read
from zsr.records import Record

PARTS = ("test", "held_out")  # of the target, as the grid calls them


@stage
@click.argument("name")
@click.option("--towers", type=EXISTING, required=True, help="Folder: rate, seed.")
@click.option("--starts", type=EXISTING, required=True, help="Folder of one checkpoint per seed.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--records", type=WRITTEN, required=True, help="Of every rate and seed.")
@click.option("--out", type=WRITTEN, required=True, help="Folder of one checkpoint per seed, of the chosen rate.")
@click.option("--grid", type=WRITTEN, required=True, help="One row per rate and seed.")
def main(
    name: str, params: Path, towers: Path, starts: Path, sets: Path, text: Path, records: Path, out: Path, grid: Path
) -> None:
    document = read(params)
    target, arch = block(document, "data.source", str), block(document, "model.arch", str)
    attack, seeds = block(document, "chosen_by", str), block(document, "seeds", tuple[Natural, ...])
    data = {  # of the target's own name, so that its noise is that of its evaluation
        target: prepared.load(sets, text, target),
        "held_out": prepared.held_out(sets, text, target, block(document, "held_out", Count)),
    }
    rows, models = [], {}
    for lr, seed in itertools.product(twins_grid.rates(document), seeds):
        base, tower, folder = starts / f"{seed}.safetensors", towers / lr / f"{seed}.safetensors", records / lr
        if not tower.exists():  # its training diverged
            rows.append({"method": name, "lr": lr, "seed": seed} | twins_grid.accuracies(dict.fromkeys(PARTS)))
            continue
        model = models[lr, seed] = clip.create(arch, base)
        clip.load_tower(tower, model)
        judge(document, Judged(name, seed, storage.digest(base, tower), model), attack, data, folder / str(seed))
        found = {part: Record.load(folder / str(seed) / f"{of}.json") for part, of in zip(PARTS, data)}
        rows.append({"method": name, "lr": lr, "seed": seed} | twins_grid.accuracies(found))
    best, norm_stats = twins_grid.best_rate(rows), component(document, "methods", name).norm_stats
    for seed in seeds:
        clip.save(out / f"{seed}.safetensors", models[best, seed], arch, norm_stats)
    storage.write_rows(grid, [row | {"chosen": int(row["lr"] == best)} for row in rows])


if __name__ == "__main__":
    main()
