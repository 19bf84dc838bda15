"""The base models: weights of open_clip, or tiny CLIPs trained from scratch on drawn pictures, one for each seed.

A study of linear heads has none; its trainings begin with random weights, or with those of `starts`.
"""

from collections.abc import Mapping
from dataclasses import replace

from stages.command import BASE_MODEL, CURVES, progress, stage
from zsr import files
from zsr.models.heads import Model
from zsr.models.pretrained import Pretrained
from zsr.params import Count, block
from zsr.training.loop import COLUMNS, mean_curve
from zsr.training.pretrain import PretrainingTask, base_of, pretrain_once


@stage("base_model")
def main(document: Mapping, code: str) -> None:
    model, curves = block(document, "model", Model), []
    if model.head == "linear":
        files.save_tensors(BASE_MODEL / "0.safetensors", {}, {"arch": model.arch}, placed=True)
    else:
        curves = _bases_of_clip(document, code, model)
    files.write_rows(CURVES / "base_model.csv", mean_curve(curves) if curves else [], COLUMNS)


def _bases_of_clip(document: Mapping, code: str, model: Model) -> list[list[dict[str, str]]]:
    from zsr.models import clip, pretrained

    recipe, curves = base_of(document), []
    if isinstance(recipe, Pretrained):
        clip.save(BASE_MODEL / "0.safetensors", pretrained.load(model.arch, recipe), model.arch, placed=True)
        return []
    image_size = block(document, "data.image_size", Count)
    for seed in recipe.seeds:
        alone = replace(recipe, seeds=(seed,))
        task = PretrainingTask(recipe=alone, seed=seed, arch=model.arch, image_size=image_size)
        weights, curve = pretrain_once(task, code, progress(f"pre-training, seed {seed}", "step"))
        clip.save(BASE_MODEL / f"{seed}.safetensors", clip.create(model.arch, weights), model.arch, placed=True)
        curves.append(curve)
    return curves


if __name__ == "__main__":
    main()
