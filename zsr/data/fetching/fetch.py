"""The public sets are downloaded or imported, checked, and unpacked below one data root. Each set gets a receipt.

The data root holds `archives/<set>/` with the files as downloaded, which may be deleted; `receipts/<set>.json`;
`locks/`; and the sets, each in the folder that the registry gives, or in the folder of its shards.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from zsr.data.fetching import hub
from zsr.data.fetching.download import Arrived, Expected, Refused, Watch, download, put_aside
from zsr.data.fetching.imagenet_tars import needed, served
from zsr.data.fetching.install import install, link_or_copy
from zsr.data.fetching.wish import SetWatch, Wish
from zsr.data.registry import DIGITS, Entry, File, Source, entry
from zsr.data.tars import BadArchive
from zsr.files import claimed, read_json, require_space, write_json
from zsr.params import ParamError, StudyError, require_plain

COMMAND = "python -m zsr fetch"


@dataclass(frozen=True)
class Outcome:
    """A line of the summary.

    Attributes:
        set: the key of the set.
        source: the source of the set: an address, a repository, or the folder that was there before.
        bytes: total size of the files of the source.
        state: the result.
        fault: what to do where the set failed; else "".
    """

    set: str
    source: str
    bytes: int
    state: Literal["fetched", "here before", "own copy", "failed"]
    fault: str = ""


def fetch_all(names: Iterable[str], request: Wish) -> Iterator[Outcome]:
    """Fetch sets one after the other. A set that fails does not stop the others. Raises ParamError for a wrong name."""
    for dataset in [entry(name) for name in names]:
        try:
            yield fetch(dataset, request)
        except StudyError as error:
            yield Outcome(dataset.key, "", 0, "failed", str(error))


def fetch(dataset: Entry, request: Wish) -> Outcome:
    """Put a split of a set below the root, from the first source that gives it; no request where the split is there.

    A folder of the set without a receipt belongs to the user and is left alone. A folder with a receipt of files that
    the registry knows by another hash by now gives way to the new files. Raises StudyError in one sentence: no source
    gave the split, or a person has to get it.
    """
    if request.split not in dataset.splits:
        raise ParamError(f"{dataset.key} has no split '{request.split}' to fetch (it has: {', '.join(dataset.splits)})")
    with claimed(request.root / "locks" / dataset.key):
        receipts = _receipts(dataset, request.root)
        if outdated := _outdated(dataset, receipts.get(request.split)):
            receipts = _make_way(dataset, receipts, outdated, request)
        receipt = receipts.get(request.split)
        if receipt and (request.root / receipt["folder"]).is_dir():
            return _outcome(dataset, receipt, "here before")
        placing = _placing(dataset, request.root)
        if not receipts and not placing.exists() and (users_copy := _users_copy(dataset, request)):
            request.warn(
                f"{dataset.key}: {users_copy} was there before and is not checked: move it away to fetch the set"
            )
            return Outcome(dataset.key, str(users_copy), 0, "own copy")
        source, receipt = _from_any(dataset, request)
        receipts |= dict.fromkeys(served(source, request.split), receipt)
        write_json(_receipt_path(dataset, request.root), dict(sorted(receipts.items())))
        placing.unlink()
        return _outcome(dataset, receipt, "fetched")


def candidates(dataset: Entry, request: Wish) -> list[Source]:
    """The sources to try, in order: the sources that a machine can use, or those whose files the user's folder has."""
    serving = [source for source in dataset.sources if request.split in source.splits]
    if request.given:
        return [source for source in serving if _has(request.given, source, request.split)]
    if dataset.registration and not request.accepted:
        return []
    return [source for source in serving if source.kind != "manual" and source.status != "dead"]


def _from_any(dataset: Entry, request: Wish) -> tuple[Source, dict]:
    """The first source that gives the set, and the receipt."""
    faults = []
    for source in candidates(dataset, request):
        try:
            if source.kind == "hub":
                placing = _placing(dataset, request.root)
                folder, receipt = source.folder, hub.fetch_shards(dataset, source, request, placing)
            else:
                folder, receipt = dataset.layout_root, _from_files(dataset, source, request)
        except StudyError as error:
            faults.append(str(error))
        else:
            return source, {"folder": folder, "source": receipt}
    raise StudyError(_way_out(dataset, request, faults))


