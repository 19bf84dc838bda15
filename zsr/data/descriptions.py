"""Descriptions of classes: the project's sentences on the drawn glyphs, or a file that the user brings. No torch.

A file is JSON in the format of CuPL (Pratt et al., ICCV 2023): an object from class name to a list of sentences.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from zsr.data.outside import printable, read_text
from zsr.params import EXTENSIONS, StudyError

PACKAGE_DATA = ["drawing/descriptions.json"]
DRAWN = Path(__file__).parent / PACKAGE_DATA[0]
FORMAT = "an object from class name to a list of sentences"
SHOWN = 20  # class names in a message

Match = Literal["exact", "published"]
Descriptions = Mapping[str, Sequence[str]]  # class name -> its descriptions, in the order of the file


def path_of(name: str) -> Path:
    """The file of descriptions of a name in params.yaml: "drawn", or a file in the folder `extensions`."""
    return DRAWN if name == "drawn" else EXTENSIONS / name


def load(path: Path) -> Descriptions:
    """The descriptions in a file. Raises StudyError with one line: no such file, not JSON, not of the format."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        raise StudyError(f"{printable(path)} is no JSON; descriptions are {FORMAT}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{printable(path)} must hold {FORMAT}")
    for key, sentences in content.items():
        plain = isinstance(sentences, list) and all(isinstance(text, str) and text.strip() for text in sentences)
        if not plain:
            raise StudyError(f"{printable(path)}: '{printable(key)}' must have a list of sentences: file is {FORMAT}")
    return content


def found(descriptions: Descriptions, names: Sequence[str], match: Match) -> list[Sequence[str]]:
    """The descriptions of every class, () for a class that the file does not name.

    match: exact: the class name is a key of the file. published: where no key is the class name, the first key, in the
    order of the file, that is a part of the class name or has it as a part (quirk SF4).
    """
    return [descriptions.get(_key(descriptions, name, match), ()) for name in names]


def _key(descriptions: Descriptions, name: str, match: Match) -> str:
    if name in descriptions or match == "exact":
        return name
    return next((key for key in descriptions if key in name or name in key), name)


def listed(names: Sequence[str]) -> str:
    """Class names in a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more
