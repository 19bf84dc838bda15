"""Check params.yaml before anything is computed, and write what the study consists of: the names in its tables.

The one output never changes, so an edit of params.yaml reruns only what it affects.
"""

from collections.abc import Mapping
from pathlib import Path

import click

from stages.command import CATALOGUE, stage
from zsr import files, study
from zsr.params import component


@stage("check")
def main(document: Mapping, code: str) -> None:
    checked = study.check(Path("params.yaml"))
    files.write_atomic(CATALOGUE.with_name("params.ok"), b"params.yaml is valid\n")
    for name in document["methods"]:
        refusal = component(document, "methods", name).refusal()
        if refusal:
            files.say(f"methods.{name} cannot be trained yet: {refusal}")
    names = study.catalogue(checked, document)
    files.write_kept(CATALOGUE, "study", names)
    click.echo(", ".join(f"{len(names[kind])} {kind}" for kind in ("methods", "attacks", "sets")))


if __name__ == "__main__":
    main()
