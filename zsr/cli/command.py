"""The kinds of values that options of commands take."""

import re
from pathlib import Path
from typing import Any

import click

from zsr.params import ParamError, build

EXISTING = click.Path(exists=True, path_type=Path)
WRITTEN = click.Path(path_type=Path)


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
