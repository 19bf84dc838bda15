"""tiny_imagenet: Tiny-ImageNet, the 10,000 images of "val", and 100,000 for training; 64x64, classes by WordNet id.

Labels follow the sorted ids; wnids.txt is not sorted. As published, "val" is one folder of images and a list of labels,
which torchvision's ImageFolder would read as one class. Many users have sorted "val" into one folder per class. Both
layouts are read, with the same ids.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zsr.data.outside import class_folders, read_lines, visible_files
from zsr.data.samples import ENDINGS, Samples, of_files, require_in_place
from zsr.data.shards import first_found
from zsr.params import StudyError

FOLDER = "tiny-imagenet-200"


def read(root: Path, split: str) -> Samples:
    """The samples of a split of the set below the data root."""
    if split == "train":
        return first_found("tiny_imagenet", root, split, {Path(FOLDER, "train"): _parse_train})
    return first_found("tiny_imagenet", root, split, {Path(FOLDER, "val"): _parse_val})


def _parse_train(root: Path, split: str) -> Samples:
    return _labelled(root / FOLDER, _in_class_folders(class_folders(root / FOLDER / "train")))


def _parse_val(root: Path, split: str) -> Samples:
    folder, images = root / FOLDER / "val", root / FOLDER / "val" / "images"
    labelled_paths = _in_class_folders([path for path in class_folders(folder) if path != images])
    if not labelled_paths:
        notes = folder / "val_annotations.txt"
        if not notes.exists():
            raise StudyError(f"{images} would be one class, 'images': put back {notes}, which has the labels")
        rows = [line.split("\t") for line in read_lines(notes)]
        labelled_paths = [(images / row[0], row[1]) for row in rows]
    samples = _labelled(root / FOLDER, labelled_paths)
    return replace(samples, ids=tuple(f"val/{path.name}" for path, _ in labelled_paths))


def _in_class_folders(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    return [(path, folder.name) for folder in folders for path in visible_files(folder, ENDINGS)]


def _labelled(folder: Path, labelled_paths: Sequence[tuple[Path, str]]) -> Samples:
    listed = folder / "wnids.txt"
    here = {wnid for _, wnid in labelled_paths}
    wnids = sorted(read_lines(listed) if listed.exists() else here)
    if len(here) == 1:
        raise StudyError(f"all images of {folder} are of one class, '{min(here)}': its folders are no classes")
    strange = sorted(here - set(wnids))
    if strange:
        raise StudyError(f"{folder} has images of '{strange[0]}', which is not in {listed}: fetch the set anew")
    require_in_place(labelled_paths, wnids)
    label = {wnid: at for at, wnid in enumerate(wnids)}
    return of_files(folder, [path for path, _ in labelled_paths], [label[wnid] for _, wnid in labelled_paths], wnids)
