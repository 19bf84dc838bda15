"""Merge the dvc.lock files of two machines that ran different stages of one study: git's merge driver for dvc.lock."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from stages.command import EXISTING
from zsr import files
from zsr.cli.running import OneLine
from zsr.params import StudyError

ADVICE = "git merge --abort, then merge with --keep ours or --keep theirs, see docs/many_gpus.md"
Stages = Mapping[str, Mapping[str, Any]]


@click.command(cls=OneLine)
@click.option("--keep", type=click.Choice(["ours", "theirs"]), help="Whose stage stays where the two contradict.")
@click.argument("base", type=EXISTING)
@click.argument("ours", type=EXISTING)
@click.argument("theirs", type=EXISTING)
@click.argument("name", default="dvc.lock")
def main(keep: str | None, base: Path, ours: Path, theirs: Path, name: str) -> None:
    """Write to OURS every stage that OURS or THEIRS ran after BASE, the lock from which both began.

    \b
    $ git config merge.dvc-lock.driver "python -m stages.merge_locks %O %A %B %P"

    makes every `git merge` and `git pull` of this clone do so. NAME is what messages call the file. Where the two
    machines contradict each other, one line says at which stage, OURS stays as it is, and git reports a conflict. With
    --keep nothing is refused, and the next `dvc repro` runs what was made from the stage that was dropped.
    """
    from dvc.utils.serialize import dumps_yaml

    locks = [_document(path) for path in (base, ours, theirs)]
    try:
        merged = merge(*(lock.get("stages") or {} for lock in locks), keep=keep)
    except StudyError as error:
        raise StudyError(f"{name}: {error}; {ADVICE}") from None
    files.write_atomic(ours, dumps_yaml({"schema": "2.0"} | locks[1] | {"stages": merged}).encode())


def merge(base: Stages, ours: Stages, theirs: Stages, keep: str | None = None) -> dict[str, Mapping[str, Any]]:
    """The stages of two locks that began as `base`. Each stage is as the machine left it that ran it.

    Raises StudyError where `keep` is None: both ran a stage, and differ; one ran a stage on an input that the other has
    made anew.
    """
    merged: dict[str, Mapping[str, Any]] = {}
    for stage in dict.fromkeys([*ours, *theirs]):
        before, here, there = (lock.get(stage) for lock in (base, ours, theirs))
        contradicts = here != before and there != before and here != there
        if contradicts and not keep:
            raise StudyError(f"stage {stage}: {_difference(here or {}, there or {})}")
        entry = there if here == before or (contradicts and keep == "theirs") else here
        if entry is not None:
            merged[stage] = entry
    made, made_before = _made(merged), [(lock, _made(lock)) for lock in (ours, theirs)]
    for stage, path, digest in _read(merged):
        holders = [paths for lock, paths in made_before if lock.get(stage) == merged[stage]]
        if not keep and made.get(path) != digest and all(paths.get(path) == digest for paths in holders):
            raise StudyError(f"stage {stage}: one machine ran it on a {path} that the other has made anew")
    return merged


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    if not ours or not theirs:
        return "one machine ran it, and the other removed it"
    for part, what in {"cmd": "command", "params": "params or code", "deps": "inputs"}.items():
        if ours.get(part) != theirs.get(part):
            return f"the machines ran it with different {what}"
    theirs_made = _made({"": theirs})
    paths = [path for path, digest in _made({"": ours}).items() if theirs_made.get(path) != digest]
    return f"from the same inputs the machines made a different {paths[0] if paths else 'list of outputs'}"


def _made(stages: Stages) -> dict[str, str]:
    """Digest by path of all outputs."""
    return {path: digest for entry in stages.values() for path, digest in _files(entry.get("outs") or [])}


def _read(stages: Stages) -> Iterator[tuple[str, str, str]]:
    """Stage, path and digest of all inputs."""
    for stage, entry in stages.items():
        for path, digest in _files(entry.get("deps") or []):
            yield stage, path, digest


def _files(listed: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for file in listed:
        yield file["path"], file.get("md5", "")


def _document(path: Path) -> dict[str, Any]:
    """A dvc.lock; an empty file, as git has it where the lock is new, has no stages."""
    from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml

    try:
        document = load_yaml(path) or {}
    except YAMLFileCorruptedError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("stages", {}), dict):
        raise StudyError(f"{path}: is no dvc.lock; git checkout brings the file of a commit back")
    return document


if __name__ == "__main__":
    main()
