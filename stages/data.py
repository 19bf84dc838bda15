"""One data set: its test split and, where the study asks for one, its training split."""

from pathlib import Path

import click

from stages.command import WRITTEN, stage
from zsr.data import split as splits
from zsr.data.world import SetSize
from zsr.params import Count, Natural, block, read


@stage
@click.argument("name")
@click.option("--out", type=WRITTEN, required=True)
def main(name: str, params: Path, out: Path) -> None:
    document = read(params)
    seed, image_size = block(document, "data.seed", Natural), block(document, "data.image_size", Count)
    size = block(document, f"data.sets.{name}", SetSize)
    for split, n in {"train": size.train, "test": size.test}.items():
        if n:
            splits.make(name, split, n, seed, image_size).save(out / f"{split}.safetensors")


if __name__ == "__main__":
    main()
