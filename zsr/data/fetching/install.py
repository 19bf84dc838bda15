"""Checked files are unpacked in a staging folder, and then put in place all at once."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from zsr.data.fetching import imagenet_tars
from zsr.data.fetching.download import Expected, Refused, require_space
from zsr.data.fetching.unpack import Unpacked, extract
from zsr.data.registry import Entry, File, Inner
from zsr.files import write_atomic
from zsr.params import StudyError


def install(dataset: Entry, files: Sequence[File], archives: Path, root: Path, placing: Path) -> Unpacked:
    """Unpack a source's files, which lie in `archives`, and put the members below root where the registry says.

    Until all files are unpacked, only the folder `.staging` is added below root. Then `placing` is written, and the
    members are moved. Raises StudyError: an archive is refused; the set's folder did not come out; no room.
    """
    size = sum((archives / file.name).stat().st_size for file in files if file.unpack != "none")
    require_space(root, size, f"unpacking {dataset.title}")
    staging = root / ".staging" / dataset.key
    shutil.rmtree(staging, ignore_errors=True)
    try:
        tree = staging / "tree"
        tree.mkdir(parents=True)
        counts = [_open(file, archives / file.name, staging / f"opened_{n}", tree) for n, file in enumerate(files)]
        if dataset.key == imagenet_tars.KEY:
            counts = [imagenet_tars.sort(tree / dataset.layout_root)]
        if not (tree / dataset.layout_root).is_dir():
            names = ", ".join(file.name for file in files)
            raise StudyError(
                f"{names} of {dataset.title} held no folder {dataset.layout_root}: the registry describes other files"
            )
        write_atomic(placing, b"")
        place(tree, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Unpacked(files=sum(count.files for count in counts), bytes=sum(count.bytes for count in counts))


def place(source: Path, target: Path) -> None:
    """Move a folder or file to `target`. Into an existing folder parts are moved one by one, over those of one name."""
    if source.is_dir() and target.is_dir():
        for child in sorted(source.iterdir()):
            place(child, target / child.name)
    elif target.is_dir() or (source.is_dir() and target.exists()):
        raise StudyError(f"{target} is in the way of a {'folder' if source.is_dir() else 'file'}: move it away")
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, which takes no space, or a copy where the disks differ."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _open(file: File, archive: Path, opened: Path, tree: Path) -> Unpacked:
    """Put the members of a file, or the file itself, into the tree."""
    if file.unpack == "none":
        link_or_copy(archive, tree / file.into / file.name)
        return Unpacked(files=1, bytes=archive.stat().st_size)
    unpacked = extract(archive, opened, file.unpack)
    if file.inner:
        return _open_inner(file.inner[0], archive, opened, tree)
    place(opened, tree / file.into)
    return unpacked


def _open_inner(inner: Inner, archive: Path, opened: Path, tree: Path) -> Unpacked:
    member = opened / inner.name
    if not member.is_file():
        raise StudyError(f"{archive} has no member '{inner.name}': the registry describes another file")
    try:
        Expected(size=inner.size, sha256=inner.sha256, md5=inner.md5).check(member)
    except Refused as error:
        raise StudyError(f"{archive} holds '{inner.name}' of the {error}: it is not unpacked") from None
    within = opened.with_name(opened.name + "_inner")
    unpacked = extract(member, within, inner.unpack)
    place(within, tree / inner.into)
    return unpacked
