"""A stage that is a fork of a process with the libraries runs as it would by itself, and ends with who asked for it."""

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from stages.warm import serving
from tests.checkout import ROOT

STAGE = """
import os, sys, time
from pathlib import Path

if sys.argv[1] == "tell":
    print(Path.cwd().name, sys.argv[2:], os.environ.get("WORD"), "wave" in sys.modules, __name__)
    print("to stderr", file=sys.stderr)
    print(sys.stdin.read(), Path(sys.argv[0]).name)
elif sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
elif sys.argv[1] == "raise":
    raise RuntimeError("of the stage")
elif sys.argv[1] == "die":
    os.kill(os.getpid(), 9)
elif sys.argv[1] == "wait":
    Path("process").write_text(str(os.getpid()))
    time.sleep(60)
"""


def write_stages(folder: Path) -> Path:
    """A package `stages` with one stage, whose processes import a small library in place of torch and the others."""
    package = folder / "stages"
    package.mkdir()
    for name in ("__init__.py", "__main__.py", "warm.py"):
        (package / name).write_bytes((ROOT / "stages" / name).read_bytes())
    (folder / "zsr").mkdir()
    for name in ("__init__.py", "rounding.py"):
        (folder / "zsr" / name).write_bytes((ROOT / "zsr" / name).read_bytes())
    (package / "told.py").write_text(STAGE)
    text = (package / "warm.py").read_text()
    (package / "warm.py").write_text(re.sub(r"LIBRARIES = \(.*?\)", 'LIBRARIES = ("wave",)', text, count=1, flags=re.S))
    return package / "warm.py"


@pytest.fixture(scope="module")
def forking(tmp_path_factory):
    """Variables for stages that shall be forks of a process with the small library."""
    spec = spec_from_file_location("small_warm", write_stages(tmp_path_factory.mktemp("forking")))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serving() as variables:
        yield variables


@pytest.fixture
def ask(tmp_path, forking):
    """(arguments of the stage, variables) -> the process that asked, in a folder with its own package `stages`."""
    write_stages(tmp_path)

    def start(*arguments: str, **variables: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-B", "-m", "stages", "told", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, env=os.environ | forking | variables, **pipes)

    return start


@pytest.mark.parametrize("variables", [{}, {"ZSR_WARM": "/nowhere"}, {"OMP_DYNAMIC": "true"}])
def test_a_stage_sees_the_same_from_a_fork_and_by_itself(ask, tmp_path, variables):
    """By itself: where no process is there, or where its libraries have read other variables."""
    out, err = ask("tell", "a b", "ü", WORD="given", **variables).communicate("typed")
    loaded = not variables
    assert out == f"{tmp_path.name} ['a b', 'ü'] given {loaded} __main__\ntyped told.py\n" and err == "to stderr\n"


@pytest.mark.parametrize("variables", [{}, {"ZSR_WARM": "/nowhere"}])
@pytest.mark.parametrize(
    ("arguments", "status"), [(("exit", "0"), 0), (("exit", "3"), 3), (("raise",), 1), (("die",), -9)]
)
def test_a_stage_ends_as_it_would_by_itself(ask, arguments, status, variables):
    process = ask(*arguments, **variables)
    _, err = process.communicate()
    assert process.returncode == status
    assert ("RuntimeError: of the stage" in err) == (arguments == ("raise",))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stage_ends_with_who_asked_for_it(ask, tmp_path, how):
    process, told = ask("wait"), tmp_path / "process"
    while not (told.exists() and told.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    fork = int(told.read_text())
    assert fork != process.pid
    process.send_signal(how)
    process.wait()  # `communicate` would wait for the fork, which has the same pipes
    deadline = time.monotonic() + 10
    while Path(f"/proc/{fork}").exists():
        assert time.monotonic() < deadline, "the fork is still there"
        time.sleep(0.01)
    assert "Traceback" not in process.communicate()[1]


DVC = """
import subprocess, sys
from pathlib import Path

told = [sys.executable, "-B", "-m", "stages", "told", "tell"]
first = subprocess.run(told, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
print(first, subprocess.run(told, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout)
"""


@pytest.mark.parametrize("variables", [{}, {"ZSR_WARM": ""}])
def test_the_first_stage_of_a_dvc_starts_a_process_for_the_others_which_ends_with_that_dvc(ask, tmp_path, variables):
    """With ZSR_WARM= there is no such process. What a killed one has left goes."""
    with subprocess.Popen(["true"]) as killed:
        left = tmp_path / f"zsr-{os.getuid()}-{killed.pid}"
    left.mkdir()
    (tmp_path / "dvc").write_text(DVC)
    environment = {k: v for k, v in os.environ.items() if k != "ZSR_WARM"} | {"TMPDIR": str(tmp_path)} | variables
    command = [sys.executable, "dvc"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as dvc:
        folder = tmp_path / f"zsr-{os.getuid()}-{dvc.pid}"
        said = dvc.stdout.read()
    forked = not variables
    assert said.count(" None False __main__") == 2 - forked and said.count(" None True __main__") == forked
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists() and left.exists() == (not forked)


def test_where_there_can_be_no_socket_a_stage_imports_by_itself(ask, tmp_path):
    """The path of a socket may have 107 bytes. The temporary folder of a cluster's job may be longer."""
    (tmp_path / "dvc").write_text(DVC)
    long = tmp_path / ("x" * 108)
    long.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "ZSR_WARM"} | {"TMPDIR": str(long)}
    told = subprocess.run([sys.executable, "dvc"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.stdout.count(" None False __main__") == 2 and not list(long.glob("zsr-*"))


def test_where_there_can_be_no_socket_a_run_has_no_process(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 108)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with serving() as variables:
        assert variables == {}
    assert not list(long.iterdir())
