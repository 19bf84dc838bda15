"""The index of the sets that models are judged on: hashes of images and text embeddings, or why a set is left out.

Evaluations depend on the index, so that they run again where images are new.
"""

from collections.abc import Mapping

from stages.command import INDEX, TEXT_EMBEDDINGS, catalogue, stage
from zsr import files
from zsr.data import prepared


@stage("sets")
def main(document: Mapping, code: str) -> None:
    files.write_json(INDEX, {name: prepared.read_entry(TEXT_EMBEDDINGS, name) for name in catalogue()["judged"]})


if __name__ == "__main__":
    main()
