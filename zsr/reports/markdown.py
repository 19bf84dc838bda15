"""Tables in Markdown that fit a page of 100 columns: a wider table is cut into several, and numbers do not break."""

import re
import textwrap
from collections.abc import Sequence

WIDTH = 100  # characters of a line
BLANK = "\N{NO-BREAK SPACE}"
INSIDE = re.compile(r"(?<=[\d†]) (?=[±\[†])|(?<=±) |(?<=\d,) (?=[+-]?\d[\d.]*\])")  # blanks inside a number's interval
Line = Sequence[str]


def table(header: Line, body: Sequence[Line], keys: int = 1) -> str:
    """A table, or as many as it takes, each with the first `keys` columns.

    A table has blanks beside the bars where it fits the page with them. Where a column does not fit the page even
    alone, a list takes the place of the table.
    """
    lines = [[INSIDE.sub(BLANK, str(cell)) for cell in line] for line in (header, *body)]
    shown = len(header) - keys
    for n in range(1, shown + 1):
        parts = [_columns(lines, keys, start, stop) for start, stop in _cuts(shown, n)]
        for padding in (" ", ""):
            texts = [_drawn(part, padding) for part in parts]
            if max(len(line) for text in texts for line in text) <= WIDTH:
                return "\n\n".join("\n".join(text) for text in texts)
    return "\n".join(item(f"{' '.join(line[:keys])}: {_told(header[keys:], line[keys:])}") for line in lines[1:])


def _told(header: Line, line: Line) -> str:
    return "; ".join(f"{name} {cell}" for name, cell in zip(header, line))


def _cuts(columns: int, n: int) -> list[tuple[int, int]]:
    """The first and the last column, plus one, of n parts that differ by at most one column."""
    ends = [round(columns * (i + 1) / n) for i in range(n)]
    return list(zip([0, *ends], ends))


def _columns(lines: Sequence[Line], keys: int, start: int, stop: int) -> list[list[str]]:
    return [[*line[:keys], *line[keys + start : keys + stop]] for line in lines]


def _drawn(lines: Sequence[Line], padding: str) -> list[str]:
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    rule = [f"{padding and '-'}{'-' * width}{padding and '-'}" for width in widths]
    cells = [[f"{padding}{cell.ljust(width)}{padding}" for cell, width in zip(line, widths)] for line in lines]
    return [f"|{'|'.join(line)}|" for line in (cells[0], rule, *cells[1:])]


def item(text: str, bullet: str = "- ") -> str:
    """An item of a list, wrapped. Further lines are indented below the text of the first line."""
    return textwrap.fill(
        text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet), break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def bold_best(body: Sequence[list[str]], keys: int = 1, not_bold: str = "†") -> list[list[str]]:
    """The lines with the highest number of each column in bold, and all that look equal; of one line no number.

    A number is the first word of a cell. The first `keys` columns hold no numbers. Cells with the sign `not_bold`, and
    cells without a number, do not compete.
    """
    lines = [list(line) for line in body]
    for column in range(keys, len(lines[0]) if len(lines) > 1 else 0):
        numbers = [_number(line[column]) if not_bold not in line[column] else None for line in lines]
        found = [number for number in numbers if number is not None]
        for line, number in zip(lines, numbers):
            if found and number == max(found):
                line[column] = bold(line[column])
    return lines


def bold(text: str) -> str:
    """The text in bold."""
    return f"**{text}**"


def _number(text: str) -> float | None:
    try:
        number = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return number if number == number else None  # no nan
