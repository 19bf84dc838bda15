"""Is the working tree slower than a commit? Both run the same stages on the same data, in turns.

    python -m benchmarks.compare_commits origin/main --runs 10

Seconds on the clock depend on what else a machine does, so what counts is processor time, user and system, with that of
the processes that a stage starts. A pair is one run of each, one directly after the other; who begins changes from pair
to pair, so that a machine that grows slower or faster is no difference. Each checkout is a copy in a temporary folder,
has kept work of its own, which is new for every run, and ends with the same bytes, or the line says that it does not.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from tabulate import tabulate

from zsr.cli.command import EXISTING
from zsr.cli.running import OneLine
from zsr.params import StudyError
from zsr.scratch import ROOT

STAGES = {("evaluate", "clip", "pgd"): "data/records/clip-pgd", ("tables",): "tables"}  # stage -> its output
DATA = ("data", "metrics")  # what the stages read, beside the files of a commit
OF_WARM = "ZSR_"  # variables that tell a stage of the process that has started it


@click.command(cls=OneLine, help=__doc__)
@click.argument("revision")
@click.option("--runs", type=click.IntRange(2), default=10, show_default=True, help="Pairs of runs of each stage.")
@click.option("--data", type=EXISTING, help="A checkout whose data the revision reads, where it cannot read these.")
def main(revision: str, runs: int, data: Path | None) -> None:
    compare(ROOT, revision, runs, data or ROOT)


def compare(root: Path, revision: str, runs: int, data: Path) -> None:
    """Print the seconds of every pair of runs, and the mean difference with its 95 % interval.

    root: the working tree, which reads its own data. data: the checkout whose data the revision reads.
    """
    with TemporaryDirectory(prefix="compare-") as folder:
        places = [Path(folder, "before"), Path(folder, "now")]
        for place, source, rev in ((places[0], data, revision), (places[1], root, "")):
            copied(root, rev, place)
            for name in DATA:
                shutil.rmtree(place / name, ignore_errors=True)
                if (source / name).is_dir():
                    shutil.copytree(source / name, place / name, copy_function=_linked)
        for stage, out in STAGES.items():
            for place in places:
                spent(place, stage, out)  # not counted: it fills caches
            pairs = [timed(places, stage, out, first=number % 2) for number in range(runs)]
            same = contents(places[0] / out) == contents(places[1] / out)
            click.echo(f"\n{' '.join(stage)}: seconds of a processor, {revision} and the working tree\n")
            rows = [(number, *(f"{one:.2f}" for one in pair)) for number, pair in enumerate(pairs, 1)]
            click.echo(tabulate(rows, ["pair", revision, "working tree"], disable_numparse=True))
            click.echo(f"{said(pairs)}. The outputs are {'the same bytes' if same else 'OTHER BYTES'}.")


def copied(root: Path, revision: str, place: Path) -> None:
    """The files of a commit, or of the working tree: those that git knows or does not ignore.

    code.yaml is left out, since a stage refuses to run where the digest of its code is another.
    """
    place.mkdir()
    if revision:
        content = _git(root, "archive", "--format=tar", revision)
        subprocess.run(["tar", "-x", "-C", place], input=content, check=True)
    else:
        for name in _git(root, "ls-files", "-co", "--exclude-standard", "-z").decode().split("\0"):
            if (root / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, place / name)
    (place / "code.yaml").unlink(missing_ok=True)


def timed(places: Sequence[Path], stage: Sequence[str], out: str, first: int) -> tuple[float, float]:
    """The processor seconds of a run in each place. first: the place that begins."""
    seconds = {place: spent(place, stage, out) for place in (places[first], places[1 - first])}
    return seconds[places[0]], seconds[places[1]]


def spent(place: Path, stage: Sequence[str], out: str) -> float:
    """The processor seconds of a stage that begins with nothing. Raises StudyError where the stage fails."""
    output = place / out
    shutil.rmtree(output, ignore_errors=True)
    kept = place / "kept_work"
    shutil.rmtree(kept, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_WARM)}
    environment |= {"PYTHONPATH": str(place), "ZSR_SCRATCH": str(kept), "OMP_WAIT_POLICY": "PASSIVE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-B", "-m", f"stages.{stage[0]}", *stage[1:]]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StudyError(f"{' '.join(stage)} fails in {place.name}: {last}; see --data")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def said(pairs: Sequence[tuple[float, float]]) -> str:
    """The mean difference of the pairs, with its 95 % interval by Student's t, also in percent of the first."""
    from scipy.stats import t

    differences, n = [now - before for before, now in pairs], len(pairs)
    mean, base = statistics.mean(differences), statistics.mean(before for before, _ in pairs)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    ends = f"[{mean - half:+.2f}, {mean + half:+.2f}]"
    percent = f"[{(mean - half) / base:+.1%}, {(mean + half) / base:+.1%}]"
    return f"The working tree takes {mean:+.2f} s {ends} more, {mean / base:+.1%} {percent}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True)
    if done.returncode:
        raise StudyError(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip().splitlines()[-1]}")
    return done.stdout


def _linked(source: str, target: str) -> str:
    """A hard link: a stage puts a new file in the place of one, and changes none. A copy on another file system."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
    return target


if __name__ == "__main__":
    main()
