"""Check twins/params.yaml before anything is computed. The output never changes, so an edit reruns what it affects."""

from pathlib import Path

import click

from stages.command import WRITTEN, stage
from zsr import storage, twins_study


@stage
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, out: Path) -> None:
    twins_study.check(params)
    storage.write_atomic(out, b"params.yaml is valid\n")


if __name__ == "__main__":
    main()
