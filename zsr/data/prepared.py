"""A set as the pipeline has prepared it: test images, and the text embeddings that were made for these images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsr import files
from zsr.data.split import Split, digest
from zsr.errors import StudyError

INDEX = "sets.json"  # in the folder of text embeddings: the entry of every prepared set


@dataclass(frozen=True)
class Prepared:
    """A set that models are judged on.

    Attributes:
        split: the images, with labels and ids.
        text_embeddings: (C, D) torch tensor, unit rows; None for a linear head.
        wording: a description of the prompts, for the protocol.
        images: the file that the split comes from.
        text: the file that the text embeddings come from.
        last: only the last `last` images of the file are used; 0: all images.
    """

    split: Split
    text_embeddings: Any
    wording: str
    images: Path
    text: Path
    last: int = 0


def names(text: Path) -> list[str]:
    """The sets in a folder of text embeddings, in the order of the tables. Raises StudyError: the folder has none."""
    return list(_index(text))


def load(sets: Path, text: Path, name: str) -> Prepared:
    """Load the set `name` from the folder of sets and the folder of text embeddings.

    Raises StudyError: a file is missing; the embeddings were made for other images.
    """
    test, embedded = sets / name / "test.safetensors", text / f"{name}.safetensors"
    index = _index(text)
    for path in (test, embedded):
        if not path.exists():
            raise StudyError(f"{path} is not there; run dvc repro text_embeddings, or dvc checkout")
    if name not in index or index[name] != entry(test, embedded):
        raise StudyError(f"{embedded} was made for other images than {test}; run dvc repro text_embeddings")
    tensors, facts = files.load_tensors(embedded)
    return Prepared(Split.load(test), tensors.get("text_embeddings"), facts["wording"], test, embedded)


def entry(test: Path, embedded: Path) -> dict[str, Any]:
    """The entry of a set in the index: digests of its images and of its text embeddings, and its number of classes."""
    classes = len(files.load_facts(test)["classnames"])
    return {"images": digest(test), "text_embeddings": files.sha256(embedded), "classes": classes}


def classes(text: Path) -> dict[str, int]:
    """The number of classes of each set."""
    return {name: set_facts["classes"] for name, set_facts in _index(text).items()}


def held_out(sets: Path, text: Path, name: str, n: int) -> Prepared:
    """The set with the last n images of its training split in place of its test images, and the same prompts."""
    whole, train = load(sets, text, name), sets / name / "train.safetensors"
    if not train.exists():
        raise StudyError(f"{train} is not there; run dvc repro data, or dvc checkout")
    return replace(whole, split=Split.load(train).part(slice(-n, None)), images=train, last=n)


def _index(text: Path) -> dict[str, dict[str, Any]]:
    path = text / INDEX
    if not path.exists():
        raise StudyError(f"{path} is not there; run dvc repro text_embeddings, or dvc checkout")
    return files.read_json(path)
