"""What all stages share: where a study's files lie, one-line errors, the digest of their code."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import quote

import click

from stages.progress import CHILD, first
from zsr import files, scratch
from zsr.cli.running import OneLine, never_silent
from zsr.params import EXTENSIONS, PACKAGES, ParamError, StudyError, block, build, read
from zsr.scratch import ROOT

DVC = "ZSR_DVC"  # set by `python -m stages`: the number of the process of DVC that runs the stage
EXISTING = click.Path(exists=True, path_type=Path)

# Files of a study, relative to its folder, in which DVC runs every stage; dvc.yaml names the same.
CODE = Path("code.yaml")
CATALOGUE = Path("data/study.json")
DOWNLOADS = Path("data/downloads")
BASE_WEIGHTS = Path("data/base_weights.json")
SETS = Path("data/sets")
BASE_MODEL = Path("data/base_model")
TEXT_EMBEDDINGS = Path("data/text_embeddings")
STARTS = Path("data/starts")
CHECKPOINTS = Path("data/checkpoints")
RECORDS = Path("data/records")
DEFENDED = Path("data/defended")
METRICS = Path("metrics")
CURVES = METRICS / "curves"
RESULTS = METRICS / "results"
PUBLISHED = ROOT / "published"

HEADS = {"text": "zsr.models.clip", "linear": "zsr.models.linear"}  # head -> module of the models with that head
ONE_DIGEST = ("download", "likeness", "text_embeddings")  # stages whose cells all run the same code


def stage(
    name: str, *cell: str, parallel: bool = False, beside: Sequence[str] = ()
) -> Callable[[Callable], click.Command]:
    """Make a command of `function(document, code, *cell)`.

    Args:
        name: name of the stage and of its script.
        cell: names of the command's arguments, the keys of one cell of the stage in dvc.yaml.
        parallel: may several processes share the work? Then the launcher of params.yaml starts them.
        beside: modules that are not in the digest, since no output depends on them; they get and verify files.

    The function gets the content of params.yaml and the digest of the code that it runs. The command raises StudyError
    where code.yaml has another digest, since DVC would store the result under the digest of code.yaml. After the
    function has run, only modules of the project that are in the digest may be loaded. The stage check is exempt, since
    it imports every method and attack.

    The outputs belong to one run: the command holds a lock on them, and ends when its DVC is gone.
    """

    def decorate(function: Callable) -> click.Command:
        def run(**arguments: str) -> None:
            end_with_dvc()
            document = read(Path("params.yaml"))
            if parallel and block(document, "launcher", str) == "torchrun" and CHILD not in os.environ:
                return _start_processes(f"stages.{name}", list(arguments.values()))
            modules = modules_of(document, name, list(arguments.values()))
            code = scratch.code_digest(modules, weights=weights_of(document, name, list(arguments.values())))
            _compare(code, name, list(arguments.values()))
            label = " ".join([name, *arguments.values()])
            heard = never_silent(label) if first() else nullcontext()
            with _outputs_held(name, list(arguments.values())), heard, _joined(parallel):
                function(document, code, **arguments)
            escaped = scratch.loaded_files() - scratch.closure(modules) if name != "check" else set()
            escaped -= scratch.closure(beside) if escaped else set()
            assert not escaped, f"the digest of {name} knows nothing of {', '.join(map(str, sorted(escaped)))}"

        command = click.command(name, cls=OneLine, help=sys.modules[function.__module__].__doc__)
        for argument in reversed(cell):
            run = click.argument(argument)(run)
        return command(run)

    return decorate


def data_root() -> Path:
    """The folder of the files of public sets, outside DVC."""
    return Path(os.environ.get("DATA_ROOT") or ROOT / "downloads")


def end_with_dvc() -> None:
    """From now on, end this process when the DVC that runs it is gone, and before it writes another file.

    DVC runs a stage through a shell. Where DVC alone is killed, the shell and the stage stay, and the stage would write
    into what the next run has made. The death of a parent (PR_SET_PDEATHSIG of Linux) would not do: the parent may be
    the shell, torchrun or the process of `stages.warm`, and a stage that was started by hand may outlive its terminal.
    """
    if not os.environ.get(DVC):
        return
    import psutil

    try:
        dvc = psutil.Process(int(os.environ[DVC]))
    except psutil.NoSuchProcess:
        _end()
    except ValueError:
        raise StudyError(f"{DVC} must be the number of a process, got {os.environ[DVC]!a}; unset it") from None

    def end_if_alone() -> None:
        try:
            there = dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            there = False
        except psutil.AccessDenied:  # a process whose state is hidden is there
            there = True
        if not there:
            _end()

    def watch() -> None:
        while True:
            end_if_alone()
            time.sleep(0.5)

    files.BEFORE_WRITING.append(end_if_alone)
    threading.Thread(target=watch, daemon=True).start()


def _end() -> NoReturn:
    files.say("Error: the dvc that ran this stage is gone, so the stage ends; finished work is kept")
    os._exit(1)


@contextmanager
def _outputs_held(name: str, cell: list[str]) -> Iterator[None]:
    """Hold a lock on the outputs of a stage's cell. Of several processes that torchrun has started the first holds it.

    DVC has deleted the outputs before it runs a stage. Where another process has held the lock, it may have written
    into them since, so they are deleted once more.
    """
    if not first():
        yield
        return
    folder = Path(".dvc/tmp") if Path(".dvc").is_dir() else scratch.folder() / files.digest(os.getcwdb())
    with files.claimed(folder / "stages" / quote("-".join([name, *cell]), safe="")) as waited:
        if waited and os.environ.get(DVC):
            for path in outputs(name, cell):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        yield


def outputs(name: str, cell: list[str]) -> list[Path]:
    """The outputs that dvc.yaml lists for a cell of a stage."""
    listed = read(Path("dvc.yaml"))["stages"][name]
    listed = listed.get("do", listed)
    paths = []
    for out in (out for kind in ("outs", "metrics", "plots") for out in listed.get(kind, [])):
        text = out if isinstance(out, str) else next(iter(out))
        for key, value in {"key": cell[-1:], "item.method": cell[:1], "item.attack": cell[-1:]}.items():
            text = text.replace(f"${{{key}}}", "".join(value))
        paths.append(Path(text))
    return paths


def _start_processes(module: str, arguments: list[str]) -> None:
    """Run `python -m module arguments` in several processes, one for each GPU of this host.

    The number of processes and their hosts are no inputs of the computation, so they are not in params.yaml. The
    environment variable PET_NPROC_PER_NODE and torchrun's other variables set them.

    Raises StudyError with a message of one line where a process fails. torchrun then ends the other processes. The work
    that is kept in the scratch folder is used when the same command runs again.
    """
    import logging

    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    os.environ.setdefault("PET_NPROC_PER_NODE", "gpu" if torch.cuda.is_available() else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    alone = [] if {"PET_RDZV_ENDPOINT", "PET_MASTER_ADDR"} & set(os.environ) else ["--standalone"]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):  # where it prints how it is used
            options = get_args_parser().parse_args([*alone, "-m", module, *arguments])
        run(options)
    except (ValueError, AssertionError, SystemExit) as error:
        given = ", ".join(f"{name} {value!a}" for name, value in sorted(os.environ.items()) if name.startswith("PET_"))
        raise StudyError(f"torchrun does not start with {given} ({type(error).__name__}), see many_gpus.md") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}; its message is above"
        raise StudyError(
            f"{module}: process {rank} of the run {how}; the others were ended. Finished work is kept: run the same "
            "command again and it goes on from there"
        ) from None


def _joined(parallel: bool) -> AbstractContextManager:
    if not parallel:
        return nullcontext()
    from zsr import compute  # torch is imported only where processes share the work

    return compute.joined()


def catalogue() -> dict[str, Any]:
    """The names of what the study consists of, as the stage `check` wrote them.

    Raises Unusable: the file is damaged, or was edited.
    """
    return files.read_kept(CATALOGUE, "study", ("attacks", "bases", "groups", "judged", "methods", "sets"))


def cells(document: Mapping) -> Iterator[tuple[str, list[str]]]:
    """Every cell of a stage of dvc.yaml with a digest of its code: name of the stage and arguments of the cell."""
    names = ("check", "download", "download_base", "base_model", "text_embeddings", "sets", "start", "collect")
    names += ("tables", "figures", "report", "plots_page")
    yield from ((name, []) for name in names)
    for name, key in {"data": "data.sets", "train": "methods", "defend": "defences"}.items():
        yield from ((name, [cell]) for cell in block(document, key, dict[str, Any]))
    for name, key in {"evaluate": "attacks", "eps_sweep": "eps_sweep", "attention": "attention"}.items():
        yield from ((name, [cell]) for cell in block(document, key, dict[str, Any]))
    if block(document, "likeness", dict[str, Any]):
        yield "likeness", []


def key_of(name: str, cell: list[str]) -> str:
    """Key in code.yaml of the digest of a stage's cell. The digest of an evaluation depends on the attack alone."""
    return ".".join([name, *cell[-1:]] if name not in ONE_DIGEST else [name])


