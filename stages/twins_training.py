"""Train one candidate at one learning rate on the target set, from the start of each seed."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN
from stages.launch import parallel_stage
from stages.training import train
from zsr import distributed, storage
from zsr.errors import Diverged
from zsr.finetune import mean_curve
from zsr.models import clip
from zsr.params import Count, Natural, block, component, read
from zsr.train import COLUMNS
from zsr.twins_grid import at_rate


@parallel_stage
@click.argument("name")
@click.argument("lr", type=float)
@click.option("--source", type=EXISTING, required=True, help="Training split of the target; its last are held out.")
@click.option("--text", type=EXISTING, required=True, help="Text embeddings of the target.")
@click.option("--starts", type=EXISTING, required=True, help="Folder of one checkpoint per seed.")
@click.option("--out", type=WRITTEN, required=True, help="Folder of one image tower per seed that ends.")
@click.option("--curve", type=WRITTEN, required=True, help="Mean over these seeds.")
def main(name: str, lr: float, params: Path, source: Path, text: Path, starts: Path, out: Path, curve: Path) -> None:
    document = at_rate(read(params), lr)
    torch.set_num_threads(block(document, "threads", Count))
    method, used = component(document, "methods", name), slice(-block(document, "held_out", Count))
    curves = []
    for seed in block(document, "seeds", tuple[Natural, ...]):
        try:
            model, rows = train(document, name, seed, source, text, starts / f"{seed}.safetensors", used)
        except Diverged as error:  # a rate may be too high for a method: that is a result
            if distributed.rank() == 0:
                storage.write_json(out / f"{seed}.json", {"diverged": str(error)})
            continue
        if distributed.rank() == 0:
            clip.save_tower(out / f"{seed}.safetensors", model, method.norm_stats)
        curves.append(rows)
    if distributed.rank() == 0:
        storage.write_rows(curve, mean_curve(curves) if curves else [], COLUMNS)


if __name__ == "__main__":
    main()
