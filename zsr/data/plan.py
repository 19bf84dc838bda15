"""The files that fetching would download, as a list for a machine with a network; and a check that sources answer."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from zsr.data.fetching import hub
from zsr.data.fetching.download import AGENT
from zsr.data.fetching.imagenet_tars import needed
from zsr.data.registry import Entry, Source


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of one source.

    Attributes:
        set: key of the set.
        choice: 1 for the source that is tried first; the others are alternatives to it.
        kind: the kind of the source.
        status: the status of the source in the registry.
        file: the name that the file must have in the folder given to --from. Shards lie there in a folder with the
            repository's name. "": the files of the source are not known.
        urls: mirrors of the same bytes; (): a person has to get the file.
        size: the size in bytes; 0: unknown.
        sha256: the hash in hexadecimal; "": unknown.
        md5: the hash in hexadecimal; "": unknown.
        note: instructions for a person, where there is no address.
    """

    set: str
    choice: int
    kind: Literal["archive", "hub", "manual"]
    status: str
    file: str
    urls: tuple[str, ...] = ()
    size: int = 0
    sha256: str = ""
    md5: str = ""
    note: str = ""


def plan(sets: Iterable[Entry], split: str) -> list[dict]:
    """The files of all sources of a split, as JSON objects with the fields of Row. Leaves out dead sources.

    Uses no network.
    """
    rows = []
    for dataset in sets:
        serving = [source for source in dataset.sources if split in source.splits and source.status != "dead"]
        for choice, source in enumerate(serving, 1):
            rows += [asdict(row) for row in _rows(dataset, source, split, choice)]
    return rows


def _rows(dataset: Entry, source: Source, split: str, choice: int) -> Iterator[Row]:
    common: dict[str, Any] = {"set": dataset.key, "choice": choice, "kind": source.kind}
    common |= {"status": source.status, "note": source.note}
    if source.kind == "hub":
        facts = hub.locked().get(source.repo, {"revision": hub.asked(source), "files": {}})
        files = facts["files"] or {name: {} for name in _shard_names(source)}
        for name, file in files.items():
            url = hub.address(source.repo, facts["revision"], name)
            known: dict[str, Any] = {"size": file.get("size", 0), "sha256": file.get("sha256", "")}
            yield Row(file=f"{source.folder}/{name}", urls=(url,), **known, **common)
        return
    for file in needed(source.files, split):
        yield Row(file=file.name, urls=file.urls, size=file.size, sha256=file.sha256, md5=file.md5, **common)
    if not source.files:
        yield Row(file="", **common)


def _shard_names(source: Source) -> tuple[str, ...]:
    """Names of a repository's files, as far as they are known without a request; else the patterns of the names."""
    if not source.shards:
        return source.include
    return ("classnames.txt", "test/nshards.txt", *(f"test/{n}.tar" for n in range(source.shards)))


def check(sets: Iterable[Entry], timeout: float = 30) -> Iterator[dict]:
    """Send a HEAD request to every address of the registry: set, url, status of the registry, answer, ok.

    ok: was the file there, in the size that the registry gives? An address that is known as dead need not answer.
    """
    for dataset in sets:
        for source in dataset.sources:
            for url, size in _addresses(source):
                answer = _head(url, size, timeout)
                yield {"set": dataset.key, "url": url, "status": source.status, "answer": answer, "ok": answer == "200"}


def _addresses(source: Source) -> Iterator[tuple[str, int]]:
    for file in source.files:
        yield from ((url, file.size) for url in file.urls)
    if source.kind == "hub":
        yield hub.address(source.repo, hub.asked(source), "README.md"), 0


def _head(url: str, size: int, timeout: float) -> str:
    request = Request(url, method="HEAD", headers={"User-Agent": AGENT})
    try:
        with urlopen(request, timeout=timeout) as response:
            length = response.headers.get("Content-Length", "")
            if size and length.isdecimal() and int(length) != size:
                return f"{length} bytes where {size} are expected"
            return str(response.status)
    except HTTPError as error:
        error.close()
        return f"HTTP {error.code}"
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or error) or type(error).__name__
