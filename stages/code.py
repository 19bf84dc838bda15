"""Write code.yaml: one digest of the code of every stage, so that an edit reruns the stages that run what was edited.

The other stages depend on their digest alone. This one depends on all code, and takes a second.
"""

import json
import re
from pathlib import Path

import click

from stages.command import CODE, StageCommand, cells, key_of, modules_of
from zsr import code_digest, files
from zsr.errors import StudyError
from zsr.params import read

PLAIN = re.compile(r"(?!(?:null|true|false)$)[a-z][a-z0-9_]*")  # what YAML reads as the text that it is


@click.command(cls=StageCommand, help=__doc__)
def main() -> None:
    document, digests, run = read(Path("params.yaml")), {}, set()
    for name, cell in cells(document):
        try:
            modules = modules_of(document, name, cell)
            digests[key_of(name, cell)] = code_digest.code_digest(modules)
            run |= code_digest.closure(modules)
        except (StudyError, KeyError, TypeError, AttributeError):
            continue  # a row that makes no sense: the check, which comes next, says what is wrong with it
    files.write_atomic(CODE, text(digests, code_digest.libraries(run)).encode())


def text(digests: dict[str, str], libraries: dict[str, str]) -> str:
    """code.yaml, valid for any name, of which the check then says what is wrong with it.

    Versions of libraries are in the digests; they stand here for people.
    """
    lines = ["# Written by the stage `code`. What a stage runs: code without comments, data files, libraries."]
    group = ""
    for key, digest in digests.items():
        stage, _, cell = key.partition(".")
        if "." in key and stage != group:
            lines.append(f"{stage}:")
        group = stage
        name = cell if PLAIN.fullmatch(cell) else json.dumps(cell)
        lines.append(f"  {name}: '{digest}'" if "." in key else f"{stage}: '{digest}'")
    return "\n".join([*lines, "libraries:", *(f"  {name}: '{of}'" for name, of in libraries.items()), ""])


if __name__ == "__main__":
    main()
