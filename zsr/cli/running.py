"""What all commands and stages share while they run: one line for every mistake, and no minute without a word."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic
from typing import Any

import click

from zsr import files
from zsr.params import line_of

FIRST_LINE, LOG_LINE = 10, 45  # seconds before the first line in a log, and between two lines
SILENCE = 50  # seconds


class OneLine(click.Command):
    """A command that shows an error that its user can cure as one line, and exits with 1. A bug keeps its traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # the reader of the output has gone, which click ends without a word
        except Exception as error:
            line = line_of(error)
            if not line:
                raise
            raise click.ClickException(line) from None


class Log:
    """The times of the lines in a log: the first after some seconds, as a sign of life, then one every 45 seconds."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._next = self._began + FIRST_LINE

    def spent(self) -> float:
        """Seconds since the work began."""
        return monotonic() - self._began

    def is_due(self) -> bool:
        """Is it time for a line? If so, the next is due LOG_LINE seconds from now."""
        now = monotonic()
        if now <= self._next:
            return False
        self._next = now + LOG_LINE
        return True


class _Quiet:
    """Since when nothing has been told."""

    since = 0.0


def told() -> None:
    """Something has just been told, or a bar has moved: the next word is needed after a minute."""
    _Quiet.since = monotonic()


@contextmanager
def never_silent(label: str) -> Iterator[None]:
    """While the block runs, say on stderr that it is at work wherever it was silent for almost a minute.

    label: what is at work. A progress bar and every line of the block's own call `told`.
    """
    told()
    began, ended = monotonic(), Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if monotonic() - _Quiet.since > SILENCE:
                told()
                files.say(f"{label}: at work for {monotonic() - began:,.0f} s")

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
