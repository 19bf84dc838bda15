"""What all stages share: one-line errors, progress bars, where unfinished work is kept."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from zsr.errors import StudyError

EXISTING = click.Path(exists=True, path_type=Path)
WRITTEN = click.Path(path_type=Path)


class StageCommand(click.Command):
    """Shows a `StudyError` as one line and exits with 1."""

    def invoke(self, context: click.Context):
        try:
            return self.run(context)
        except StudyError as error:
            raise click.ClickException(str(error)) from None

    def run(self, context: click.Context):
        return super().invoke(context)


def stage(function: Callable, cls: type[StageCommand] = StageCommand) -> click.Command:
    """A command with the option --params, the file every number comes from."""
    option = click.option("--params", type=EXISTING, default="params.yaml", help="The study's numbers.")
    return click.command(cls=cls)(option(function))


def scratch(*parts: str) -> Path:
    """A file for unfinished work, outside DVC, which deletes a stage's outputs before it runs; ZSR_SCRATCH moves it."""
    return Path(os.environ.get("ZSR_SCRATCH", ".scratch"), *parts)


def progress(label: str, unit: str) -> Callable[[Iterable, int], Iterable]:
    """A progress bar with the time left, for loops that may have begun earlier; `done` counts in items of the loop."""
    from tqdm import tqdm

    if os.environ.get("RANK", "0") != "0":  # of several processes one shows a bar
        return lambda items, done: items

    def watch(items, done: int):
        stride = items.step if isinstance(items, range) else 1
        before = -(-done // stride)
        often = 0.2 if sys.stderr.isatty() else 10  # seconds between lines: a log is not a terminal
        return tqdm(items, desc=label, unit=unit, initial=before, total=before + len(items), mininterval=often)

    return watch
