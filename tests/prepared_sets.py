"""Small sets as the pipeline prepares them, in a folder of a test."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from zsr import files
from zsr.data import prepared
from zsr.data.prepared import Prepared, entry
from zsr.data.sources import make


def write_index(sets: Path, text: Path, names: Iterable[str]) -> None:
    """The entry of each set, and the index of all."""
    index = {name: entry(sets / name / "test.safetensors", text / name) for name in names}
    for name, own in index.items():
        prepared.write_entry(text, name, own)
    prepared.write_index(text, index)


def prepared_sets(folder: Path, images: Mapping[str, int], text: torch.Tensor) -> dict[str, Prepared]:
    """Sets of so many test images each. text: embeddings of at least as many classes as a set has."""
    sets, embedded = folder / "data/sets", folder / "data/text_embeddings"
    for name, n in images.items():
        test, own = sets / name / "test.safetensors", embedded / name
        split = make(name, "test", n, 0, 24)
        split.save(test, placed=True)
        rows = text[torch.arange(len(split.classnames)) % len(text)]
        facts = {"wording": "prompt 'a {}'"}
        files.save_tensors(own / "0.safetensors", {"text_embeddings": rows}, facts, placed=True)
    write_index(sets, embedded, images)
    return {name: prepared.load(sets, embedded, name) for name in images}