def _from_files(dataset: Entry, source: Source, request: Wish) -> dict:
    files = needed(source.files, request.split)
    archives = request.root / "archives" / dataset.key
    missing = sum(file.size for file in files if not (archives / file.name).exists() and not request.given)
    unpacked = sum(file.size for file in files if file.unpack != "none")
    require_space(request.root, missing + unpacked, dataset.title)
    progress = SetWatch(dataset.key, request.watch, {file.name: file.size for file in files}, archives)
    arrived = [_get(dataset, file, archives / file.name, request, progress.of(file.name)) for file in files]
    try:
        counts = install(dataset, files, archives, request.root, _placing(dataset, request.root))
    except BadArchive as error:  # of a file with a hash, the registry is wrong; any other may be a page, or cut
        aside = [put_aside(archives / file.name) for file in files if not (file.sha256 or file.md5)]
        kept = "; what came is kept as " + ", ".join(map(str, aside)) if aside else ""
        raise StudyError(f"{error}{kept}") from None
    listed = [{"name": file.name} | asdict(arrival) for file, arrival in zip(files, arrived)]
    return {"kind": "archive", "files": listed, "unpacked": asdict(counts)}


def _get(dataset: Entry, file: File, target: Path, request: Wish, watch: Watch) -> Arrived:
    expected = Expected(size=file.size, sha256=file.sha256, md5=file.md5)
    if not expected.has_hash:
        request.warn(f"{dataset.key}: no hash of {file.name} is known, so that only its size is checked")
    if target.exists() or not request.given:
        return download(file.urls, target, expected, request.patience, watch)
    imported = target.with_name(target.name + ".import")
    link_or_copy(request.given / file.name, imported)
    try:
        arrived = expected.check(imported)
    except Refused as error:
        imported.unlink()
        raise StudyError(f"{request.given / file.name} has the {error}: get the file anew") from None
    imported.replace(target)
    return replace(arrived, url="imported")


def _has(given: Path, source: Source, split: str) -> bool:
    if source.kind == "hub":
        return (given / source.folder).is_dir()
    files = needed(source.files, split)
    return bool(files) and all((given / file.name).is_file() for file in files)


def _users_copy(dataset: Entry, request: Wish) -> Path | None:
    folders = [dataset.layout_root, *(source.folder for source in dataset.sources if source.kind == "hub")]
    return next((request.root / folder for folder in folders if (request.root / folder).is_dir()), None)


def _receipt_path(dataset: Entry, root: Path) -> Path:
    return root / "receipts" / f"{dataset.key}.json"


def _placing(dataset: Entry, root: Path) -> Path:
    """A file that exists while a set is put in place. A file from an earlier run shows a kill before the receipt."""
    return root / "locks" / f"{dataset.key}.placing"


def _receipts(dataset: Entry, root: Path) -> dict:
    """The receipts of a set by split."""
    path = _receipt_path(dataset, root)
    require_plain(path)
    try:
        receipts = read_json(path) if path.exists() else {}
        whole = all(map(_is_whole, receipts.values()))
    except (ValueError, KeyError, TypeError, AttributeError, StudyError):
        whole = False
    if not whole:
        raise StudyError(f"{path} is damaged: delete it, and move away the set to fetch it again")
    return receipts


def _is_whole(receipt: dict) -> bool:
    """Does a receipt hold what is read of it, here and for the manifest of the stage download?"""
    source, folder = receipt["source"], Path(receipt["folder"])
    texts, sizes = [receipt["folder"]], []
    if source["kind"] == "hub":
        texts += [source["repo"], source["revision"]]
    for file in source["files"]:
        texts += [file["name"], file.get("url", ""), file.get("sha256") or file["git"]]
        sizes.append(file["size"])
    numbers = all(type(size) is int and size >= 0 for size in sizes)
    below = bool(folder.parts) and not folder.is_absolute() and ".." not in folder.parts
    return below and source["kind"] in ("archive", "hub") and numbers and all(isinstance(text, str) for text in texts)


