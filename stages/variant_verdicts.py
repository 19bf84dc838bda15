"""Judge one variant of ablation/params.yaml, without and with the ablation's attack, once for each seed."""

from dataclasses import replace
from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, stage
from stages.verdicts import Judged, judge
from zsr import ablation, storage
from zsr.data import prepared
from zsr.data.world import SetSize
from zsr.models import clip
from zsr.params import block, read


@stage
@click.argument("name")
@click.option("--variants", type=EXISTING, required=True, help="ablation/params.yaml; --params is the study's.")
@click.option("--towers", type=EXISTING, required=True, help="Folder of one image tower per seed.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder: seed, one record per set.")
def main(name: str, params: Path, variants: Path, towers: Path, sets: Path, text: Path, base: Path, out: Path) -> None:
    document, wanted = read(params), ablation.load(variants)
    whole = {s: prepared.load(sets, text, s) for s in block(document, "data.sets", dict[str, SetSize])}
    data = {
        s: replace(prepared_set, split=prepared_set.split.first(wanted.images)) for s, prepared_set in whole.items()
    }
    for seed in wanted.seeds:
        tower = towers / f"{seed}.safetensors"
        model = clip.create(block(document, "model.arch", str), base)
        clip.load_tower(tower, model)
        judge(document, Judged(name, seed, storage.digest(base, tower), model), wanted.attack, data, out / str(seed))


if __name__ == "__main__":
    main()
