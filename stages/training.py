"""One fine-tuning with one seed, kept outside DVC when it is done: a seed added later costs its own run alone."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from torch import nn

from stages.command import progress, scratch
from zsr import distributed, storage
from zsr.data.split import Split, digest
from zsr.finetune import FineTuning, Texts, finetune
from zsr.models import clip
from zsr.models.numerics import Compute
from zsr.models.pixels import set_norm_stats
from zsr.params import block, component, training_of
from zsr.train import COLUMNS


def train(
    document: Mapping, name: str, seed: int, source: Path, text: Path, base: Path, rows: slice = slice(None)
) -> tuple[nn.Module, list[dict[str, str]]]:
    """The base model fine-tuned by a method of params.yaml, and its curve, which of several processes the first has.

    source: training split of the source set; text: its text embeddings; base: the base model. rows: the images used.
    """
    method, recipe = component(document, "methods", name), training_of(document, name, FineTuning)
    arch, compute = block(document, "model.arch", str), block(document, "compute", Compute)
    model, embeddings = clip.create(arch, base), storage.load_tensors(text)[0]["text_embeddings"]
    settings = repr((method, recipe, seed, compute, rows))
    inputs = storage.digest(digest(source), embeddings.numpy().tobytes(), base, storage.computer_digest(), settings)
    kept = scratch("finetune", name, inputs)
    tower, curve, unfinished = kept / "tower.safetensors", kept / "curve.csv", kept / "unfinished"
    first = distributed.rank() == 0
    with storage.claimed(kept) if first else nullcontext():
        if distributed.of_first(curve.exists()):
            if first:
                clip.load_tower(tower, model)
        else:
            set_norm_stats(model, method.norm_stats)
            split, embed = Split.load(source).part(rows), partial(clip.embed_texts, model, arch)
            texts = Texts.of(method, embeddings, split, embed)
            watch = progress(f"fine-tuning {name}, seed {seed}", "step")
            steps = finetune(method, model, texts, split, recipe, seed, unfinished, watch, compute)
            if first:
                clip.save_tower(tower, model, method.norm_stats)
                storage.write_rows(curve, steps, COLUMNS)
                unfinished.unlink(missing_ok=True)
    return model, storage.read_rows(curve) if first else []
