"""The text side of every set, computed once: one unit vector per class prompt. The text tower is not run again."""

from pathlib import Path

import click
import torch

from stages.command import EXISTING, WRITTEN, stage
from zsr import storage
from zsr.data.split import Split, digest
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
    prompt_set = block(document, "data.prompt_set", str)
    model = clip.create(arch, base)
    for name in block(document, "data.sets", dict[str, SetSize]):
        test = sets / name / "test.safetensors"
        split = Split.load(test)
        prompts = list(split.own_prompts) or split.prompts(template)
        wording = f"{prompt_set} prompts of the set" if split.own_prompts else f"prompt '{template}'"
        embeddings = clip.embed_texts(model, arch, prompts)
        facts = {"wording": wording, "prompts": prompts}
        storage.save_tensors(out / f"{name}.safetensors", {"text_embeddings": embeddings}, facts)
        storage.write_json(out / f"{name}.json", {"images": digest(test)})  # new images: evaluations are out of date


if __name__ == "__main__":
    main()
