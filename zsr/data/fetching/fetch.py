"""The public sets, downloaded or imported, checked, unpacked below one data root, and a receipt for each.

Below the root: `archives/<set>/` the files as downloaded, which may be deleted; `receipts/<set>.json`; `locks/`; and
the sets, each in the folder that the registry says, or in that of its shards.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from zsr.data.fetching import hub
from zsr.data.fetching.download import Arrived, Expected, Patience, Refused, Watch, download, require_space, unwatched
from zsr.data.fetching.imagenet_tars import needed, served
from zsr.data.fetching.install import install, link_or_copy
from zsr.data.registry import Entry, File, Source, entry
from zsr.errors import ParamError, StudyError
from zsr.files import claimed, read_json, write_json

COMMAND = "python -m stages.fetch"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user asked for.

    Attributes:
        root: the data root.
        split: of the sets.
        given: a folder that has the files already; None: they are downloaded.
        accepted: are the terms of gated sets accepted?
        patience: how long to put up with a mirror.
        watch: is told of the progress of a download.
        warn: is told in one line what could not be checked.
    """

    root: Path
    split: Literal["train", "test"] = "test"
    given: Path | None = None
    accepted: bool = False
    patience: Patience = Patience()
    watch: Watch = unwatched
    warn: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Outcome:
    """A line of the summary.

    Attributes:
        set: its key.
        source: where it came from: an address, a repository, or the folder that was there before.
        bytes: of the files that the set came in.
        state: what has become of it.
        fault: what to do where it failed; else "".
    """

    set: str
    source: str
    bytes: int
    state: Literal["fetched", "here before", "own copy", "failed"]
    fault: str = ""


def fetch_all(names: Iterable[str], wish: Wish) -> Iterator[Outcome]:
    """Fetch sets one after the other; one that fails does not stop the others. Raises ParamError for a wrong name."""
    for of in [entry(name) for name in names]:
        try:
            yield fetch(of, wish)
        except StudyError as error:
            yield Outcome(of.key, "", 0, "failed", str(error))


def fetch(of: Entry, wish: Wish) -> Outcome:
    """Make a split of a set lie below the root, from the first source that gives it; without a request where it does.

    A folder of the set that no receipt speaks of is the user's own and is left alone. Raises StudyError in one
    sentence: no source gave it, or a person has to get it.
    """
    if wish.split not in of.splits:
        raise ParamError(f"{of.key} has no split '{wish.split}' to fetch (it has: {', '.join(of.splits)})")
    with claimed(wish.root / "locks" / of.key):
        receipts = _receipts(of, wish.root)
        receipt = receipts.get(wish.split)
        if receipt and (wish.root / receipt["folder"]).is_dir():
            return _outcome(of, receipt, "here before")
        placing = _placing(of, wish.root)
        if not receipts and not placing.exists() and (own := _own_copy(of, wish)):
            wish.warn(f"{of.key}: {own} was there before and is not checked: move it away to fetch the set")
            return Outcome(of.key, str(own), 0, "own copy")
        source, receipt = _from_any(of, wish)
        receipts |= dict.fromkeys(served(source, wish.split), receipt)
        write_json(_receipt_path(of, wish.root), dict(sorted(receipts.items())))
        placing.unlink()
        return _outcome(of, receipt, "fetched")


def candidates(of: Entry, wish: Wish) -> list[Source]:
    """The sources to try, in order: those that machines can use, or those whose files a user's folder has."""
    serving = [source for source in of.sources if wish.split in source.splits]
    if wish.given:
        return [source for source in serving if _has(wish.given, source, wish.split)]
    if of.registration and not wish.accepted:
        return []
    return [source for source in serving if source.kind != "manual" and source.status != "dead"]


def _from_any(of: Entry, wish: Wish) -> tuple[Source, dict]:
    """The source that gave the set, and the receipt."""
    faults = []
    for source in candidates(of, wish):
        try:
            if source.kind == "hub":
                folder, receipt = source.folder, _from_hub(of, source, wish)
            else:
                folder, receipt = of.layout_root, _from_files(of, source, wish)
        except StudyError as error:
            faults.append(str(error))
        else:
            return source, {"folder": folder, "source": receipt}
    raise StudyError(_way_out(of, wish, faults))


