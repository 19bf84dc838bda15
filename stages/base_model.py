"""The base model: weights of open_clip, or a tiny CLIP trained from scratch on drawn, captioned pictures.

A study of linear heads has none; its trainings begin with random weights, or with those of `starts`.
"""

from collections.abc import Mapping

from stages.command import BASE_MODEL, CURVES, progress, stage
from zsr import files
from zsr.models.heads import Model
from zsr.models.pretrained import Pretrained
from zsr.params import Count, block
from zsr.training.loop import COLUMNS
from zsr.training.pretrain import PretrainingTask, base_of, pretrain_once


@stage("base_model")
def main(document: Mapping, code: str) -> None:
    model, rows = block(document, "model", Model), []
    if model.head == "linear":
        files.save_tensors(BASE_MODEL, {}, {"arch": model.arch})
    else:
        rows = _base_of_clip(document, code, model)
    files.write_rows(CURVES / "base_model.csv", rows, COLUMNS)


def _base_of_clip(document: Mapping, code: str, model: Model) -> list[dict]:
    from zsr.models import clip, pretrained

    recipe = base_of(document)
    if isinstance(recipe, Pretrained):
        clip.save(BASE_MODEL, pretrained.load(model.arch, recipe), model.arch)
        return []
    image_size, threads = block(document, "data.image_size", Count), block(document, "threads", Count)
    task = PretrainingTask(recipe=recipe, arch=model.arch, image_size=image_size, threads=threads)
    weights, rows = pretrain_once(task, code, progress("pre-training", "step"))
    clip.save(BASE_MODEL, clip.create(model.arch, weights), model.arch)
    return rows


if __name__ == "__main__":
    main()
