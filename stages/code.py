"""Write code.yaml: one digest of the code of every stage, so that an edit reruns the stages that run what was edited.

The other stages depend on their digest alone. This one depends on all code, and takes a second.
"""

import json
import re
from pathlib import Path

import click

from stages.command import CODE, cells, end_with_dvc, key_of, modules_of, weights_of
from zsr import files, scratch
from zsr.cli.running import OneLine
from zsr.params import StudyError, read

PLAIN = re.compile(r"(?!(?:null|true|false)$)[a-z][a-z0-9_]*")  # keys that YAML reads as plain text


@click.command(cls=OneLine, help=__doc__)
def main() -> None:
    end_with_dvc()
    document, digests, run = read(Path("params.yaml")), {}, set()
    for name, cell in cells(document):
        try:
            modules = modules_of(document, name, cell)
            weights = [path for path in weights_of(document, name, cell) if path.is_file()]
            digests[key_of(name, cell)] = scratch.code_digest(modules, weights=weights)
            run |= scratch.closure(modules)
        except StudyError:
            continue  # an invalid row; the stage check, which runs next, reports the error
    files.write_atomic(CODE, text(digests, scratch.libraries(run)).encode())


def text(digests: dict[str, str], libraries: dict[str, str]) -> str:
    """The text of code.yaml. It is valid YAML for any name; the stage check reports invalid names.

    The digests contain the versions of libraries already. code.yaml lists the versions for readers.
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
    return "\n".join([*lines, "libraries:", *(f"  {name}: '{version}'" for name, version in libraries.items()), ""])


if __name__ == "__main__":
    main()
