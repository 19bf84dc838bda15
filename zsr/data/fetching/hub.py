"""Shards on the Hugging Face Hub: pinned to a commit, checked file by file.

The lock file hub_lock.json is not there: nobody with a network has written it (`--lock`). Until then, the revision and
the hashes are those that the Hub states at the time of the download, and a warning says so.

For each repository the lock file has the full commit as "revision", and under "files" the "size" of each file with its
"sha256", or with its "git" object id where the Hub keeps the file in Git itself.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from zsr.data.fetching.download import Expected, Refused
from zsr.data.fetching.install import link_or_copy
from zsr.data.outside import hidden, printable, read_lines
from zsr.data.registry import Entry, Source, entries
from zsr.files import read_json, require_space, write_atomic, write_json
from zsr.params import StudyError

LOCK = Path(__file__).with_name("hub_lock.json")
FULL = 40  # hexadecimal digits of a commit; the Hub does not accept fewer


def locked() -> dict:
    """The contents of the lock file, by repository; empty where there is no lock file."""
    return read_json(LOCK) if LOCK.exists() else {}


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
    from huggingface_hub import HfApi

    api = HfApi()
    with _one_line(source.repo):
        revision = source.revision or "main"
        if source.revision and len(source.revision) < FULL:
            commits = [commit.commit_id for commit in api.list_repo_commits(source.repo, repo_type="dataset")]
            revision = next((commit for commit in commits if commit.startswith(revision)), "")
            if not revision:
                raise StudyError(f"{source.repo} has no commit {source.revision} any more: correct registry.yaml")
        info = api.dataset_info(source.repo, revision=revision, files_metadata=True)
        assert info.siblings is not None  # the list of files, which `files_metadata` asks for
        files = {file.rfilename: _facts(file) for file in info.siblings if _included(file.rfilename, source)}
        return {"revision": info.sha, "files": dict(sorted(files.items()))}


def fetch_shards(
    dataset: Entry, source: Source, root: Path, placing: Path, given: Path | None, warn: Callable[[str], None]
) -> dict:
    """Make the folder of a repository's shards below root, from the Hub or from a folder of that name in `given`.

    `placing` is written before the folder gets its final name. Returns the facts for the receipt. Raises StudyError: no
    answer; a file is missing or wrong; the numbers of shards or classes are not the announced ones.
    """
    folder = root / source.folder
    part = folder.with_name(folder.name + ".part")
    if folder.exists() and not part.exists():  # placed before a kill
        folder.replace(part)
    facts = locked().get(source.repo)
    if given:
        facts = facts or _unchecked(source, given / source.folder, warn)
        for name in facts["files"]:
            if (given / source.folder / name).is_file():
                link_or_copy(given / source.folder / name, part / name)
    else:
        facts = facts or _unlocked(source, warn)
        needed = sum(file["size"] for file in facts["files"].values()) - _bytes_in(part)
        require_space(root, needed, f"{dataset.title} from the Hub")
        _snapshot(source, facts["revision"], part)
    _check(dataset, source, facts, part)
    shutil.rmtree(part / ".cache", ignore_errors=True)  # the Hub client's notes on unfinished files
    write_atomic(placing, b"")
    part.replace(folder)
    listed = [{"name": name} | file_facts for name, file_facts in facts["files"].items()]
    return {"kind": "hub", "repo": source.repo, "revision": facts["revision"], "files": listed}


def _snapshot(source: Source, revision: str, folder: Path) -> None:
    import huggingface_hub

    with _one_line(source.repo):
        huggingface_hub.snapshot_download(
            source.repo,
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(source.include),
            local_dir=folder,
        )


def _check(dataset: Entry, source: Source, facts: dict, folder: Path) -> None:
    """Check each file, since the client may return an unfinished folder without an error. A wrong file is deleted."""
    for name, file in facts["files"].items():
        if not (folder / name).is_file():
            raise StudyError(f"{source.repo}: {name} did not arrive: fetch again, finished files are kept")
        try:
            Expected(size=file["size"], sha256=file.get("sha256", "")).check(folder / name)
            if "git" in file and _git_object(folder / name) != file["git"]:
                raise Refused(f"wrong Git object id, expected is {file['git']}")
        except Refused as error:
            (folder / name).unlink()
            raise StudyError(f"{source.repo}: {name} has the {error}: it was deleted, fetch again") from None
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


def _included(name: str, source: Source) -> bool:
    """Is a file of a repository needed? Raises StudyError for a name that leads out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise StudyError(f"{source.repo} holds {name[:1000]!a}, which leads out of its folder: it is refused")
    return not any(map(hidden, path.parts)) and any(fnmatch(name, pattern) for pattern in source.include)


def _facts(file: Any) -> dict:
    if file.lfs is not None:
        return {"size": file.lfs["size"], "sha256": file.lfs["sha256"]}
    return {"size": file.size, "git": file.blob_id}


def _git_object(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


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
