"""The base model: a tiny CLIP trained from scratch on drawn, captioned pictures."""

from pathlib import Path

import click
import open_clip
import torch

from stages.command import WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.captioned import draw_pool
from zsr.models import clip
from zsr.params import Count, block, read
from zsr.pretrain import Pool, Pretraining, pretrain


@stage
@click.option("--out", type=WRITTEN, required=True)
@click.option("--curve", type=WRITTEN, required=True)
def main(params: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    recipe, arch = block(document, "base_model", Pretraining), block(document, "model.arch", str)
    image_size = block(document, "data.image_size", Count)
    unfinished = scratch("base_model", storage.digest(storage.computer_digest(), repr((recipe, arch, image_size))))
    with storage.claimed(unfinished):
        pool = Pool.of(*draw_pool(recipe.pool, recipe.seed, image_size), open_clip.get_tokenizer(arch))
        model, rows = pretrain(lambda: clip.create(arch), pool, recipe, unfinished, progress("pre-training", "step"))
        clip.save(out, model, arch)
        storage.write_rows(curve, rows)
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
