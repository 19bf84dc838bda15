"""Write code.yaml: one digest of the code of every stage, so that an edit reruns the stages that run what was edited.

The other stages depend on their digest alone. This one depends on all code, and takes a second.
"""

from pathlib import Path

import click

from stages.command import CODE, StageCommand, cells, key_of, modules_of
from zsr import code_digest, storage
from zsr.errors import StudyError
from zsr.params import read


@click.command(cls=StageCommand, help=__doc__)
def main() -> None:
    document, digests, files = read(Path("params.yaml")), {}, set()
    for name, cell in cells(document):
        try:
            modules = modules_of(document, name, cell)
            digests[key_of(name, cell)] = code_digest.code_digest(modules)
            files |= code_digest.closure(modules)
        except (StudyError, KeyError, TypeError, AttributeError):
            continue  # a row that makes no sense: the check, which comes next, says what is wrong with it
    storage.write_atomic(CODE, text(digests, code_digest.libraries(files)).encode())


def text(digests: dict[str, str], libraries: dict[str, str]) -> str:
    """code.yaml. Versions of libraries are in the digests; they stand here for people."""
    lines, group = ["# Written by the stage `code`. What a stage runs: code without comments, data files, libraries."], ""
    for key, digest in digests.items():
        stage, _, cell = key.partition(".")
        if cell and stage != group:
            lines.append(f"{stage}:")
        group = stage
        lines.append(f"  {cell}: '{digest}'" if cell else f"{stage}: '{digest}'")
    return "\n".join([*lines, "libraries:", *(f"  {name}: '{of}'" for name, of in libraries.items()), ""])


if __name__ == "__main__":
    main()
