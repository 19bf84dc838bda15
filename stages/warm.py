"""A process that has imported the libraries once, and forks itself for every stage. It needs no params and no DVC.

A stage spends five seconds of CPU on imports before it computes. `serving` starts this module as a process of its own;
`python -m stages NAME ...` asks that process for a fork, where the environment variable ZSR_WARM names its socket.
Where the variable is not set, the first stage that a DVC runs starts such a process for the stages after it (`beside`).
The fork takes over the arguments, the folder, the environment and the terminal of the process that asked, and runs the
stage's script as Python would. The project's own modules are imported after the fork, so the code is never older than
its files. Where the process is not there, or runs another Python, the stage runs without it.
"""

import ctypes
import importlib
import io
import json
import os
import re
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NoReturn, cast

from zsr import rounding

VARIABLE = "ZSR_WARM"  # the path of the socket
LIBRARIES = (
    "torch",
    "open_clip",
    "safetensors.torch",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "tabulate",
    "tqdm",
    "click",
    "psutil",
    "ruamel.yaml",
    "jinja2",
    "vl_convert",
)
# What libraries read when they are loaded: a stage whose variables differ cannot be a fork.
READ_AT_LOADING = (
    *("OMP_", "GOMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_", "DNNL_", "NPY_"),
    *("TORCH_", "PYTORCH_", "CUDA_", "NVIDIA_", "LD_"),
)
LENGTH = 8  # bytes before a request that say how long it is
ENDS_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """Run the process while the context lasts. Yields the environment variables for the stages that shall use it.

    There is no process, and there are no variables, where a fork of loaded libraries may fail: outside of Linux. Nor
    where there can be no socket: the path of the temporary folder is too long for one, or its disk is full.
    """
    with ExitStack() as stack:
        listener = None
        if sys.platform == "linux":
            with suppress(OSError):
                _sweep()
                folder = tempfile.TemporaryDirectory(prefix=f"zsr-{os.getuid()}-{os.getpid()}-")
                listener = _listener(Path(stack.enter_context(folder), "socket"))
        if listener is None:
            yield {}
            return
        stack.enter_context(listener)
        command = [sys.executable, "-B", "-m", "stages.warm", str(listener.fileno())]
        root = Path(__file__).resolve().parents[1]
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
        try:
            yield {VARIABLE: listener.getsockname()}
        finally:
            process.kill()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]


def beside(dvc: str) -> str:
    """The socket of the process for the stages of one DVC; "": there was none yet, and now one is importing.

    The process ends with that DVC. Only its user may ask it. There is none where `serving` has none.

    Args:
        dvc: the number of the process of DVC.
    """
    if sys.platform != "linux":
        return ""
    with suppress(OSError):
        return _beside(dvc, Path(tempfile.gettempdir(), f"zsr-{os.getuid()}-{dvc}"))
    return ""


