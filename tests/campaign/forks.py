"""Commands of the project as forks of one warmed process, with limits on time, memory and the size of files.

A new interpreter spends five seconds on imports; a fork of a process that has them spends none. The process that forks
computes nothing itself, since threads of a computation do not survive a fork.
"""

import fcntl
import io
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import NoReturn

from stages.warm import end_after

LIMIT = 60  # seconds after which a command hangs
BUSY = 0.03  # of a processor: a command that gets as much on a busy machine has LIMIT seconds of computing
LONGEST = 10 * LIMIT  # seconds after which any command hangs
MEMORY = 3 * 2**30  # bytes of addresses that a command may add to those of the warmed process
FILE = 2**30  # bytes of the largest file that a command may write
LIBRARIES = (
    *("torch", "torchvision.datasets", "open_clip", "safetensors.torch", "sklearn.datasets", "scipy.io", "PIL.Image"),
    *("h5py", "tabulate", "tqdm", "click", "huggingface_hub", "matplotlib.pyplot"),
)
BAR = re.compile(r"\d+%\||\d % of \d+ images|\bit/s|\?it/s|: \d+it \[|[\d.]+[kMG]?B/s|\?B/s")
AT_WORK = re.compile(rf"{BAR.pattern}|[\d,]+ of [\d,]+ \w+, .* left|: at work for [\d,]+ s$")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Ended:
    """How a command ended. status: its exit status; negative: the signal that ended it. hung: it was ended by us."""

    status: int
    out: str
    err: str
    seconds: float
    hung: bool = False


@dataclass(frozen=True)
class Started:
    """A command that runs. pid: the process that was forked. outputs: files of its two streams, or ends of pipes."""

    pid: int
    outputs: tuple[Path | int, Path | int]
    began: float


def warm() -> None:
    """Import the libraries and the whole project, and parse its code for the digests of stages."""
    for name in LIBRARIES:
        with suppress(ImportError):
            import_module(name)
    for package in ("zsr", "zsr.cli", "zsr.data", "zsr.data.sets", "zsr.data.fetching", "zsr.models", "zsr.methods"):
        _import_all(package)
    for package in ("zsr.attacks", "zsr.evaluation", "zsr.measures", "zsr.reports", "zsr.training", "stages"):
        _import_all(package)
    from zsr import scratch

    modules = [f"stages.{module.name}" for module in iter_modules(import_module("stages").__path__)]
    scratch.code_digest(modules + [name for name in sys.modules if name.startswith("zsr.methods.")])
    from zsr.models.clip import library

    library().list_models()


def _import_all(package: str) -> None:
    import_module(package)
    for module in iter_modules(import_module(package).__path__):
        if not module.name.startswith("__"):
            import_module(f"{package}.{module.name}")


def run(command: Sequence[object], folder: Path, limit: float = LIMIT, **more: object) -> Ended:
    """Run a command to its end. command: ("stages", NAME, CELL...) or ("zsr", NAME, ARGUMENT...). more: of `start`."""
    return finished(start(command, folder, **more), limit)  # type: ignore[arg-type]


def start(
    command: Sequence[object],
    folder: Path,
    environment: Mapping[str, object] = {},
    before: Callable[[], object] = lambda: None,
    memory: int = MEMORY,
    largest: int = FILE,
) -> Started:
    """Fork this process, which becomes the command in the folder. before: called in the fork before the command."""
    number = len(list(folder.parent.glob(f".{folder.name}.*.out")))
    files = [folder.with_name(f".{folder.name}.{number}.{end}") for end in ("out", "err")]
    pipes = [_pipe() for _ in files] if largest < FILE else []  # the limit holds for files of output, too
    writers = [end for _, end in pipes] or [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for path in files]
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the fork has its own output and handlers
    began, pid = time.monotonic(), os.fork()
    if not pid:
        _become([str(part) for part in command], folder, environment, before, memory, largest, writers)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with suppress(OSError):
        os.setpgid(pid, pid)
    for end in writers:
        os.close(end)
    out, err = [end for end, _ in pipes] or files
    return Started(pid, (out, err), began)


def _pipe() -> tuple[int, int]:
    """A pipe that holds all that a command says."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2**20)
    os.set_blocking(reader, False)
    return reader, writer


def _text(output: Path | int) -> str:
    if isinstance(output, Path):
        content = output.read_bytes()
    else:
        try:
            content = os.read(output, 2**20)
        except BlockingIOError:
            content = b""
        os.close(output)
    return content.decode("utf-8", "backslashreplace")


def finished(started: Started, limit: float = LIMIT) -> Ended:
    """Wait for a command, which is ended after `limit` seconds.

    On a machine that others use, too, a second is not a second of computing. So a command that computes, and says
    nothing, gets as many seconds of computing. One that waits is ended on time, and so is one that says it is at work.
    """
    status = waited(started.pid, started.began + limit)
    until, had = time.monotonic(), computed(started.pid)
    while status is None and had < limit and until < started.began + LONGEST and not is_at_work(_said(started)):
        until = time.monotonic() + limit / 6
        status, before, had = waited(started.pid, until), had, computed(started.pid)
        if had - before < BUSY * limit / 6:
            break
    hung = status is None
    if hung:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1])
    out, err = map(_text, started.outputs)
    return Ended(status or 0, out, err, time.monotonic() - started.began, hung)


def computed(pid: int) -> float:
    """The seconds of computing of a child and its threads; 0.0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_at_work(err: str) -> bool:
    """Does the last line that a command has said tell that it is at work?"""
    return bool(AT_WORK.search(re.split(r"[\r\n]+", err.strip())[-1]))


def _said(started: Started) -> str:
    err = started.outputs[1]
    return err.read_text("utf-8", "backslashreplace") if isinstance(err, Path) else ""


def waited(pid: int, until: float) -> int | None:
    """The exit status of a child; None where it still runs at the time `until`."""
    pause = 0.002
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def call(function: Callable[[], object]) -> None:
    """Run a function in a fork, so that what it computes leaves no threads here. It must succeed."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        end_after(function)
    assert os.waitpid(pid, 0)[1] == 0, "a part of the campaign itself failed; its message is above"


def _become(
    command: list[str],
    folder: Path,
    environment: Mapping[str, object],
    before: Callable[[], object],
    memory: int,
    largest: int,
    writers: Sequence[int],
) -> NoReturn:
    def run() -> None:
        os.setpgid(0, 0)
        for one in SIGNALS:
            signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
        for number, descriptor in enumerate(writers, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "surrogateescape", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        os.chdir(folder)
        os.environ.update({name: str(value) for name, value in environment.items()})
        _limited(memory, largest)
        _alone()
        before()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _command(command)

    end_after(run)


def _limited(memory: int, largest: int) -> None:
    if memory and Path("/proc/self/statm").exists():
        had = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (had + memory, resource.RLIM_INFINITY))
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _alone() -> None:
    """A stage checks that it has loaded no module that its digest does not know; this process has loaded all."""
    from zsr import scratch

    scratch.loaded_files = lambda *_: set()  # type: ignore[assignment]


def _command(command: list[str]) -> None:
    kind, name, *arguments = command
    if kind == "stages":
        import_module(f"stages.{name}").main(args=arguments, prog_name=f"python -m stages.{name}")
    else:
        import_module("zsr.cli.main").main(args=[name, *arguments], prog_name="zsr")
