"""A contact sheet: pictures of every drawn set of the study, with their class names.

`python -m benchmarks.contact_sheet` at the repository's root writes docs/world.png.
"""

from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

from zsr.cli.command import WRITTEN, check_written
from zsr.cli.running import OneLine
from zsr.data.config import Data
from zsr.data.prepared import Split
from zsr.data.sources import make
from zsr.params import block, read

COLUMNS = 13


def one_of_each_class(split: Split, n: int) -> list[int]:
    """The rows of the first image of n classes, which are spread over all classes of the split."""
    classes = np.unique(np.linspace(0, len(split.classnames) - 1, n).round().astype(int))
    return [int(np.flatnonzero(split.labels == label)[0]) for label in classes]


def sheet(splits: dict[str, Split]) -> Figure:
    """One line of named pictures for each set."""
    figure = Figure(figsize=(COLUMNS * 1.05, len(splits) * 1.42), dpi=100)
    axes = figure.subplots(len(splits), COLUMNS, squeeze=False)
    for line, (name, split) in zip(axes, splits.items()):
        for ax in line:
            ax.axis("off")
        for ax, i in zip(line, one_of_each_class(split, COLUMNS)):
            ax.imshow(split.images[i], interpolation="nearest")
            ax.set_title(split.classnames[split.labels[i]].replace(" ", "\n", 1), fontsize=7, pad=2)
        line[0].text(-0.12, 0.5, name, transform=line[0].transAxes, rotation=90, ha="right", va="center", fontsize=9)
    figure.tight_layout(pad=0.3, h_pad=0.6, w_pad=0.2)
    return figure


@click.command(cls=OneLine)
@click.option("--out", default="docs/world.png", type=WRITTEN, help="The picture to write.")
def main(out: Path) -> None:
    """Draw pictures of every set in params.yaml."""
    check_written(out)
    data = block(read(Path("params.yaml")), "data", Data)
    splits = {name: make(name, "test", size.test, data.seed, data.image_size) for name, size in data.sets.items()}
    sheet(splits).savefig(out, metadata={"Software": None})


if __name__ == "__main__":
    main()
