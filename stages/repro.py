"""Make a study as `dvc repro` does, in less time: libraries are imported once, and rows are trained side by side.

DVC runs one stage after another. It frees its lock while the command of a stage runs, so several `dvc repro` may work
on parts of the graph that do not overlap. A lane is one of them: it trains and judges its share of the rows.
The numbers are those of a plain `dvc repro`, which goes on from whatever is here.

With a COMMAND, such as `dvc exp run -S method.lambda_ar=0.1`, the command runs in place of all this. Its stages, too,
are spared the imports, and DVC reads dvc.lock by the fast parser.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import click

from stages.command import BASE_MODEL
from stages.warm import VARIABLE, serving
from zsr.cli.running import OneLine
from zsr.params import StudyError, Threads, block, read

DVC = [sys.executable, "-m", "stages.fast_dvc", "--wait-for-lock", "repro"]
NOISE = re.compile(  # lines of DVC that say nothing about the study
    r"\s*$|> PYTHONPATH=|Updating lock file |Use `dvc push` |To (track|enable) |\tgit add |\tdvc config |"
    r"Stage '.*' didn't change, skipping|Verifying data sources|Generating lock file "
)
EVERY_LINE = "ZSR_DVC_LINES"  # where this variable is set, these lines are passed on, too; benchmarks/stage_times.py
OPEN = {  # what a run makes -> what it is for
    "report.html": "all results on a page for the browser",
    "tables/accuracy.md": "accuracy of every method on every set",
    "tables": "the tables",
    "figures": "the figures",
}


@click.command(cls=OneLine, help=__doc__, context_settings={"allow_interspersed_args": False})
@click.option(
    "--lanes", type=click.IntRange(1), help="Rows at a time [default: one for `threads` cores; one on a GPU]."
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(lanes: int | None, command: tuple[str, ...]) -> None:
    with nullcontext({}) if os.environ.get(VARIABLE) else serving() as variables:
        environment = os.environ | variables
        if command:
            sys.exit(subprocess.run(_faster(command), env=environment).returncode)
        document = read(Path("params.yaml"))
        lanes = lanes or _lanes(document)
        if lanes > 1 and _worth_lanes(environment):
            _run([*DVC, "check"], environment)
            sets = list(document["data"]["sets"])
            images = [f"{kind}@{name}" for name in sets for kind in ("download", "data")]
            _side_by_side([["download_base", "base_model"], [*images, "plots_page"]], environment)
            _side_by_side(
                [[f"text_embeddings@{name}" for name in sets[lane::lanes]] for lane in range(lanes)], environment
            )
            _run([*DVC, "sets", "start"], environment)
            for stages in (_trainings(document), _measurements(document)):
                _side_by_side([stages[lane::lanes] for lane in range(lanes)], environment)
        _run(DVC, environment)
    click.echo(results(Path()))


def _faster(command: Sequence[str]) -> Sequence[str]:
    """The command, with DVC's fast parser of dvc.lock where the command is DVC's."""
    return [sys.executable, "-m", "stages.fast_dvc", *command[1:]] if command[0] == "dvc" else command


def results(study: Path) -> str:
    """What to open after a run, in a line: the first of the files, and the commands that show numbers and charts."""
    made = [f"{name} ({what})" for name, what in OPEN.items() if (study / name).exists()]
    return f"Open {', '.join(made[:2])}. `dvc metrics show` prints the averages, `dvc plots show` draws charts."


def _lanes(document: Mapping) -> int:
    threads = block(document, "threads", Threads)  # no stage has checked the file yet
    if block(document, "compute.device", str) != "cpu" or block(document, "launcher", str) == "torchrun":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def _worth_lanes(environment: Mapping[str, str]) -> bool:
    """Must something run that rows have in common, or more than a row's training and evaluations?"""
    if not BASE_MODEL.exists():  # spares DVC's look at every file
        return True
    told = subprocess.run([*DVC[:-1], "status", "--json"], env=environment, capture_output=True, text=True).stdout
    changed = [name.partition("@")[0] for name in json.loads(told or "{}")]
    common = {"data", "base_model", "text_embeddings", "start"}
    return bool(common & set(changed)) or changed.count("train") + changed.count("evaluate") > 4


def _trainings(document: Mapping) -> list[str]:
    return [f"train@{method}" for method in document["methods"]]


def _measurements(document: Mapping) -> list[str]:
    """The stages that need models alone, the longest ones first."""
    sweeps = [f"{kind}@{name}" for kind in ("likeness", "eps_sweep", "attention") for name in document[kind]]
    sweeps = [f"defend@{name}" for name in document["defences"]] + sweeps
    return sweeps + [f"evaluate@{m}-{a}" for a in reversed(document["attacks"]) for m in document["methods"]]


def _side_by_side(lanes: Sequence[list[str]], environment: Mapping[str, str]) -> None:
    """Run the stages of each list, in order, and all lists at the same time.

    What the stages depend on must have run: a lane must not look at stages that another lane looks at, since DVC locks
    their files.
    """
    numbered = [(lane, stages) for lane, stages in enumerate(lanes, 1) if stages]
    with ThreadPoolExecutor(len(numbered)) as pool:
        ends = list(pool.map(lambda item: _told([*DVC, "--single-item", *item[1]], environment, item[0]), numbered))
    if any(ends):
        raise StudyError("a stage failed; its message is above. What is finished is kept")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    if _told(command, environment):
        raise StudyError("dvc repro failed; its message is above. What is finished is kept")


_terminal = Lock()


def _told(command: Sequence[str], environment: Mapping[str, str], lane: int = 0) -> int:
    """The exit status of a command. Its output is passed on line by line, but for noise.

    lane: a number that stands before each line. 0: there is one lane, whose bars go to the terminal as they are.
    """
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if lane else None}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **output) as process:
        for line in process.stdout or ():
            if EVERY_LINE in environment or not NOISE.match(line):
                with _terminal:
                    print(f"{lane}| {line}" if lane else line, end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    main()
