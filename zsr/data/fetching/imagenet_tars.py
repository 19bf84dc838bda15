"""The archives of ImageNet from its publisher, sorted into one folder per class."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from re import fullmatch

from zsr.data.fetching.unpack import Unpacked, extract
from zsr.data.outside import read_lines, visible_files
from zsr.data.registry import File, Source
from zsr.data.samples import parsing
from zsr.params import StudyError

KEY = "imagenet"
VAL, TRAIN, DEVKIT = "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"
NEEDED = {"test": (VAL, DEVKIT), "train": (TRAIN,)}


def needed(files: Sequence[File], split: str) -> tuple[File, ...]:
    """The files of a source that a split needs: all files, except for the archives of ImageNet."""
    return tuple(file for file in files if not _apart(files) or file.name in NEEDED[split])


def served(source: Source, split: str) -> tuple[str, ...]:
    """The splits that are on disk after a source was fetched for one split."""
    return (split,) if _apart(source.files) else source.splits


def sort(folder: Path) -> Unpacked:
    """Replace the archives in a folder by val/<wnid>/ or train/<wnid>/. Returns the number and size of the images."""
    images = _val(folder) if (folder / VAL).exists() else _train(folder)
    for name in (VAL, TRAIN, DEVKIT):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "devkit", ignore_errors=True)
    return images


def _apart(files: Sequence[File]) -> bool:
    """Does each split have a separate archive?"""
    return any(file.name in (VAL, TRAIN) for file in files)


def _val(folder: Path) -> Unpacked:
    """Unpack the archive, which has all images in one folder. The devkit gives the class of each image."""
    extract(folder / DEVKIT, folder / "devkit", "tar")
    classes = _classes(folder / "devkit" / DEVKIT.removesuffix(".tar.gz") / "data")
    flat = folder / "unsorted"
    images = extract(folder / VAL, flat, "tar")
    if images.files != len(classes):
        raise StudyError(
            f"{folder / VAL} holds {images.files} images, but its devkit knows {len(classes)}: get both anew"
        )
    for number, wnid in enumerate(classes, 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        if not (flat / name).exists():
            raise StudyError(f"{folder / VAL} has no image {name}: get the file anew")
        (folder / "val" / wnid).mkdir(parents=True, exist_ok=True)
        (flat / name).replace(folder / "val" / wnid / name)
    flat.rmdir()
    return images


def _classes(data: Path) -> list[str]:
    """The WordNet id of each image of the validation split, in the order of their numbers."""
    import numpy as np
    from scipy.io import loadmat

    with parsing(KEY, data, "meta.mat and ILSVRC2012_validation_ground_truth.txt"):
        synsets = np.atleast_1d(loadmat(data / "meta.mat", squeeze_me=True)["synsets"])
        wnids = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"])}
        for wnid in wnids.values():
            if not fullmatch(r"n\d{8}", wnid):
                raise ValueError(f"{wnid!a} is no WordNet id")
        return [wnids[int(number)] for number in read_lines(data / "ILSVRC2012_validation_ground_truth.txt")]


def _train(folder: Path) -> Unpacked:
    """Unpack the archive, which has one archive of images per class."""
    packed = folder / "packed"
    extract(folder / TRAIN, packed, "tar")
    (folder / "train").mkdir()
    counts = []
    for archive in visible_files(packed, (".tar",)):
        counts.append(extract(archive, folder / "train" / archive.stem, "tar"))
        archive.unlink()  # at once: all archives and all images together would be 300 GB
    packed.rmdir()
    return Unpacked(files=sum(count.files for count in counts), bytes=sum(count.bytes for count in counts))
