"""The files of a set are put in place and verified, and a manifest says what was verified.

The manifest is what the pipeline stores of a download; the files themselves lie outside DVC. It holds no address, no
time and no path, so that the same files give the same bytes from any mirror, in any folder and on any machine. It also
holds a digest of what the registry says about reading the set, so that a correction there reaches the data.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from zsr import files
from zsr.data import registry
from zsr.data.registry import Entry, Source

FETCHING = "zsr.data.fetching.fetch"  # not in the digest of a stage: a verified file is the same, whatever code got it
ABSENT = "absent"  # the key of the reason, in the manifest of a set that is left out
LISTED = 4  # files of a source that are listed one by one; more are one line
MOST_REASON = 200  # characters
# What the registry says for people, or about where files are; the data do not depend on it.
NOT_READ = (
    *("title", "aliases", "layout", "download_gb", "licence", "licence_url", "registration", "redistributable"),
    *("citation", "known_issues", "md5_of", "sources"),
)
NOT_READ_OF_SOURCE = ("kind", "splits", "files", "revision", "include", "shards", "size", "status", "note")


def ensure(
    name: str,
    splits: Iterable[str],
    root: Path,
    watch: Callable[[str, int, int], None] = lambda name, have, total: None,
    warn: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Put the files of a set below the data root, unless they are there, and return the manifest.

    No request is sent where the files are there.

    Args:
        name: the name of the set.
        splits: the splits that are needed, of "train" and "test".
        root: the data root.
        watch: called with the progress of a download: file, bytes received, total bytes.
        warn: called with one line for everything that could not be checked.

    Raises:
        StudyError: no source gives the files, or a person has to get them.
    """
    if name in registry.local():
        return {"set": name, "backend": registry.local()[name].made}
    dataset, fetching = registry.entry(name), import_module(FETCHING)
    sources: list[dict[str, Any]] = []
    for split in sorted(splits):
        outcome = fetching.fetch(dataset, fetching.Wish(root=root, split=split, watch=watch, warn=warn))
        source = {"backend": "folder"} if outcome.state == "own copy" else _verified(dataset, root, split)
        same = next((known for known in sources if {**known, "splits": 0} == {**source, "splits": 0}), None)
        if same:
            same["splits"] += [split]
        else:
            sources.append({"splits": [split]} | source)
    return {"set": name, "entry": _reading(dataset), "sources": sources}


def left_out(name: str) -> dict[str, Any]:
    """The manifest of a set whose files cannot be had."""
    reason = "needs a registration" if registry.entry(name).registration else "no source gave its files"
    return {"set": name, ABSENT: reason}


def reason_of(manifest: Mapping) -> str:
    """The reason why a set is left out; "": the set is there."""
    return str(manifest.get(ABSENT, ""))[:MOST_REASON]


def take_in(name: str) -> str:
    """The command that takes in a set that was left out."""
    return f"dvc repro -f -s download@{name} && dvc repro"


def _verified(dataset: Entry, root: Path, split: str) -> dict[str, Any]:
    """What the receipt says of a split: the form of the files, their names, sizes and hashes."""
    source = files.read_json(root / "receipts" / f"{dataset.key}.json")[split]["source"]
    backend = "shards" if source["kind"] == "hub" else source["kind"]
    listed = [{"name": f["name"], "bytes": f["size"], "sha256": f.get("sha256") or f["git"]} for f in source["files"]]
    if len(listed) <= LISTED:
        return {"backend": backend, "files": listed}
    total = sum(file["bytes"] for file in listed)
    return {"backend": backend, "files": len(listed), "bytes": total, "sha256": files.json_digest(listed)}


def _reading(dataset: Entry) -> str:
    """A digest of what the registry says about reading a set. A mirror, a hash or a note more does not change it."""
    facts = {key: value for key, value in asdict(dataset).items() if key not in NOT_READ}
    return files.json_digest(facts | {"forms": [_form(source) for source in dataset.sources if source.kind == "hub"]})


def _form(source: Source) -> dict[str, Any]:
    return {key: value for key, value in asdict(source).items() if key not in NOT_READ_OF_SOURCE}
