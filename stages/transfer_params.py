"""Check the params of the transfer study before anything is computed."""

from pathlib import Path

import click

from stages.command import WRITTEN, stage
from zsr import storage, transfer_check


@stage
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, out: Path) -> None:
    transfer_check.check(params)
    storage.write_atomic(out, b"params.yaml is valid\n")


if __name__ == "__main__":
    main()
