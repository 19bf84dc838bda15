"""Outputs belong to one run: a stage holds a lock on them, and ends with the DVC that runs it."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from stages import command
from tests.checkout import ROOT
from zsr import files, scratch

STAGE = """
import os, time
from pathlib import Path
from stages.__main__ import _dvc
os.environ["ZSR_DVC"] = _dvc()
from stages.command import end_with_dvc
end_with_dvc()
Path("process").write_text(str(os.getpid()))
time.sleep(60)
"""


def there(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def end_of(process: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while there(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not there(process)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("parent, ends", [("dvc", True), ("by_hand", False)])
def test_a_stage_ends_when_its_dvc_alone_is_killed_and_outlives_any_other_parent(tmp_path, parent, ends):
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / parent).write_text(
        f"sh -c '{sys.executable} -B stage.py; true'; true\n"
    )  # as DVC does: through a shell
    started = subprocess.Popen(
        ["sh", str(tmp_path / parent)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )
    told = tmp_path / "process"
    while not (told.exists() and told.read_text()):
        assert started.poll() is None
        time.sleep(0.02)
    stage = int(told.read_text())
    started.send_signal(signal.SIGKILL)  # and not waited for: a zombie is gone, too
    try:
        assert end_of(stage, 20 if ends else 1) == ends
    finally:
        if there(stage):
            os.kill(stage, signal.SIGKILL)
        started.wait()
    assert (b"the dvc that ran this stage is gone" in started.stderr.read()) == ends


def test_nothing_is_written_once_the_run_is_gone(tmp_path, monkeypatch):
    def gone() -> None:
        raise SystemExit(1)

    files.write_atomic(tmp_path / "x", b"of the next run")
    monkeypatch.setattr(files, "BEFORE_WRITING", [gone])
    with pytest.raises(SystemExit):
        files.write_atomic(tmp_path / "x", b"late")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of the next run"]


def hold(folder, cell, held, go):
    os.chdir(folder)
    with command._outputs_held("train", cell):
        held.set()
        go.wait(20)
        files.write_atomic(Path("data/checkpoints/tecoa/2.safetensors"), b"late")


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Start a process that holds the outputs of train@tecoa, and writes one of them in the end; gives how to end it."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("fork")
    held, go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ["tecoa"], held, go))
    process.start()
    assert held.wait(20)
    yield lambda: (go.set(), process.pid)[1]
    go.set()
    process.join()


@pytest.mark.parametrize("by_dvc", [True, False])
def test_a_second_run_of_a_cell_waits_says_for_whom_and_begins_without_what_the_first_wrote(
    holder, monkeypatch, capsys, by_dvc
):
    monkeypatch.setenv(command.DVC, "1" if by_dvc else "")
    with command._outputs_held("train", ["fare"]):
        assert not capsys.readouterr().err  # another cell
    monkeypatch.setattr(files, "say", lambda line: (print(line, file=sys.stderr), holder()))
    with command._outputs_held("train", ["tecoa"]):
        assert Path("data/checkpoints/tecoa").exists() != by_dvc  # by hand nobody has deleted the outputs before
    [line] = capsys.readouterr().err.splitlines()
    assert re.match(r"Waiting for \S+/train-tecoa, which is held by process ", line)
    assert f"process {holder()} on " in line and " since 20" in line


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", [b"\xff", "\u00e4".encode(), b"two\nlines"])
def test_a_folder_or_an_argument_may_have_a_name_in_any_encoding(tmp_path, monkeypatch, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZSR_SCRATCH", str(folder / "kept"))
    monkeypatch.setattr(sys, "argv", ["zsr", "fetch", os.fsdecode(name)])
    for _ in range(2):  # the second reads what the first has left
        with command._outputs_held("train", ["tecoa"]) as waited:
            assert not waited
    [lock] = (folder / "kept").rglob("*.lock")
    assert b"(zsr fetch " in lock.read_bytes()


def test_the_outputs_of_a_cell_are_those_of_dvc_yaml(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.outputs("evaluate", ["tecoa", "pgd"]) == [Path("data/records/tecoa-pgd")]
    assert command.outputs("train", ["tecoa"]) == [Path("data/checkpoints/tecoa"), Path("metrics/curves/tecoa")]
    assert command.outputs("check", []) == [Path("data/params.ok"), Path("data/study.json")]


def test_a_stage_holds_its_outputs_while_it_runs_and_not_afterwards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    for name in ("loaded_files", "closure", "code_digest"):
        monkeypatch.setattr(scratch, name, lambda *given, **named: set())
    files.write_json(Path("params.yaml"), {"tables": []})
    seen = []

    def is_held() -> bool:
        [lock] = tmp_path.glob("scratch/*/stages/.tables.lock")
        with lock.open() as file:
            return not files._locked_at_once(file.fileno())

    result = CliRunner().invoke(command.stage("tables")(lambda document, code: seen.append(is_held())), [])
    assert result.exit_code == 0, result.output
    assert seen == [True] and not is_held()


@pytest.mark.parametrize("name", [[], ["nothing"], ["../check"], ["--help"]])
def test_a_stage_that_is_not_there_is_told_in_one_line(name):
    ended = subprocess.run([sys.executable, "-m", "stages", *name], cwd=ROOT, capture_output=True, text=True)
    line = f"Error: python -m stages must get the name of a stage, such as check, got {''.join(name)!r}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", line)
