"""One variant of ablation/params.yaml, trained with every seed and judged under every attack."""

from dataclasses import replace
from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from stages.training import train
from stages.verdicts import judge
from zsr import ablation
from zsr.data import prepared
from zsr.data.world import Data
from zsr.params import Count, block, read


@stage
@click.argument("name")
@click.option("--variants", type=EXISTING, required=True, help="ablation/params.yaml; --params is the study's.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder: attack, seed, one record per set.")
def main(name: str, params: Path, variants: Path, sets: Path, text: Path, base: Path, out: Path) -> None:
    wanted = ablation.load(variants)
    documents = {variant: ablation.changed(read(params), wanted, variant) for variant in wanted.variants}
    document, method = documents[name], wanted.variants[name].method  # all are checked before the first computes
    torch.set_num_threads(block(document, "threads", Count))
    study = block(document, "data", Data)
    data = {set_name: prepared.load(sets, text, set_name) for set_name in study.sets}
    data = {set_name: replace(whole, split=whole.split.first(wanted.images)) for set_name, whole in data.items()}
    source = sets / study.source / "train.safetensors", text / f"{study.source}.safetensors"
    for seed in wanted.seeds:
        checkpoint, _ = train(document, method, seed, *source, base)
        for attack in wanted.attacks:
            judge(document, name, seed, attack, checkpoint, data, out / attack / str(seed))


if __name__ == "__main__":
    main()
