"""fgvc_aircraft: FGVC-Aircraft, 3,333 test images, classes of the level "variant", as "707-320" or "F/A-18".

A variant may contain blanks. The credit at the bottom of every picture stays in the image, as in all papers.
"""

from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    return first_found("fgvc_aircraft", root, split, {Path("fgvc-aircraft-2013b/data/images_variant_test.txt"): _parse})


def _parse(root: Path, split: str) -> Samples:
    from torchvision.datasets import FGVCAircraft

    dataset = FGVCAircraft(root, split, annotation_level="variant")
    return of_files(root / "fgvc-aircraft-2013b", dataset._image_files, dataset._labels, dataset.classes)
