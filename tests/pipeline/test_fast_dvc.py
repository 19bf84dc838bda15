"""The faster reading and writing of YAML gives DVC what its own gives."""

import io
import json
import os
import random
import subprocess
import sys

import pytest

from stages import fast_dvc
from tests.checkout import ROOT

LOCKS = (".", "studies/defences", "studies/frontier")  # the last one has lines that DVC folds
ODD = [
    *(
        "on",
        "~",
        "null",
        "1e3",
        "1_000",
        "0x1f",
        "12:30",
        "2020-01-01",
        "=",
        "<<",
        "- a",
        "? a",
        "a #b",
        "%",
        "@a",
        "*a",
    ),
    *("!c", "1.", ".5", ".nan", "a:", "a: b", " a", "a ", "", "'a", 'a"b', "a\\b", "a\nb", "\u00e9", "x" * 90),
]
NUMBERS = [0, -1, 10**20, 0.1, 1e-7, 1e16, 5e-324, float("inf"), float("nan"), True, None]


def written(write, data) -> str:
    stream = io.StringIO()
    write(data, stream)
    return stream.getvalue()


@pytest.mark.parametrize("study", LOCKS)
def test_a_lock_is_read_and_written_to_the_same_bytes(study):
    path = ROOT / study / "dvc.lock"
    assert written(fast_dvc.dump, fast_dvc.parsed_for_update(path.read_text(), path)) == path.read_text()


def test_whatever_stands_in_params_is_written_as_dvc_writes_it():
    chance = random.Random(0)

    def value(depth: int):
        kind = chance.random() if depth < 3 else 1.0
        if kind < 0.2:
            return {str(leaf()): value(depth + 1) for _ in range(chance.randint(0, 3))}
        return [value(depth + 1) for _ in range(chance.randint(0, 3))] if kind < 0.3 else leaf()

    def leaf():
        letters = "".join(chr(chance.randint(32, 126)) for _ in range(chance.randint(0, 9)))
        return chance.choice([letters, letters, chance.choice(ODD), chance.choice(NUMBERS), chance.uniform(-1, 1)])

    fast = 0
    for _ in range(100):
        data = {"schema": "2.0", "stages": {"a": {"cmd": "b", "params": [value(0) for _ in range(3)]}}}
        text = written(fast_dvc.dump, data)
        assert text == written(fast_dvc._dump, data), data
        assert repr(fast_dvc.parsed(text, "dvc.lock")) == repr(fast_dvc._parse(text, "dvc.lock")), data
        fast += fast_dvc._is_simple(data)
    assert 20 < fast < 80  # both writers were at work


def test_what_was_read_once_is_a_copy_each_time(tmp_path):
    one, other = (fast_dvc.parsed("a: {b: [1]}", "params.yaml") for _ in range(2))
    one["a"]["b"].append(2)
    assert other == fast_dvc.parsed("a: {b: [1]}", "params.yaml") == {"a": {"b": [1]}}


PIPELINE = """\
stages:
  one:
    cmd: echo a > one.txt && cp params.yaml plain.txt
    deps: [given.txt]
    params: [n]
    outs: [one.txt, plain.txt: {cache: false}]
  two:
    cmd: cp one.txt two.txt && echo "{}" > m.json
    deps: [one.txt]
    outs: [two.txt]
    metrics: [m.json: {cache: false}]
  never:
    cmd: cp given.txt same.txt
    deps: [given.txt]
    outs: [same.txt: {cache: false}]
"""


@pytest.mark.slow
def test_an_experiment_has_the_commit_that_dvc_makes(tmp_path):
    def run(folder, *command):
        done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
        assert not done.returncode, done.stderr.decode()
        return done.stdout.decode()

    def experiment(folder, module):
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "params.yaml").write_text("n: 1\n")
        (folder / "given.txt").write_text("b\n")
        dvc = [sys.executable, "-m", module]
        for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "repro", "-q"], ["git", "add", "-A"]):
            run(folder, *command)
        run(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")
        (folder / "given.txt").write_text("c\n")
        run(folder, *dvc, "exp", "run", "-S", "n=2", "-n", "changed")
        commit = next((folder / ".git/refs/exps").rglob("changed")).read_text().strip()
        return run(folder, "git", "ls-tree", "-r", commit)

    trees = []
    for module in ("dvc", "stages.fast_dvc"):
        (tmp_path / module).mkdir()
        trees.append(experiment(tmp_path / module, module))
    assert trees[0] == trees[1] and all(name in trees[0] for name in ("plain.txt", "m.json", "given.txt", "same.txt"))
    assert "two.txt" not in trees[0].replace("dvc.lock", "")


@pytest.mark.skipif(sys.platform != "linux", reason="the states of processes are those of Linux")
def test_a_killed_dvc_holds_no_file_while_the_system_still_lists_its_process(tmp_path, monkeypatch):
    from dvc import rwlock
    from dvc.fs import localfs
    from dvc.lock import LockError

    monkeypatch.setattr(rwlock, "psutil", rwlock.psutil)

    def take() -> None:
        with rwlock.rwlock(str(tmp_path), localfs, "repro", [], [str(tmp_path / "code.yaml")], False):
            pass

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as killed:
        held = {"write": {str(tmp_path / "code.yaml"): {"pid": killed.pid, "cmd": "repro"}}, "read": {}}
        (tmp_path / "rwlock").write_text(json.dumps(held))
        fast_dvc.let_go_of_the_killed()
        with pytest.raises(LockError, match="busy"):
            take()  # it runs
        killed.kill()
        os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays listed
        take()