def modules_of(document: Mapping, name: str, cell: list[str]) -> list[str]:
    """The script of a stage, and the modules that params.yaml names for a cell of the stage."""
    row_name, head_modules = cell[-1] if cell else "", []
    if name in ("start", "train", "evaluate", "defend", "eps_sweep", "attention", "likeness"):
        head = block(document, "model", dict[str, Any]).get("head", "text")
        head_modules = [HEADS[build(Literal[tuple(HEADS)], head, "model.head")]]
    if name == "start":
        starts = block(document, "starts", dict[str, Any])
        row_modules = [module for start in starts for module in _of_training(document, "starts", start)]
    elif name == "data":
        row_modules = [f"zsr.data.sets.{row_name}"]
    elif name == "train":
        row_modules = _of_training(document, "methods", row_name)
        if "attack" in block(document, "grid", dict[str, Any]):
            row_modules += [f"zsr.attacks.{block(document, 'grid.attack.module', str)}"]
    elif name in ("evaluate", "eps_sweep"):
        row_modules = _of_row(document, "attacks", row_name)
    elif name == "defend":
        row_modules = _of_row(document, "defences", row_name)
        row_modules += [module for attack in document["attacks"] for module in _of_row(document, "attacks", attack)]
    elif name == "attention":
        row_modules = _of_row(document, "attacks", block(document, f"attention.{row_name}.attack", str))
    else:
        row_modules = []
    return [f"stages.{name}", *dict.fromkeys(head_modules + row_modules)]


