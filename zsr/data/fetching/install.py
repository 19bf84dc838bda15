"""Checked files are unpacked in a staging folder, and then put in place all at once."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from zsr.data.fetching import imagenet_tars
from zsr.data.fetching.download import Expected, Refused
from zsr.data.fetching.unpack import Unpacked, extract
from zsr.data.outside import hidden
from zsr.data.registry import Entry, File, Inner
from zsr.data.tars import BadArchive
from zsr.files import require_space, write_atomic, writing
from zsr.params import StudyError

MEMBERS_AN_IMAGE, MEMBERS = 10, 10_000  # the archives of a set may hold masks and notes, and images that are not used


def install(dataset: Entry, files: Sequence[File], archives: Path, root: Path, placing: Path) -> Unpacked:
    """Unpack a source's files, which lie in `archives`, and put the members below root where the registry says.

    Until all files are unpacked, only the folder `.staging` is added below root. Then `placing` is written, and the
    members are moved. Raises BadArchive: an archive is refused; the set's folder did not come out, or another one did.
    Raises StudyError: no room.
    """
    size = sum((archives / file.name).stat().st_size for file in files if file.unpack != "none")
    require_space(root, size, f"unpacking {dataset.title}")
    members = MEMBERS_AN_IMAGE * sum(dataset.splits.values()) + MEMBERS
    staging = root / ".staging" / dataset.key
    shutil.rmtree(staging, ignore_errors=True)
    try:
        tree = staging / "tree"
        tree.mkdir(parents=True)
        counts = [
            _open(file, archives / file.name, staging / f"opened_{n}", tree, members) for n, file in enumerate(files)
        ]
        if dataset.key == imagenet_tars.KEY:
            counts = [imagenet_tars.sort(tree / dataset.layout_root)]
        if not (tree / dataset.layout_root).is_dir():
            names = ", ".join(file.name for file in files)
            raise BadArchive(
                f"{names} of {dataset.title} held no folder {dataset.layout_root}: the registry describes other files"
            )
        _keep_own(tree, dataset, files)
        write_atomic(placing, b"")
        place(tree, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Unpacked(files=sum(count.files for count in counts), bytes=sum(count.bytes for count in counts))


def _keep_own(tree: Path, dataset: Entry, files: Sequence[File]) -> None:
    """Only the set's own folder may come out of its archives: not that of another set, and no receipt."""
    own = Path(dataset.layout_root).parts[0]
    for path in sorted(tree.iterdir()):
        if path.name != own and not hidden(path.name):
            names = ", ".join(file.name for file in files)
            raise BadArchive(f"{names} of {dataset.title} held {path.name!a} beside the set's folder {own}: refused")
        if path.name != own:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def place(source: Path, target: Path) -> None:
    """Move a folder or file to `target`. Into an existing folder parts are moved one by one, over those of one name."""
    if source.is_dir() and target.is_dir():
        for child in sorted(source.iterdir()):
            place(child, target / child.name)
    elif target.is_dir() or (source.is_dir() and os.path.lexists(target)):
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
        require_space(target.parent, source.stat().st_size, f"a copy of {source}")
        with writing(target, source.stat().st_size), source.open("rb") as given, target.open("xb") as copy:
            shutil.copyfileobj(given, copy, 2**20)


def _open(file: File, archive: Path, opened: Path, tree: Path, members: int) -> Unpacked:
    """Put the members of a file, or the file itself, into the tree."""
    if file.unpack == "none":
        link_or_copy(archive, tree / file.into / file.name)
        return Unpacked(files=1, bytes=archive.stat().st_size)
    unpacked = extract(archive, opened, file.unpack, members=members)
    if file.inner:
        return _open_inner(file.inner[0], archive, opened, tree, members)
    place(opened, tree / file.into)
    return unpacked


def _open_inner(inner: Inner, archive: Path, opened: Path, tree: Path, members: int) -> Unpacked:
    member = opened / inner.name
    if not member.is_file():
        raise BadArchive(f"{archive} has no member '{inner.name}': the registry describes another file")
    try:
        Expected(size=inner.size, sha256=inner.sha256, md5=inner.md5).check(member)
    except Refused as error:
        raise BadArchive(f"{archive} holds '{inner.name}' of the {error}: it is not unpacked") from None
    within = opened.with_name(opened.name + "_inner")
    unpacked = extract(member, within, inner.unpack, members=members)
    place(within, tree / inner.into)
    return unpacked
