"""What all commands share: one line for every mistake."""

from pathlib import Path
from typing import Any

import click

from zsr.params import StudyError

EXISTING = click.Path(exists=True, path_type=Path)
WRITTEN = click.Path(path_type=Path)


class OneLine(click.Command):
    """A command that shows a StudyError, or what the file system refuses, as one line, and exits with 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except StudyError as error:
            raise click.ClickException(str(error)) from None
        except BrokenPipeError:
            raise  # the reader of the output has gone, which click ends without a word
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from None


class Names(click.ParamType):
    """Names with commas between them."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        """The names, without blanks around them."""
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())
