"""Shards on the Hugging Face Hub: pinned to a commit, checked file by file.

The Hub's client is asked for revisions, sizes and hashes. The files come by `download`, as archives do, so that a file
is continued where it stopped. The lock file hub_lock.json is not there: nobody with a network has written it
(`--lock`). Until then, the revision and the hashes are those that the Hub states at the time of the download, and a
warning says so.

For each repository the lock file has the full commit as "revision", and under "files" the "size" of each file with its
"sha256", or with its "git" object id where the Hub keeps the file in Git itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from zsr.data.fetching.download import Expected, Refused, download
from zsr.data.fetching.install import link_or_copy
from zsr.data.fetching.wish import SetWatch, Wish
from zsr.data.outside import hidden, printable, read_lines
from zsr.data.registry import Entry, Source, entries
from zsr.files import read_json, require_space, write_atomic, write_json
from zsr.params import StudyError

HOST = "https://huggingface.co"
LOCK = Path(__file__).with_name("hub_lock.json")
FULL = 40  # hexadecimal digits of a commit; the Hub does not accept fewer


def locked() -> dict:
    """The contents of the lock file, by repository; empty where there is no lock file. Raises StudyError: damaged."""
    facts = read_json(LOCK) if LOCK.exists() else {}
    if not isinstance(facts, dict) or not all(map(_are_facts, facts.values())):
        raise StudyError(f"{LOCK} is damaged: restore it with git, or write it anew with --lock")
    return facts


def _are_facts(facts: Any) -> bool:
    """Are these the commit of a repository, and for each file the size and a hash?"""
    if not isinstance(facts, dict) or not isinstance(facts.get("revision"), str):
        return False
    files = facts.get("files")
    return isinstance(files, dict) and all(_is_fact(name, file) for name, file in files.items())


def _is_fact(name: str, file: Any) -> bool:
    if not isinstance(file, dict) or type(file.get("size")) is not int or file["size"] < 0:
        return False
    hashes = [file[kind] for kind in ("sha256", "git") if kind in file]
    return _lies_inside(name) and bool(hashes) and all(isinstance(value, str) and value for value in hashes)


def address(repo: str, revision: str, name: str, kind: Literal["datasets/", ""] = "datasets/") -> str:
    """The address of a file of a repository. The variable HF_ENDPOINT names another host, as for the Hub's client.

    kind: the repository is one of data sets, or "" one of models.
    """
    return f"{_host()}/{kind}{repo}/resolve/{revision}/{name}"


def _host() -> str:
    """The address of the Hub. Raises StudyError where HF_ENDPOINT is none, on which the Hub's client fails."""
    host = os.environ.get("HF_ENDPOINT", HOST).rstrip("/")
    try:
        parts = urlsplit(host)
        right = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        right = False
    if not right:
        raise StudyError(f"HF_ENDPOINT is '{printable(host)}', must be an address such as {HOST}")
    return host


def offline() -> bool:
    """Does the user want no request, by the variable HF_HUB_OFFLINE of the Hub's client?"""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def token() -> str:
    """The user's secret for gated repositories: that of HF_TOKEN, or that of an earlier login; "" where is none."""
    from huggingface_hub import get_token

    return get_token() or ""


def pinned(source: Source) -> str:
    """The commit that a repository has to be at, maybe abbreviated; "" where any will do."""
    return locked().get(source.repo, {}).get("revision", source.revision)


def asked(source: Source) -> str:
    """The revision to ask for where the lock file has no revision."""
    return source.revision if len(source.revision) == FULL else "main"


def write_lock(warn: Callable[[str], None]) -> int:
    """Ask the Hub for every repository of the registry and write the lock file. Returns the number of its repositories.

    Where the Hub does not answer, the lock file keeps its facts of the repository, with a warning.
    """
    facts = locked()
    for dataset in entries().values():
        for source in dataset.sources:
            if source.kind == "hub":
                try:
                    facts[source.repo] = resolve(source)
                except StudyError as error:
                    warn(str(error))
    write_json(LOCK, dict(sorted(facts.items())))
    return len(facts)


def resolve(source: Source) -> dict:
    """The facts of one repository for the lock file, as of now. Raises StudyError where the Hub does not answer."""
    host = _host()
    from huggingface_hub import HfApi

    with _one_line(source.repo):
        api = HfApi(endpoint=host)
        revision = source.revision or "main"
        if source.revision and len(source.revision) < FULL:
            commits = [commit.commit_id for commit in api.list_repo_commits(source.repo, repo_type="dataset")]
            revision = next((commit for commit in commits if commit.startswith(revision)), "")
            if not revision:
                raise StudyError(f"{source.repo} has no commit {source.revision} any more: correct registry.yaml")
        info = api.dataset_info(source.repo, revision=revision, files_metadata=True)
        assert info.siblings is not None  # the list of files, which `files_metadata` asks for
        files = {file.rfilename: _facts(file) for file in info.siblings if _included(file.rfilename, source)}
        facts = {"revision": info.sha, "files": dict(sorted(files.items()))}
        if not _are_facts(facts):
            raise StudyError(f"the Hub does not say the commit of {source.repo}, or size and hash of each file")
        return facts


