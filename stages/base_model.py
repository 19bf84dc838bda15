"""The base models: weights of open_clip, or tiny CLIPs trained from scratch on drawn pictures, one for each seed.

A study of linear heads has none; its trainings begin with random weights, or with those of `starts`.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

from stages.command import BASE_MODEL, CURVES, stage
from stages.progress import Training, tell, trained
from zsr import files
from zsr.models.heads import Model, norm_stats
from zsr.models.pretrained import Pretrained
from zsr.params import Count, block
from zsr.training.loop import COLUMNS, mean_curve
from zsr.training.pretrain import PretrainingTask, base_of, pretrain_once

LOADING = "zsr.models.base_weights"  # not in the digest: the file is verified, see stages/download_base.py
CURVE = CURVES / "base_model.csv"


@stage("base_model", beside=[LOADING])
def main(document: Mapping, code: str) -> None:
    model, rows = block(document, "model", Model), []
    if model.head == "linear":
        files.save_tensors(BASE_MODEL / "0.safetensors", {}, {"arch": model.arch}, placed=True)
        tell("base model: none, a study of linear heads")
    else:
        rows = _base_of_clip(document, code, model)
    files.write_rows(CURVE, rows, COLUMNS)


def _base_of_clip(document: Mapping, code: str, model: Model) -> list[dict]:
    """Write the base models; returns their mean curve, which is empty for weights of open_clip."""
    from zsr.models import clip

    recipe, curves, runs = base_of(document), [], []
    if isinstance(recipe, Pretrained):
        loaded = import_module(LOADING).load(model.arch, recipe)
        clip.save(BASE_MODEL / "0.safetensors", loaded, model.arch, norm_stats(loaded), placed=True)
        tell(f"base model: {model.arch}, weights of open_clip")
        return []
    image_size = block(document, "data.image_size", Count)
    for seed in recipe.seeds:
        alone = replace(recipe, seeds=(seed,))
        task = PretrainingTask(recipe=alone, seed=seed, arch=model.arch, image_size=image_size)
        runs.append(Training(f"pre-training, seed {seed}", CURVE))
        weights, curve = pretrain_once(task, code, runs[-1])
        clip.save(BASE_MODEL / f"{seed}.safetensors", clip.create(model.arch, weights), model.arch, placed=True)
        curves.append(curve)
    rows = mean_curve(curves)
    tell(trained("base model", rows, runs))
    return rows


if __name__ == "__main__":
    main()
