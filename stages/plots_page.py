"""The page that `dvc plots` fills: DVC's own loads the charts' script from the network, this one carries it."""

from collections.abc import Mapping
from pathlib import Path

from stages.command import stage
from zsr import files

HEAD = '<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>zsr</title>\n<script>\n'
BODY = "\n</script>\n</head>\n<body>\n{plot_divs}\n</body>\n</html>\n"


@stage("plots_page")
def main(document: Mapping, code: str) -> None:
    import vl_convert

    files.write_atomic(Path("data/plots_page.html"), (HEAD + vl_convert.javascript_bundle() + BODY).encode())


if __name__ == "__main__":
    main()