def fetch_shards(dataset: Entry, source: Source, request: Wish, placing: Path) -> dict:
    """Make the folder of a repository's shards below root, from the Hub or from a folder of that name in `given`.

    `placing` is written before the folder gets its final name. Returns the facts for the receipt. Raises StudyError: no
    answer; a file is missing or wrong; the numbers of shards or classes are not the announced ones.
    """
    folder = request.root / source.folder
    part = folder.with_name(folder.name + ".part")
    if folder.exists() and not part.exists():  # placed before a kill
        folder.replace(part)
    facts = locked().get(source.repo)
    if request.given:
        facts = facts or _unchecked(source, request.given / source.folder, request.warn)
        _import(source, facts, request.given / source.folder, part)
    else:
        facts = facts or _unlocked(source, request.warn)
        needed = sum(file["size"] for file in facts["files"].values()) - _bytes_in(part)
        require_space(request.root, needed, f"{dataset.title} from the Hub")
        _download(dataset, source, facts, part, request)
    _check_counts(dataset, source, facts, part)
    wanted = {part / name for name in facts["files"]}
    for path in list(part.rglob("*")):  # locks of `download`, for the set has one of its own; files of another commit
        if path.is_file() and path not in wanted:
            path.unlink()
    write_atomic(placing, b"")
    part.replace(folder)
    listed = [{"name": name} | file_facts for name, file_facts in facts["files"].items()]
    return {"kind": "hub", "repo": source.repo, "revision": facts["revision"], "files": listed}


def _download(dataset: Entry, source: Source, facts: dict, folder: Path, request: Wish) -> None:
    """Download the files that are not there yet. A file of another revision, which is there, gives way."""
    if offline():
        raise StudyError(f"{source.repo} is not downloaded, since HF_HUB_OFFLINE is set: give a folder with --from")
    sizes = {name: file["size"] for name, file in facts["files"].items()}
    progress = SetWatch(dataset.key, request.watch, sizes, folder)
    for name, file in facts["files"].items():
        if not _is_there(folder / name, _expected(file)):
            url = address(source.repo, facts["revision"], name)
            download([url], folder / name, _expected(file), request.patience, progress.of(name), token())


def _is_there(path: Path, expected: Expected) -> bool:
    """Is the expected file there? Another file, as of an earlier revision, is deleted."""
    try:
        return path.exists() and bool(expected.check(path))
    except Refused:
        path.unlink()
        return False


def _import(source: Source, facts: dict, given: Path, folder: Path) -> None:
    """Link or copy the files of a folder that a user supplied, and check each file."""
    for name, file in facts["files"].items():
        if not (given / name).is_file():
            raise StudyError(f"{source.repo}: there is no {given / name}: get the whole folder")
        link_or_copy(given / name, folder / name)
        try:
            _expected(file).check(folder / name)
        except Refused as error:
            (folder / name).unlink()
            raise StudyError(f"{given / name} has the {error}: get the file anew") from None


def _expected(file: dict) -> Expected:
    return Expected(size=file["size"], sha256=file.get("sha256", ""), git=file.get("git", ""))


def _check_counts(dataset: Entry, source: Source, facts: dict, folder: Path) -> None:
    """Compare the numbers of shards and of classes with those of the registry."""
    shards = sum(name.endswith(".tar") for name in facts["files"])
    announced = folder / "test" / "nshards.txt"
    said = "".join(read_lines(announced, 100)) if announced.exists() else ""
    expected = source.shards or (int(said) if said.isdecimal() else 0)
    if shards != expected:
        raise StudyError(
            f"{source.repo} has {shards} shards where {expected} are expected: it is not the set of the registry"
        )
    classes = len(read_lines(folder / "classnames.txt"))
    if classes != dataset.num_classes:
        raise StudyError(
            f"{source.repo} has {classes} classes where {dataset.title} has {dataset.num_classes}: it is another set"
        )


def _unlocked(source: Source, warn: Callable[[str], None]) -> dict:
    warn(
        f"{source.repo} is not in hub_lock.json: taken as the Hub has it at {source.revision or 'main'}, and checked "
        "against nothing but the Hub's own word; --lock pins it"
    )
    return resolve(source)


def _unchecked(source: Source, folder: Path, warn: Callable[[str], None]) -> dict:
    """Facts of a folder that a user supplied, where the lock file has no facts: the files as they are."""
    warn(f"{source.repo} is not in hub_lock.json: only the number of shards and of classes in {folder} is checked")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    arrived = {name: Expected().check(folder / name) for name in names if _included(name, source)}
    files = {name: {"size": file.size, "sha256": file.sha256} for name, file in arrived.items()}
    return {"revision": "", "files": files}


def _lies_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name.isprintable()


def _included(name: str, source: Source) -> bool:
    """Is a file of a repository needed? Raises StudyError for a name that leads out of the folder."""
    if not _lies_inside(name):
        raise StudyError(f"{source.repo} holds {name[:1000]!a}, which leads out of its folder: it is refused")
    return not any(map(hidden, PurePosixPath(name).parts)) and any(fnmatch(name, pattern) for pattern in source.include)


def _facts(file: Any) -> dict:
    if file.lfs is not None:
        return {"size": file.lfs["size"], "sha256": file.lfs["sha256"]}
    return {"size": file.size, "git": file.blob_id}


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """Turns any error of the Hub's client into one StudyError line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # the client passes on exceptions of its HTTP library, which differs by version
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])
        raise StudyError(
            f"{repo} could not be had from the Hub ({type(error).__name__}: {reason}): fetch again, finished files are "
            "kept; accept its terms and set HF_TOKEN if it is gated; or give a folder that has it with --from"
        ) from None
