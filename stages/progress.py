"""What a running stage tells: a bar with the time left, or in a log a line each minute; the training curve so far."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

import click

from zsr import files
from zsr.cli.running import Log, told

CHILD = "TORCHELASTIC_RUN_ID"  # set by torchrun in the processes that it starts
LIVE_CURVE = 5  # seconds between two states of a curve
Item = TypeVar("Item")


def first() -> bool:
    """Is this the first process of the run? It alone tells anything."""
    return _of_run("RANK", "0") == "0"


def _of_run(name: str, alone: str) -> str:
    """A variable of torchrun. On a cluster such variables may be set although torchrun has not started this process."""
    return os.environ.get(name, alone) if CHILD in os.environ else alone


def tell(line: str) -> None:
    """Print a line of the result."""
    told()
    if first():
        click.echo(line)


class Bar:
    """How far a stage is, and the time left: a bar on a terminal, else lines, see `Log`. Threads may share one.

    Attributes:
        found: how much of the work had been done before, and was found.
    """

    def __init__(self, label: str, unit: str, total: int) -> None:
        from tqdm import tqdm

        self.label, self.unit, self.total, self.done, self.found = label, unit, total, 0, 0
        self._bar = tqdm(desc=label, unit=f" {unit}", total=total, disable=not (first() and sys.stderr.isatty()))
        self._lock, self._log = Lock(), Log()

    def expect(self, total: int) -> None:
        """There is so much work in all."""
        with self._lock:
            self.total = self._bar.total = total

    def skip(self, n: int) -> None:
        """Count work that had been done before."""
        with self._lock:
            self.done, self.found = self.done + n, self.found + n
            self._bar.initial, self._bar.n = self.found, self.done
            self._bar.refresh()
            self._close_at_the_end()

    def advance(self, n: int, result: str = "") -> None:
        """Count work that has just been done. result: what it gave so far."""
        with self._lock:
            self.done += n
            self._bar.set_postfix_str(result, refresh=False)
            self._bar.update(n)
            if not self._bar.disable:
                told()
            elif first() and self.done < self.total and self._log.is_due():
                told()
                files.say(self.line(result))
            self._close_at_the_end()

    def _close_at_the_end(self) -> None:
        if self.done >= self.total:
            self._bar.close()

    def line(self, result: str) -> str:
        """The state in words."""
        spent = self._log.spent()
        left = spent / max(self.done - self.found, 1) * (self.total - self.done)
        told = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {self._bar.format_interval(left)} left"
        return f"{told}, {result}" if result else told


def over(label: str, unit: str, items: Collection[Item]) -> Iterator[Item]:
    """The items, under a bar."""
    bar = Bar(label, unit, len(items))
    for item in items:
        yield item
        bar.advance(1)


class Training:
    """A Watch of one training, with the loss in its bar.

    Attributes:
        label: what is trained.
        curve: the file to which the curve so far is written now and then, or None.
        began: the step with which the training began, or went on; None: it was found finished.
    """

    def __init__(self, label: str, curve: Path | None = None) -> None:
        self.label, self.curve, self.began = label, curve, None

    def __call__(self, steps: range, done: int, rows_so_far: Callable[[], Sequence[Mapping]]) -> Iterator[int]:
        """The steps, one by one; meanwhile the bar and the file of the curve grow."""
        self.began, bar, last_state = done, Bar(self.label, "steps", steps.stop), -float("inf")
        bar.skip(done)
        for step in steps:
            yield step
            rows = rows_so_far()
            bar.advance(1, f"loss {rows[-1]['loss']:.3g}" if rows else "")
            if self.curve and rows and first() and monotonic() - last_state > LIVE_CURVE:
                files.write_rows(self.curve, rows)
                last_state = monotonic()


def trained(label: str, curve: Sequence[Mapping], runs: Sequence[Training]) -> str:
    """The result of a row's trainings in a line. curve: the mean curve of the runs, one run for each seed."""
    if not curve:
        return f"{label}: nothing to train"
    kept = sum(run.began is None for run in runs)
    notes = [f"{len(runs)} seeds"] * (len(runs) > 1) + [f"{kept} from kept work"] * bool(kept)
    notes += [f"went on from step {run.began}" for run in runs if run.began]
    told = f"{label}: {len(curve):,} steps, loss {float(curve[-1]['loss']):.3g}"
    return f"{told}; {', '.join(notes)}" if notes else told


class Files:
    """A bar for each file that is downloaded."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar] = {}

    def __call__(self, name: str, have: int, total: int) -> None:
        """So many bytes of a file have come, of `total`; 0: the size is not known."""
        bar = self._bars.get(name)
        if bar is None:
            bar = self._bars[name] = Bar(name, "bytes", total or have + 1)
            bar.skip(have)
        elif have > bar.done:
            bar.advance(have - bar.done)


class Images:
    """One bar for all images of an evaluation, over sets and models.

    Attributes:
        bar: the bar.
        models: the number of models.
    """

    def __init__(self, label: str, models: int = 1) -> None:
        self.bar, self.models = Bar(label, "images", 0), models
        self._right, self._done, self._lock = 0, 0, Lock()

    def expect(self, sizes: Sequence[int]) -> None:
        """Every model is judged on sets of so many images. Of several processes each judges a share of every set."""
        processes = int(_of_run("WORLD_SIZE", "1"))
        self.bar.expect(self.models * sum(-(-size // processes) for size in sizes))

    def watch(self, steps: range, done: int, record_so_far: Callable[[], Any]) -> Iterator[int]:
        """A Watch of the evaluation of one set, with the share of right images in the bar."""
        right = int(record_so_far().hits.sum())
        self._count(done, right, found=True)
        for start in steps:
            yield start
            before, right = right, int(record_so_far().hits.sum())
            self._count(min(steps.step, steps.stop - start), right - before)

    def _count(self, n: int, right: int, found: bool = False) -> None:
        with self._lock:
            self._right, self._done = self._right + right, self._done + n
            share = f"{100 * self._right / self._done:.1f} % right" if self._done else ""
        self.bar.skip(n) if found else self.bar.advance(n, share)
