"""The index of the sets that models are judged on: hashes of images and text embeddings, or why a set is left out.

Evaluations depend on the index, so that they run again where images are new.
"""

from collections.abc import Mapping
from typing import Any

from stages.command import SETS, TEXT_EMBEDDINGS, catalogue, stage
from zsr import files
from zsr.data import prepared


@stage("sets")
def main(document: Mapping, code: str) -> None:
    prepared.write_index(TEXT_EMBEDDINGS, {name: _entry(name) for name in catalogue()["judged"]})


def _entry(name: str) -> dict[str, Any]:
    """The entry of a set. Raises Unusable where it is not that of the embeddings and images beside it."""
    entry, folder, images = prepared.read_entry(TEXT_EMBEDDINGS, name), TEXT_EMBEDDINGS / name, SETS / name
    if "absent" in entry:
        return entry
    embedded = files.listed(folder, ".safetensors")
    _compare(name, entry, text_embeddings={path.stem: files.sha256(path) for path in embedded})  # then they are ours
    _compare(name, entry, classes=len(files.load_facts(embedded[0])["prompts"]) if embedded else 0)
    if (images / "test.safetensors").exists():  # another machine may have the images
        _compare(name, entry, images=prepared.digest(images / "test.safetensors"))
    if entry.keys() != {"images", "text_embeddings", "classes"}:
        raise files.Unusable(folder / prepared.ENTRY, "does not hold the entry of a set")
    return entry


def _compare(name: str, entry: Mapping, **found: Any) -> None:
    for key, value in found.items():
        if entry.get(key) != value:
            raise files.Unusable(TEXT_EMBEDDINGS / name / prepared.ENTRY, f"has other {key} than {name} has")


if __name__ == "__main__":
    main()
