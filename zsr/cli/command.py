"""The kinds of values that options of commands take."""

import errno
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from zsr import files
from zsr.data.outside import printable
from zsr.params import SYSTEM, ParamError, StudyError, build

EXISTING = click.Path(exists=True, path_type=Path)
WRITTEN = click.Path(path_type=Path)
STATS = ("clip", "imagenet", "inception")  # of pixels; `zsr.models.heads` has the numbers, and takes seconds to import
NOWHERE = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP)  # what /proc and its like answer where a file is made


class Names(click.ParamType):
    """Names with commas between them."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        """The names, without blanks around them."""
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())


class Number(click.ParamType):
    """A whole number as in params.yaml, with the same sentence about what is none.

    Args:
        schema: one of the kinds of numbers in `zsr.params`.
        or_zero: may it be 0, too?
    """

    name = "INTEGER"

    def __init__(self, schema: Any, or_zero: bool = False) -> None:
        self.schema, self.or_zero = schema, or_zero

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int:
        """The number."""
        text = str(value)
        whole: Any = int(text) if re.fullmatch(r"[+-]?[0-9]{1,60}", text) else text
        if self.or_zero and whole == 0:
            return 0
        try:
            return build(self.schema, whole, "it")
        except ParamError as error:
            self.fail(str(error), param, context)


class Measure(click.ParamType):
    """A number as in params.yaml, with the same sentence about what is none: neither nan nor inf is a number.

    Args:
        schema: a kind of numbers with two ends, as those in `zsr.params`.
    """

    name = "NUMBER"

    def __init__(self, schema: Any) -> None:
        self.schema = schema

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        """The number."""
        try:
            return build(self.schema, value, "it")
        except ParamError as error:
            self.fail(str(error), param, context)


def check_written(path: Path, folder: bool = False) -> None:
    """Raise StudyError where no file, or no folder of files, can be made at a path that a user has named.

    A command calls it before it computes anything. Rights alone do not tell: root has all rights below /proc, and a
    disk may be full. So a hidden file is made there, with the folders that lack, and removed again.
    """
    try:
        files.check_writable(path, folder)
        _try_to_write(path / "record" if folder else path)
    except StudyError as error:
        raise StudyError(printable(error)) from None
    except OSError as error:
        meaning = SYSTEM.get(error.errno or 0, error.strerror or type(error).__name__).partition(";")[0]
        reason = "nobody can make a file there" if error.errno in NOWHERE else meaning
        raise StudyError(f"{printable(path)} cannot be written ({reason}): name another place") from None


class _Made(Exception):
    """Leaves the block of a file that could be made, so that the file is removed and not put in its place."""


def _try_to_write(path: Path) -> None:
    lacking = [one for one in path.parents if not one.exists()]
    try:
        with suppress(_Made), files.temporary_for(path):
            raise _Made
    finally:
        for one in lacking:
            with suppress(OSError):  # another process may have put a file there
                one.rmdir()
