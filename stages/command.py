"""What all stages share: where a study's files lie, one-line errors, progress bars, the digest of their code."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from zsr import scratch
from zsr.params import EXTENSIONS, ParamError, StudyError, block, read
from zsr.scratch import ROOT

CHILD = "TORCHELASTIC_RUN_ID"  # set by torchrun in the processes that it starts
EXISTING = click.Path(exists=True, path_type=Path)
WRITTEN = click.Path(path_type=Path)

# Files of a study, relative to its folder, in which DVC runs every stage; dvc.yaml names the same.
CODE = Path("code.yaml")
CATALOGUE = Path("data/study.json")
SETS = Path("data/sets")
BASE_MODEL = Path("data/base_model")
TEXT_EMBEDDINGS = Path("data/text_embeddings")
STARTS = Path("data/starts")
CHECKPOINTS = Path("data/checkpoints")
RECORDS = Path("data/records")
METRICS = Path("metrics")
CURVES = METRICS / "curves"
RESULTS = METRICS / "results"
PUBLISHED = ROOT / "published"

HEADS = {"text": "zsr.models.clip", "linear": "zsr.models.linear"}  # head -> module of the models with that head
PACKAGES = {"methods": "zsr.methods", "starts": "zsr.methods", "attacks": "zsr.attacks"}  # kind of row -> package


class StageCommand(click.Command):
    """A command that shows a `StudyError` as one line and exits with 1."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except StudyError as error:
            raise click.ClickException(str(error)) from None


def stage(name: str, *cell: str, parallel: bool = False) -> Callable[[Callable], click.Command]:
    """Make a command of `function(document, code, *cell)`.

    Args:
        name: name of the stage and of its script.
        cell: names of the command's arguments, the keys of one cell of the stage in dvc.yaml.
        parallel: may several processes share the work? Then the launcher of params.yaml starts them.

    The function gets the content of params.yaml and the digest of the code that it runs. The command raises StudyError
    where code.yaml has another digest, since DVC would store the result under the digest of code.yaml. After the
    function has run, only modules of the project that are in the digest may be loaded. The stage check is exempt, since
    it imports every method and attack.
    """

    def decorate(function: Callable) -> click.Command:
        def run(**arguments: str) -> None:
            document = read(Path("params.yaml"))
            if parallel and document["launcher"] == "torchrun" and CHILD not in os.environ:
                return _start_processes(f"stages.{name}", list(arguments.values()))
            modules = modules_of(document, name, list(arguments.values()))
            code = scratch.code_digest(modules, weights=weights_of(document, name, list(arguments.values())))
            _compare(code, name, list(arguments.values()))
            with _joined(parallel):
                function(document, code, **arguments)
            escaped = name != "check" and scratch.loaded_files() - scratch.closure(modules)
            assert not escaped, f"the digest of {name} knows nothing of {', '.join(map(str, sorted(escaped)))}"

        command = click.command(name, cls=StageCommand, help=sys.modules[function.__module__].__doc__)
        for argument in reversed(cell):
            run = click.argument(argument)(run)
        return command(run)

    return decorate


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
        run(get_args_parser().parse_args([*alone, "-m", module, *arguments]))
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


def cells(document: Mapping) -> Iterator[tuple[str, list[str]]]:
    """Every cell of a stage of dvc.yaml with a digest of its code: name of the stage and arguments of the cell."""
    names = ("check", "base_model", "text_embeddings", "start", "collect", "tables", "figures", "report", "plots_page")
    yield from ((name, []) for name in names)
    for name, key in {"data": "data.sets", "train": "methods"}.items():
        yield from ((name, [cell]) for cell in block(document, key, dict[str, Any]))
    for name, key in {"evaluate": "attacks", "eps_sweep": "eps_sweep", "attention": "attention"}.items():
        yield from ((name, [cell]) for cell in block(document, key, dict[str, Any]))
    if block(document, "likeness", dict[str, Any]):
        yield "likeness", []


def key_of(name: str, cell: list[str]) -> str:
    """Key in code.yaml of the digest of a stage's cell. The digest of an evaluation depends on the attack alone."""
    return ".".join([name, *cell[-1:]] if name != "likeness" else [name])


def modules_of(document: Mapping, name: str, cell: list[str]) -> list[str]:
    """The script of a stage, and the modules that params.yaml names for a cell of the stage."""
    row_name, head_modules = cell[-1] if cell else "", []
    if name in ("start", "train", "evaluate", "eps_sweep", "attention", "likeness"):
        head_modules = [HEADS[document["model"].get("head", "text")]]
    if name == "start":
        row_modules = [module for start in document["starts"] for module in _of_training(document, "starts", start)]
    elif name == "data":
        row_modules = [f"zsr.data.sets.{row_name}"]
    elif name == "train":
        grid = document["grid"].get("attack")
        row_modules = _of_training(document, "methods", row_name) + ([f"zsr.attacks.{grid['module']}"] if grid else [])
    elif name in ("evaluate", "eps_sweep"):
        row_modules = _of_row(document, "attacks", row_name)
    elif name == "attention":
        row_modules = _of_row(document, "attacks", document["attention"][row_name]["attack"])
    else:
        row_modules = []
    return [f"stages.{name}", *dict.fromkeys(head_modules + row_modules)]


def _of_training(document: Mapping, kind: str, name: str) -> list[str]:
    """The modules of a row that is trained, with the module of effective rates where the row logs them."""
    row = document[kind][name]
    training = block(document, row.get("section", f"{kind}.{name}"), dict[str, Any]).get("train", {})
    logs = (document["train"] | training).get("log_effective_rate")
    return _of_row(document, kind, name) + (["zsr.measures.effective_rate"] if logs else [])


def _of_row(document: Mapping, kind: str, name: str) -> list[str]:
    """The module of a row, and the module of the base method in its params."""
    row = document[kind][name]
    numbers = block(document, row.get("section", f"{kind}.{name}"), dict[str, Any])
    inside = [numbers["base"]["module"]] if "base" in numbers else []
    modules = [row.get("module", name), *inside]
    return [module if "." in module else f"{PACKAGES[kind]}.{module}" for module in modules]


def weights_of(document: Mapping, name: str, cell: list[str]) -> list[Path]:
    """The files in the folder `extensions` that a cell of a stage reads: those of a row of the module checkpoint."""
    row = document["methods"][cell[0]] if name == "train" else {}
    return [EXTENSIONS / row["weights"]] if row.get("module") == "checkpoint" and ":" not in row["weights"] else []


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


def progress(label: str, unit: str) -> Callable[[Iterable, int], Iterable]:
    """A progress bar with the remaining time, for loops that may resume. `done` counts range values, not steps."""
    from tqdm import tqdm

    if os.environ.get("RANK", "0") != "0":  # only the first of several processes shows a bar
        return lambda items, done: items

    def watch(items, done: int):
        stride = items.step if isinstance(items, range) else 1
        before = -(-done // stride)
        often = 0.2 if sys.stderr.isatty() else 10  # seconds between updates; a log gets few lines
        return tqdm(items, desc=label, unit=unit, initial=before, total=before + len(items), mininterval=often)

    return watch
