"""The script of the charts, which the page of `dvc plots` takes from the network where this file is not there."""

from collections.abc import Mapping
from pathlib import Path

import click

from stages.command import stage
from zsr import files

OUT = Path("data/plots_page.js")


@stage("plots_page")
def main(document: Mapping, code: str) -> None:
    import vl_convert

    files.write_atomic(OUT, vl_convert.javascript_bundle().encode())
    click.echo(f"{OUT}: the charts of dvc plots need no network")


if __name__ == "__main__":
    main()
