"""Fine-tune the base model's image tower on the source set, by one method, once for each seed."""

import shutil
from functools import partial
from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.split import Split
from zsr.finetune import FineTuning, Texts, finetune, mean_curve
from zsr.models import clip
from zsr.models.pixels import set_norm_stats
from zsr.params import Count, Natural, block, component, read, training_of

COLUMNS = ("step", "lr", "loss")


@stage
@click.argument("name")
@click.option("--source", type=EXISTING, required=True, help="Training split of the source set.")
@click.option("--text", type=EXISTING, required=True, help="Text embeddings of the source set.")
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder of one checkpoint per seed.")
@click.option("--curve", type=WRITTEN, required=True, help="Mean over the seeds.")
def main(name: str, params: Path, source: Path, text: Path, base: Path, out: Path, curve: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    method, recipe = component(document, "methods", name), training_of(document, name, FineTuning)
    arch, split = block(document, "model.arch", str), Split.load(source)
    inputs = storage.digest(source, text, base, storage.computer_digest(), repr((method, recipe)))
    curves = []
    for seed in block(document, "seeds", tuple[Natural, ...])[: None if method.trains else 1]:
        kept = scratch("finetune", name, f"{inputs}-{seed}")
        weights, rows = kept / "weights.safetensors", kept / "curve.csv"
        with storage.claimed(kept):
            if not rows.exists():
                model = clip.create(arch, base)
                set_norm_stats(model, method.norm_stats)
                embed = partial(clip.embed_texts, model, arch)
                texts = Texts.of(method, storage.load_tensors(text)[0]["text_embeddings"], split, embed)
                watch = progress(f"fine-tuning {name}, seed {seed}", "step")
                steps = finetune(method, model, texts, split, recipe, seed, kept / "unfinished", watch)
                clip.save(weights, model, method.norm_stats)
                storage.write_rows(rows, steps, COLUMNS)
                (kept / "unfinished").unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights, out / f"{seed}.safetensors")
        curves.append(storage.read_rows(rows))
    storage.write_rows(curve, mean_curve(curves), COLUMNS)


if __name__ == "__main__":
    main()
