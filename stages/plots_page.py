"""The page that `dvc plots` fills: DVC's own loads the charts' script from the network, this one carries it."""

from pathlib import Path

import click

from stages.command import WRITTEN, stage
from zsr import storage

HEAD = '<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>zsr</title>\n<script>\n'
BODY = "\n</script>\n</head>\n<body>\n{plot_divs}\n</body>\n</html>\n"


@stage
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, out: Path) -> None:
    import vl_convert

    storage.write_atomic(out, (HEAD + vl_convert.javascript_bundle() + BODY).encode())


if __name__ == "__main__":
    main()