def _outdated(dataset: Entry, receipt: dict | None) -> list[str]:
    """The files of a receipt that the registry knows by another hash, or the repository, where it names another commit.

    A file that the registry does not name any more is as good as it was.
    """
    if not receipt:
        return []
    made = receipt["source"]
    if made["kind"] == "hub":
        pins = [hub.pinned(source) for source in dataset.sources if source.repo == made["repo"]]
        return [made["repo"]] * bool(made["revision"] and pins and not made["revision"].startswith(tuple(pins)))
    known: dict[str, list[File]] = {}
    for file in (file for source in dataset.sources for file in source.files):
        known.setdefault(file.name, []).append(file)
    return [f["name"] for f in made["files"] if f["name"] in known and not any(_is_of(f, k) for k in known[f["name"]])]


def _is_of(received: dict, file: File) -> bool:
    """Does a file of a receipt have the hashes that the registry states?"""
    return all(getattr(file, kind) in ("", received.get(kind)) for kind in DIGITS)


def _make_way(dataset: Entry, receipts: dict, outdated: list[str], request: Wish) -> dict:
    """Move away what was made of outdated files, and return the receipts that stay.

    Shards become a part, of which the download keeps the files that are still right. The order of steps makes a kill
    between any two of them harmless.
    """
    old = receipts[request.split]
    folder, beside = request.root / old["folder"], f"{old['folder']}.replaced"
    if old["source"]["kind"] == "hub" and not (request.root / f"{old['folder']}.part").exists():
        beside = f"{old['folder']}.part"
    if folder.exists():
        shutil.rmtree(request.root / beside, ignore_errors=True)
        folder.replace(request.root / beside)
    for archive in (request.root / "archives" / dataset.key / name for name in outdated):
        if archive.is_file():
            put_aside(archive)
    names = ", ".join(outdated)
    said = f"{names} here is not that of the registry any more; what was made of it is now {beside}"
    request.warn(f"{dataset.key}: {said}")
    receipts = {split: receipt for split, receipt in receipts.items() if receipt["folder"] != old["folder"]}
    write_json(_receipt_path(dataset, request.root), receipts)
    return receipts


def _outcome(dataset: Entry, receipt: dict, state: Literal["fetched", "here before"]) -> Outcome:
    source = receipt["source"]
    urls = [file.get("url", "") for file in source["files"]]
    name = source.get("repo") or next(filter(None, urls), "files that were here")
    return Outcome(dataset.key, name, sum(file["size"] for file in source["files"]), state)


def _way_out(dataset: Entry, request: Wish, faults: list[str]) -> str:
    """One sentence for a user who has to get a set by hand: the files, their source, the licence and the next step."""
    serving = [source for source in dataset.sources if request.split in source.splits]
    names = [_names(source, request) for source in serving if source.files]
    names += [f"the folder {source.folder}" for source in serving if source.kind == "hub"]
    notes = [source.note for source in serving if source.kind == "manual"]
    notes += [
        f"{_names(source, request)}, whose address is dead: {source.note}"
        for source in serving
        if source.status == "dead"
    ]
    sentences = [f"{dataset.key} could not be fetched"]
    if request.given and not faults:
        sentences.append(f"{request.given} has nothing of it that is known (it may be {', or '.join(names)})")
    elif dataset.registration and not request.accepted:
        sentences.append("its terms have to be accepted first (--accept-imagenet-terms)")
    sentences += [*faults, *notes, f"licence: {dataset.licence or 'none stated'} {dataset.licence_url}".strip()]
    return (
        "; ".join(sentences)
        + f"; then {COMMAND} {dataset.key} --from FOLDER, or lay it out as {request.root / dataset.layout_root}"
    )


def _names(source: Source, request: Wish) -> str:
    return " and ".join(file.name for file in needed(source.files, request.split))
