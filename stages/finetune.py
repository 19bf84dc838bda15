"""Fine-tune the base model's image tower on the source set, by one method, once for each seed."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN
from stages.launch import parallel_stage
from stages.training import train
from zsr import distributed, storage
from zsr.finetune import mean_curve
from zsr.models import clip
from zsr.params import Count, Natural, block, component, read
from zsr.train import COLUMNS


@parallel_stage
@click.argument("name")
@click.option("--source", type=EXISTING, required=True, help="Training split of the source set.")
@click.option("--text", type=EXISTING, required=True, help="Text embeddings of the source set.")
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder of one checkpoint per seed.")
@click.option("--curve", type=WRITTEN, required=True, help="Mean over the seeds.")
def main(name: str, params: Path, source: Path, text: Path, base: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    method, seeds = component(document, "methods", name), block(document, "seeds", tuple[Natural, ...])
    curves = []
    for seed in seeds if method.trains else seeds[:1]:
        model, rows = train(document, name, seed, source, text, base)
        if distributed.rank() == 0:
            clip.save(out / f"{seed}.safetensors", model, block(document, "model.arch", str), method.norm_stats)
        curves.append(rows)
    if distributed.rank() == 0:
        storage.write_rows(curve, mean_curve(curves), COLUMNS)


if __name__ == "__main__":
    main()