def _from_hub(of: Entry, source: Source, wish: Wish) -> dict:
    return hub.fetch_shards(of, source, wish.root, _placing(of, wish.root), wish.given, wish.warn)


def _from_files(of: Entry, source: Source, wish: Wish) -> dict:
    files = needed(source.files, wish.split)
    archives = wish.root / "archives" / of.key
    missing = sum(file.size for file in files if not (archives / file.name).exists() and not wish.given)
    unpacked = sum(file.size for file in files if file.unpack != "none")
    require_space(wish.root, missing + unpacked, of.title)
    arrived = [_get(of, file, archives / file.name, wish) for file in files]
    counts = install(of, files, archives, wish.root, _placing(of, wish.root))
    listed = [{"name": file.name} | asdict(found) for file, found in zip(files, arrived)]
    return {"kind": "archive", "files": listed, "unpacked": asdict(counts)}


def _get(of: Entry, file: File, target: Path, wish: Wish) -> Arrived:
    expected = Expected(size=file.size, sha256=file.sha256, md5=file.md5)
    if not (file.sha256 or file.md5):
        wish.warn(f"{of.key}: no hash of {file.name} is known, so that only its size is checked")
    if target.exists() or not wish.given:
        return download(file.urls, target, expected, wish.patience, wish.watch)
    imported = target.with_name(target.name + ".import")
    link_or_copy(wish.given / file.name, imported)
    try:
        arrived = expected.check(imported)
    except Refused as error:
        imported.unlink()
        raise StudyError(f"{wish.given / file.name} has the {error}: get the file anew") from None
    imported.replace(target)
    return replace(arrived, url="imported")


def _has(given: Path, source: Source, split: str) -> bool:
    if source.kind == "hub":
        return (given / source.folder).is_dir()
    files = needed(source.files, split)
    return bool(files) and all((given / file.name).is_file() for file in files)


def _own_copy(of: Entry, wish: Wish) -> Path | None:
    folders = [of.layout_root, *(source.folder for source in of.sources if source.kind == "hub")]
    return next((wish.root / folder for folder in folders if (wish.root / folder).is_dir()), None)


def _receipt_path(of: Entry, root: Path) -> Path:
    return root / "receipts" / f"{of.key}.json"


def _placing(of: Entry, root: Path) -> Path:
    """A file that is there while a set is put in place: one found later tells of a kill before the receipt."""
    return root / "locks" / f"{of.key}.placing"


def _receipts(of: Entry, root: Path) -> dict:
    """The receipts of a set by split."""
    path = _receipt_path(of, root)
    return read_json(path) if path.exists() else {}


def _outcome(of: Entry, receipt: dict, state: Literal["fetched", "here before"]) -> Outcome:
    source = receipt["source"]
    urls = [file.get("url", "") for file in source["files"]]
    name = source.get("repo") or next(filter(None, urls), "files that were here")
    return Outcome(of.key, name, sum(file["size"] for file in source["files"]), state)


def _way_out(of: Entry, wish: Wish, faults: list[str]) -> str:
    """One sentence for a user who has to get a set by hand: what, from where, under which licence, and then what."""
    serving = [source for source in of.sources if wish.split in source.splits]
    names = [_names(source, wish) for source in serving if source.files]
    names += [f"the folder {source.folder}" for source in serving if source.kind == "hub"]
    notes = [source.note for source in serving if source.kind == "manual"]
    notes += [
        f"{_names(source, wish)}, whose address is dead: {source.note}" for source in serving if source.status == "dead"
    ]
    said = [f"{of.key} could not be fetched"]
    if wish.given and not faults:
        said.append(f"{wish.given} has nothing of it that is known (it may be {', or '.join(names)})")
    elif of.registration and not wish.accepted:
        said.append("its terms have to be accepted first (--accept-imagenet-terms)")
    said += [*faults, *notes, f"licence: {of.licence or 'none stated'} {of.licence_url}".strip()]
    return "; ".join(said) + f"; then {COMMAND} {of.key} --from FOLDER, or lay it out as {wish.root / of.layout_root}"


def _names(source: Source, wish: Wish) -> str:
    return " and ".join(file.name for file in needed(source.files, wish.split))
