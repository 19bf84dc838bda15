"""A set as the pipeline has prepared it: test images, and the text embeddings made for exactly these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsr import storage
from zsr.data.split import Split
from zsr.errors import StudyError


@dataclass(frozen=True)
class Prepared:
    """text_embeddings: (C, D) torch tensor, unit rows. template: of its prompts. embedded: the file they come from."""

    split: Split
    text_embeddings: Any
    template: str
    embedded: Path


def load(sets: Path, text: Path, name: str) -> Prepared:
    """The set of a name in the folders of sets and of text embeddings.

    Raises StudyError: a file is missing; the embeddings were made for other images.
    """
    test, embedded = sets / name / "test.safetensors", text / f"{name}.safetensors"
    for path in (test, embedded):
        if not path.exists():
            raise StudyError(f"{path} is not there; run dvc repro text_embeddings, or dvc checkout")
    tensors, facts = storage.load_tensors(embedded)
    if facts["images"] != storage.digest(test):
        raise StudyError(f"{embedded} was made for other images than {test}; run dvc repro text_embeddings")
    return Prepared(Split.load(test), tensors["text_embeddings"], facts["template"], embedded)
