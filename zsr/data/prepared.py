"""A set as the pipeline has prepared it: test images, and the text embeddings made for exactly these."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsr import storage
from zsr.data.split import Split, digest
from zsr.errors import StudyError


@dataclass(frozen=True)
class Prepared:
    """text_embeddings: (C, D) torch tensor, unit rows. wording: of its prompts. inputs: names images and prompts."""

    split: Split
    text_embeddings: Any
    wording: str
    inputs: str


def load(sets: Path, text: Path, name: str) -> Prepared:
    """The set of a name in the folders of sets and of text embeddings.

    Raises StudyError: a file is missing; the embeddings were made for other images.
    """
    test, embedded, made_for = sets / name / "test.safetensors", text / f"{name}.safetensors", text / f"{name}.json"
    for path in (test, embedded, made_for):
        if not path.exists():
            raise StudyError(f"{path} is not there; run dvc repro text_embeddings, or dvc checkout")
    tensors, facts = storage.load_tensors(embedded)
    images = digest(test)
    if storage.read_json(made_for)["images"] != images:
        raise StudyError(f"{embedded} was made for other images than {test}; run dvc repro text_embeddings")
    inputs = storage.digest(images, embedded)
    return Prepared(Split.load(test), tensors["text_embeddings"], facts["wording"], inputs)


def held_out(sets: Path, text: Path, name: str, n: int) -> Prepared:
    """The last n images of a set's training split as test images, with the same prompts."""
    whole, train = load(sets, text, name), sets / name / "train.safetensors"
    if not train.exists():
        raise StudyError(f"{train} is not there; run dvc repro data, or dvc checkout")
    return replace(
        whole, split=Split.load(train).part(slice(-n, None)), inputs=storage.digest(whole.inputs, digest(train))
    )
