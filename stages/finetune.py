"""Fine-tune the base model's image tower on the source set, by one method."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.split import Split
from zsr.finetune import FineTuning, finetune
from zsr.models import clip
from zsr.params import Count, block, component, read

COLUMNS = ("step", "lr", "loss")


@stage
@click.argument("name")
@click.option("--source", type=EXISTING, required=True, help="Training split of the source set.")
@click.option("--text", type=EXISTING, required=True, help="Text embeddings of the source set.")
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
@click.option("--curve", type=WRITTEN, required=True)
def main(name: str, params: Path, source: Path, text: Path, base: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    method, recipe = component(document, "methods", name), block(document, "train", FineTuning)
    model = clip.create(block(document, "model.arch", str), base)
    embeddings = storage.load_tensors(text)[0]["text_embeddings"]
    inputs = storage.digest(source, text, base, storage.computer_digest(), repr((method, recipe)))
    unfinished = scratch("finetune", name, inputs)
    with storage.claimed(unfinished):
        watch = progress(f"fine-tuning {name}", "step")
        rows = finetune(method, model, embeddings, Split.load(source), recipe, unfinished, watch)
        clip.save(out, model)
        storage.write_rows(curve, rows, COLUMNS)
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
