"""The text side of one set, computed once for each base model: one unit vector per class prompt.

A linear head reads no text: its set has a file of the class names alone. A set that is left out has the reason.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import torch

from stages.command import BASE_MODEL, SETS, TEXT_EMBEDDINGS, stage
from zsr import files
from zsr.compute import Compute
from zsr.data import prepared
from zsr.data.prepared import Split
from zsr.models.heads import Model, checkpoints
from zsr.params import Count, block


@stage("text_embeddings", "name")
def main(document: Mapping, code: str, name: str) -> None:
    out, absent = TEXT_EMBEDDINGS / name, SETS / name / prepared.ABSENT
    if absent.exists():
        prepared.write_entry(TEXT_EMBEDDINGS, name, files.read_kept(absent, f"images of {name}"))
        return click.echo(f"text embeddings of {name}: left out, as its images are")
    torch.set_num_threads(block(document, "threads", Count))
    model, test = block(document, "model", Model), SETS / name / "test.safetensors"
    template, prompt_set = block(document, "data.template", str), block(document, "data.prompt_set", str)
    split = Split.load(test)
    prompts = list(split.own_prompts) or split.prompts(template)
    wording = f"{prompt_set} prompts of the set" if split.own_prompts else f"prompt '{template}'"
    for base in checkpoints(BASE_MODEL):
        if model.head == "linear":
            facts, tensors = {"wording": "final weights", "prompts": list(split.nouns)}, {}
        else:
            device = block(document, "compute", Compute).place()
            tensors = {"text_embeddings": _embedded(model.arch, base, prompts, device)}
            facts = {"wording": wording, "prompts": prompts}
        files.save_tensors(out / base.name, tensors, facts, placed=True)
    entry = prepared.entry(test, out)
    prepared.write_entry(TEXT_EMBEDDINGS, name, entry)
    n = len(entry["text_embeddings"])
    click.echo(f"text embeddings of {name}: {entry['classes']:,} class prompts, from {n} base models")


def _embedded(arch: str, base: Path, prompts: list[str], device: torch.device) -> torch.Tensor:
    from zsr.models import clip

    return clip.embed_texts(clip.create(arch, base).to(device), arch, prompts)


if __name__ == "__main__":
    main()
