"""Check params.yaml before anything is computed, and write what the study consists of: the names in its tables.

The one output never changes, so an edit of params.yaml reruns only what it affects.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from stages.command import CATALOGUE, stage
from zsr import files, scratch, study
from zsr.cli.command import check_written
from zsr.params import StudyError, component


@stage("check")
def main(document: Mapping, code: str) -> None:
    checked = study.check(Path("params.yaml"))
    _check_scratch()
    files.write_atomic(CATALOGUE.with_name("params.ok"), b"params.yaml is valid\n")
    for name in document["methods"]:
        refusal = component(document, "methods", name).refusal()
        if refusal:
            files.say(f"methods.{name} cannot be trained yet: {refusal}")
    names = study.catalogue(checked, document)
    files.write_kept(CATALOGUE, "study", names)
    click.echo(", ".join(f"{len(names[kind])} {kind}" for kind in ("methods", "attacks", "sets")))


def _check_scratch() -> None:
    """Refuse a folder of kept work that cannot be written: hours later a stage would."""
    try:
        check_written(scratch.folder(), folder=True)
    except StudyError as error:
        raise StudyError(f"ZSR_SCRATCH, the folder of kept work: {error}") from None


if __name__ == "__main__":
    main()
