"""tiny_imagenet: Tiny-ImageNet, the 10,000 images of "val", and 100,000 for training; 64x64, classes by WordNet id.

Labels follow the sorted ids; wnids.txt is not sorted. As published, "val" is one folder of images and a list of labels,
which torchvision's ImageFolder would read as one class. Many users have sorted "val" into one folder per class. Both
layouts are read, with the same ids.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zsr.data.samples import Samples, of_files
from zsr.data.shards import first_found
from zsr.params import StudyError

FOLDER = "tiny-imagenet-200"


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    if split == "train":
        return first_found("tiny_imagenet", root, split, {Path(FOLDER, "train"): _parse_train})
    return first_found("tiny_imagenet", root, split, {Path(FOLDER, "val"): _parse_val})


def _parse_train(root: Path, split: str) -> Samples:
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(root / FOLDER / "train")
    return _labelled(root / FOLDER, [(path, dataset.classes[label]) for path, label in dataset.samples])


def _parse_val(root: Path, split: str) -> Samples:
    folder, images = root / FOLDER / "val", root / FOLDER / "val" / "images"
    sorted_out = [path for path in sorted(folder.iterdir()) if path.is_dir() and path != images]
    if sorted_out:
        labelled_paths = [
            (path, class_folder.name) for class_folder in sorted_out for path in sorted(class_folder.rglob("*.JPEG"))
        ]
    else:
        notes = folder / "val_annotations.txt"
        if not notes.exists():
            raise StudyError(f"{images} would be one class, 'images': put back {notes}, which has the labels")
        rows = [line.split("\t") for line in notes.read_text(encoding="utf-8-sig").splitlines() if line]
        labelled_paths = [(images / row[0], row[1]) for row in rows]
    samples = _labelled(root / FOLDER, labelled_paths)
    return replace(samples, ids=tuple(f"val/{Path(path).name}" for path, _ in labelled_paths))


def _labelled(folder: Path, labelled_paths: Sequence[tuple[str | Path, str]]) -> Samples:
    listed = folder / "wnids.txt"
    here = {wnid for _, wnid in labelled_paths}
    wnids = sorted(listed.read_text(encoding="utf-8-sig").split() if listed.exists() else here)
    if len(here) == 1:
        raise StudyError(f"all images of {folder} are of one class, '{min(here)}': its folders are no classes")
    strange = sorted(here - set(wnids))
    if strange:
        raise StudyError(f"{folder} has images of '{strange[0]}', which is not in {listed}: fetch the set anew")
    label = {wnid: at for at, wnid in enumerate(wnids)}
    return of_files(folder, [path for path, _ in labelled_paths], [label[wnid] for _, wnid in labelled_paths], wnids)