def _beside(dvc: str, folder: Path) -> str:
    folder.mkdir(mode=0o700, exist_ok=True)
    if (found := folder.stat()).st_uid != os.getuid() or found.st_mode & 0o077:
        return ""  # somebody else has made it
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.connect(str(path))
        return str(path)
    path.unlink(missing_ok=True)
    try:
        listener = _listener(path)
    except OSError:
        folder.rmdir()
        raise
    with listener:
        command = [sys.executable, "-B", "-m", "stages.warm", str(listener.fileno()), dvc, str(folder)]
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        root = Path(__file__).resolve().parents[1]
        subprocess.Popen(command, cwd=root, pass_fds=[listener.fileno()], start_new_session=True, **silent)
    _sweep()
    return ""


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _sweep() -> None:
    """Remove the folders of sockets whose processes were killed: whoever asks there is gone, too."""
    named = re.compile(rf"zsr-{os.getuid()}-([0-9]{{1,9}})(-.*)?")
    for folder in Path(tempfile.gettempdir()).iterdir():
        if (found := named.fullmatch(folder.name)) and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def asked(arguments: list[str]) -> int | None:
    """The exit status of a stage that a fork has run; None where no fork can run the stage.

    Args:
        arguments: the name of the stage and the keys of its cell.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ[VARIABLE])
            request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "path": sys.path}
            message = json.dumps(request | {"python": _python()}).encode()
            socket.send_fds(connection, [len(message).to_bytes(LENGTH, "big")], [0, 1, 2])
            connection.sendall(message)
            answer = connection.makefile().read()
        except (OSError, KeyError):
            return None
    if not answer:
        print("Error: the process that ran this stage is gone; run the same command again", file=sys.stderr)
        return 1
    status = json.loads(answer)
    if status is not None and status < 0:
        os.kill(os.getpid(), -status)  # the fork was killed by this signal
    return status


def _python() -> list[str]:
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(READ_AT_LOADING))
    return [sys.executable, sys.version, *settings]


def _serve(listener: socket.socket, alive: Callable[[], bool] | None = None) -> None:
    """Answer requests until the process that started this one ends, which closes stdin.

    alive: asked every second in place of stdin: shall this process go on?
    """
    for name in LIBRARIES:
        with suppress(ImportError):
            __import__(name)
    packages = metadata.packages_distributions()  # the digest of code asks for them; each time takes 0.2 s
    metadata.packages_distributions = lambda: packages  # type: ignore[assignment]
    running: dict[int, socket.socket] = {}  # the process of a fork -> who asked for it
    waker, wakened = socket.socketpair()
    wakened.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked; the fork ends with it
    with selectors.DefaultSelector() as selector:
        for source in (listener, wakened, *([] if alive else [sys.stdin])):
            selector.register(source, selectors.EVENT_READ)
        while True:
            events = selector.select(1 if alive else None)
            if alive and not alive():
                return _end(running)
            for key, _ in events:
                if key.fileobj is sys.stdin:
                    return _end(running)
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    if process := _forked(connection, [listener, wakened, waker, *running.values()]):
                        running[process] = connection
                        selector.register(connection, selectors.EVENT_READ)
                elif key.fileobj is wakened:
                    with suppress(BlockingIOError):
                        wakened.recv(4096)
                else:  # who asked has gone
                    process = next(process for process, asker in running.items() if asker is key.fileobj)
                    selector.unregister(key.fileobj)
                    with suppress(ProcessLookupError):
                        os.killpg(process, signal.SIGKILL)
            for process, status in _ended():
                connection = running.pop(process)
                with suppress(KeyError):
                    selector.unregister(connection)
                _answer(connection, status)


def _ended() -> Iterator[tuple[int, int]]:
    """The forks that have ended, with their exit status."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not process:
            return
        yield process, os.waitstatus_to_exitcode(status)


def _answer(connection: socket.socket, status: int | None) -> None:
    with suppress(OSError):
        connection.sendall(json.dumps(status).encode())
    connection.close()


def _end(running: dict[int, socket.socket]) -> None:
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def _forked(connection: socket.socket, others: list[socket.socket]) -> int | None:
    """Fork a process for a request. Returns its number; None where the request was refused, and answered."""
    length, descriptors, _, _ = socket.recv_fds(connection, LENGTH, 3)
    with connection.makefile("rb") as file:
        message = file.read(int.from_bytes(length, "big"))
    request = json.loads(message) if message else {}  # nothing where who asked was killed at once
    if request.get("python") != _python():
        for descriptor in descriptors:
            os.close(descriptor)
        return _answer(connection, None)
    process = os.fork()
    if not process:
        _run(request, descriptors, [connection, *others])
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):
        os.setpgid(process, process)
    return process


def _run(request: dict, descriptors: list[int], sockets: list[socket.socket]) -> NoReturn:
    """Become the stage that was asked for."""

    def run() -> None:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(ENDS_WITH_PARENT, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for one in sockets:
            one.close()
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        name, *arguments = request["arguments"]
        for own in [own for own in sys.modules if own.split(".")[0] in ("stages", "zsr")]:
            del sys.modules[own]  # the stage may lie in another checkout
        sys.modules.pop("__mp_main__", None)  # multiprocessing's second name of this module
        importlib.invalidate_caches()
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            cast(io.TextIOWrapper, stream).reconfigure(line_buffering=os.isatty(number) or number == 2)
        sys.path[:], sys.argv = request["path"], [f"stages.{name}", *arguments]
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)

    end_after(run)


def end_after(run: Callable[[], object]) -> NoReturn:
    """Run a function in a fork, then end the fork with the exit status that Python has after such a function.

    Nothing else of the process that forked runs: neither its `finally` blocks nor what it does at its exit.
    """
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 255)


def _serve_beside(listener: socket.socket, dvc: str, folder: str) -> None:
    import psutil

    try:
        process = psutil.Process(int(dvc))
        _serve(listener, lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.update(rounding.variables())
    (_serve_beside if sys.argv[2:] else _serve)(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:])
