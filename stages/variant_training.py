"""Train one variant of ablation/params.yaml, once for each seed."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from stages.training import train
from zsr import ablation
from zsr.models import clip
from zsr.params import Count, block, component, read


@stage
@click.argument("name")
@click.option("--variants", type=EXISTING, required=True, help="ablation/params.yaml; --params is the study's.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder of one image tower per seed.")
def main(name: str, params: Path, variants: Path, sets: Path, text: Path, base: Path, out: Path) -> None:
    wanted = ablation.load(variants)
    documents = {variant: ablation.changed(read(params), wanted, variant) for variant in wanted.variants}
    document, method_name = documents[name], wanted.variants[name].method  # all are checked before the first computes
    torch.set_num_threads(block(document, "threads", Count))
    source, method = block(document, "data.source", str), component(document, "methods", method_name)
    for seed in wanted.seeds:
        inputs = sets / source / "train.safetensors", text / f"{source}.safetensors", base
        model, _ = train(document, method_name, seed, *inputs)
        clip.save_tower(out / f"{seed}.safetensors", model, method.norm_stats)


if __name__ == "__main__":
    main()
