"""The text side of every set, computed once for each base model: one unit vector per class prompt.

A linear head reads no text: its set has a file of the class names alone.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import torch

from stages.command import BASE_MODEL, SETS, TEXT_EMBEDDINGS, catalogue, stage
from zsr import files
from zsr.data.prepared import INDEX, Split, entry
from zsr.models.heads import Model, checkpoints
from zsr.params import Count, block


@stage("text_embeddings")
def main(document: Mapping, code: str) -> None:
    torch.set_num_threads(block(document, "threads", Count))
    model, index = block(document, "model", Model), {}
    template, prompt_set = block(document, "data.template", str), block(document, "data.prompt_set", str)
    bases = {path.stem: _embedder(model, path) for path in checkpoints(BASE_MODEL)}
    study = catalogue()
    for name in study["sets"]:
        test, out = SETS / name / "test.safetensors", TEXT_EMBEDDINGS / name
        split = Split.load(test)
        prompts = list(split.own_prompts) or split.prompts(template)
        wording = f"{prompt_set} prompts of the set" if split.own_prompts else f"prompt '{template}'"
        for base, embed in bases.items():
            if model.head == "linear":
                tensors, facts = {}, {"wording": "final weights", "prompts": list(split.nouns)}
            else:
                tensors, facts = {"text_embeddings": embed(prompts)}, {"wording": wording, "prompts": prompts}
            files.save_tensors(out / f"{base}.safetensors", tensors, facts, placed=True)
        if name in study["judged"]:
            index[name] = entry(test, out)  # the index tells evaluations when the images are new
    files.write_json(TEXT_EMBEDDINGS / INDEX, index)
    n = sum(facts["classes"] for facts in index.values())
    click.echo(f"text embeddings: {n:,} class prompts of {len(index)} sets, from {len(bases)} base models")


def _embedder(model: Model, base: Path):
    if model.head == "linear":
        return None
    from functools import partial

    from zsr.models import clip

    return partial(clip.embed_texts, clip.create(model.arch, base), model.arch)


if __name__ == "__main__":
    main()