def _of_training(document: Mapping, kind: str, name: str) -> list[str]:
    """The modules of a row that is trained, with the module of effective rates where the row logs them."""
    changes = build(dict[str, Any], _numbers(document, kind, name).get("train", {}), f"{kind}.{name}.train")
    logs = (block(document, "train", dict[str, Any]) | changes).get("log_effective_rate")
    return _of_row(document, kind, name) + (["zsr.measures.effective_rate"] if logs else [])


def _of_row(document: Mapping, kind: str, name: str) -> list[str]:
    """The module of a row, and the module of the base method in its params."""
    key, numbers = f"{kind}.{name}", _numbers(document, kind, name)
    modules = [build(str, block(document, key, dict[str, Any]).get("module", name), f"{key}.module")]
    if "base" in numbers:
        modules.append(block(numbers, "base.module", str))
    return [module if "." in module else f"{PACKAGES[kind]}.{module}" for module in modules]


def _numbers(document: Mapping, kind: str, name: str) -> dict[str, Any]:
    """The hyper-parameters of a row: in the row itself, or in the block that the row names."""
    key = f"{kind}.{name}"
    section = block(document, key, dict[str, Any]).get("section", key)
    return block(document, build(str, section, f"{key}.section"), dict[str, Any])


def weights_of(document: Mapping, name: str, cell: list[str]) -> list[Path]:
    """The files in the folder `extensions` that a cell of a stage reads: weights, or descriptions of classes."""
    if name != "train":
        return []
    module = block(document, f"methods.{cell[0]}", dict[str, Any]).get("module", cell[0])
    if module == "saft":
        brought = block(_numbers(document, "methods", cell[0]), "descriptions", str)
        return [path for path in [EXTENSIONS / brought] if path.is_file()]  # the stage refuses a row without its file
    if module != "checkpoint":
        return []
    weights = block(document, f"methods.{cell[0]}.weights", str)
    return [EXTENSIONS / weights] if ":" not in weights else []


def _compare(code: str, name: str, cell: list[str]) -> None:
    if not CODE.exists():
        return
    try:
        stored_digest = block(read(CODE), key_of(name, cell), str)
    except ParamError:
        stored_digest = "no digest"
    if stored_digest != code:
        raise StudyError(
            f"{CODE}: {key_of(name, cell)} is {stored_digest}, but the code and libraries here are {code}; "
            "run dvc repro -f -s code first"
        )
