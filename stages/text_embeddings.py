"""The text side of every set, computed once: one unit vector per class prompt. The text tower is not run again."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from zsr import storage
from zsr.data.split import Split
from zsr.data.world import SetSize
from zsr.models import clip
from zsr.params import Count, block, read


@stage
@click.option("--sets", type=EXISTING, required=True)
@click.option("--base", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, sets: Path, base: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    arch, template = block(document, "model.arch", str), block(document, "data.template", str)
    model = clip.create(arch, base)
    for name in block(document, "data.sets", dict[str, SetSize]):
        test = sets / name / "test.safetensors"
        prompts = Split.load(test).prompts(template)
        facts = {"template": template, "prompts": prompts, "images": storage.digest(test)}  # new images: new facts
        embeddings = clip.embed_texts(model, arch, prompts)
        storage.save_tensors(out / f"{name}.safetensors", {"text_embeddings": embeddings}, facts)


if __name__ == "__main__":
    main()
