"""The merge of two dvc.lock files: every stage as the machine left it that ran it, and no contradiction."""

import subprocess
import sys

import pytest
from dvc.utils.serialize import dump_yaml, load_yaml

from stages.merge_locks import main, merge
from tests.checkout import ROOT
from zsr.params import StudyError

ROW, OTHER = "train@fare", "evaluate@fare-pgd"


def entry(out: str, made: str, **read: str) -> dict:
    """A stage of a lock, with the digests of what it read and made."""
    deps = [{"path": path, "hash": "md5", "md5": digest} for path, digest in read.items()]
    return {"cmd": f"make {out}", "deps": deps, "outs": [{"path": out, "hash": "md5", "md5": made}]}


BASE = {"base_model": entry("base", "b0"), ROW: entry("model", "m0", base="b0"), "old": entry("old", "o0")}
NEW = {ROW: entry("model", "m1", base="b0"), OTHER: entry("records", "r1", model="m1")}


def without(stages: dict, name: str) -> dict:
    return {key: value for key, value in stages.items() if key != name}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    {
        "nothing was run": (BASE, BASE, BASE),
        "one ran a row": (BASE | NEW, BASE, BASE | NEW),
        "each ran a stage": (BASE | NEW, BASE | {"x": entry("x", "x1")}, BASE | NEW | {"x": entry("x", "x1")}),
        "both ran a row, to the same bytes": (BASE | NEW, BASE | NEW, BASE | NEW),
        "both made the base model, and one a row": (BASE | NEW, BASE, BASE | NEW),
        "a stage is gone": (without(BASE, "old"), BASE | NEW, without(BASE, "old") | NEW),
        "a row is to be judged anew": (BASE | {OTHER: entry("records", "r0", model="m1")},) * 2
        + (BASE | {OTHER: entry("records", "r0", model="m1")},),
    }.values(),
)
def test_each_stage_is_as_the_machine_left_it_that_ran_it(ours, theirs, merged, swapped):
    assert merge(BASE, *((theirs, ours) if swapped else (ours, theirs))) == merged


def test_a_row_that_one_machine_trained_anew_may_wait_for_its_evaluation():
    """The machine that trained it has not judged it yet, so its own lock says that the records are of another model."""
    before = BASE | {OTHER: entry("records", "r0", model="m0")}
    retrained = before | {ROW: entry("model", "m1", base="b0")}
    assert merge(before, before, retrained) == merge(before, retrained, before) == retrained


CONTRADICTIONS = {
    f"stage {ROW}: from the same inputs the machines made a different model": (
        BASE | {ROW: entry("model", "m1", base="b0")},
        BASE | {ROW: entry("model", "m2", base="b0")},
    ),
    f"stage {ROW}: the machines ran it with different inputs": (
        BASE | {ROW: entry("model", "m1", base="b1")},
        BASE | {ROW: entry("model", "m1", base="b2")},
    ),
    f"stage {ROW}: the machines ran it with different params or code": (
        BASE | {ROW: NEW[ROW] | {"params": {"params.yaml": {"seeds": [0]}}}},
        BASE | {ROW: NEW[ROW] | {"params": {"params.yaml": {"seeds": [1]}}}},
    ),
    "stage old: one machine ran it, and the other removed it": (
        BASE | {"old": entry("old", "o1")},
        without(BASE, "old"),
    ),
    f"stage {ROW}: one machine ran it on a base that the other has made anew": (
        BASE | NEW,
        BASE | {"base_model": entry("base", "b1")},
    ),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("message", "locks"), CONTRADICTIONS.items())
def test_a_contradiction_is_refused_in_one_line(message, locks, swapped):
    with pytest.raises(StudyError) as refused:
        merge(BASE, *reversed(locks) if swapped else locks)
    assert str(refused.value) == message


@pytest.mark.parametrize("locks", CONTRADICTIONS.values())
def test_of_a_contradiction_the_stage_that_is_to_be_kept_stays(locks):
    ours, theirs = locks
    changed = {name for name in BASE | NEW if ours.get(name) != theirs.get(name) and name in BASE}
    kept, other = merge(BASE, ours, theirs, keep="ours"), merge(BASE, ours, theirs, keep="theirs")
    if changed == {ROW} or changed == {"old"}:
        assert (kept, other) == (ours, theirs)
    else:  # no stage was run by both, so both stay, and DVC sees that the row is of an older base model
        assert kept == other == ours | {"base_model": theirs["base_model"]}


def test_an_empty_ancestor_is_a_lock_without_stages():
    assert merge({}, {ROW: NEW[ROW]}, {OTHER: NEW[OTHER]}) == NEW


def write(folder, **locks: dict) -> list[str]:
    for name, stages in locks.items():
        dump_yaml(folder / name, {"schema": "2.0", "stages": stages})
    return [str(folder / name) for name in locks]


def test_the_command_writes_ours_as_dvc_does_and_leaves_it_where_it_refuses(tmp_path, capsys):
    first, *_, last = CONTRADICTIONS.values()
    main(write(tmp_path, base=BASE, ours=BASE | NEW, theirs=BASE), standalone_mode=False)
    (tmp_path / "expected").touch()
    dump_yaml(tmp_path / "expected", {"schema": "2.0", "stages": BASE | NEW})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "expected").read_bytes()
    for ours, theirs in (first, last):
        paths = write(tmp_path, base=BASE, ours=ours, theirs=theirs)
        with pytest.raises(SystemExit) as end:
            main([*paths, "studies/paper/dvc.lock"])
        told = capsys.readouterr().err
        assert (
            end.value.code == 1 and told.count("\n") == 1 and told.startswith("Error: studies/paper/dvc.lock: stage ")
        )
        assert load_yaml(tmp_path / "ours")["stages"] == ours
    (tmp_path / "theirs").write_text("<<<<<<< HEAD\nstages: {}\n")
    with pytest.raises(SystemExit):
        main(paths)
    assert "theirs: is no dvc.lock" in capsys.readouterr().err


def test_git_merges_locks_by_the_command_where_it_is_told_to(tmp_path):
    """Two machines that added stages at one place: the text alone is a conflict."""

    def git(*arguments: str, code: int = 0) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(branch: str, stages: dict) -> None:
        git("checkout", "-q", "-B", branch, "main" if branch != "main" else "HEAD")
        write(tmp_path, **{"dvc.lock": stages})
        git("add", "--all")
        git("commit", "-q", "-m", branch)

    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "start")
    (tmp_path / ".gitattributes").write_text((ROOT / ".gitattributes").read_text())
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    (tmp_path / "zsr").symlink_to(ROOT / "zsr")
    commit("main", BASE)
    commit("one", BASE | {"x": entry("x", "x1")})
    commit("two", BASE | {"y": entry("y", "y1")})
    commit("three", BASE | {"x": entry("x", "x2")})
    git("config", "merge.dvc-lock.driver", f"{sys.executable} -m stages.merge_locks %O %A %B %P")
    assert "a different x; git merge --abort" in git("merge", "--no-edit", "one", code=1)
    git("merge", "--abort")
    git("merge", "--no-edit", "two")
    assert load_yaml(tmp_path / "dvc.lock")["stages"] == BASE | {"x": entry("x", "x2"), "y": entry("y", "y1")}
    keeping = f"merge.dvc-lock.driver={sys.executable} -m stages.merge_locks --keep theirs %O %A %B %P"
    git("-c", keeping, "merge", "--no-edit", "one")
    assert load_yaml(tmp_path / "dvc.lock")["stages"] == BASE | {"x": entry("x", "x1"), "y": entry("y", "y1")}
