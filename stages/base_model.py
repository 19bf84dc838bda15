"""The base model: weights of open_clip, or a tiny CLIP trained from scratch on drawn, captioned pictures."""

from pathlib import Path

import click
import open_clip
import torch

from stages.command import WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.captioned import draw_pool
from zsr.models import clip, pretrained
from zsr.models.pretrained import Pretrained
from zsr.params import Count, block, read
from zsr.pretrain import Pool, base_of, pretrain
from zsr.train import COLUMNS


@stage
@click.option("--out", type=WRITTEN, required=True)
@click.option("--curve", type=WRITTEN, required=True)
def main(params: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    recipe, arch = base_of(document), block(document, "model.arch", str)
    if isinstance(recipe, Pretrained):
        clip.save(out, pretrained.load(arch, recipe), arch)
        storage.write_rows(curve, [], COLUMNS)
        return
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
