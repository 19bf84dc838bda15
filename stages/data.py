"""One data set: its test split and, where the study asks for one, its training split."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from stages.command import ROOT, SETS, stage
from stages.progress import over
from zsr.data.config import PromptSet, Resolution, SetSize
from zsr.data.sources import Files, absent, make
from zsr.params import Count, Natural, StudyError, block


@stage("data", "name")
def main(document: Mapping, code: str, name: str) -> None:
    seed, image_size = block(document, "data.seed", Natural), block(document, "data.image_size", Count)
    native = block(document, "data.attack_resolution", Resolution) == "native"
    prompt_set, complete = block(document, "data.prompt_set", PromptSet), block(document, "data.complete", bool)
    files = Files(Path(os.environ.get("DATA_ROOT") or ROOT / "downloads"), native, prompt_set, complete)
    size = block(document, f"data.sets.{name}", SetSize)
    counts = {split: n for split, n in {"train": size.train, "test": size.test}.items() if n}
    try:
        for split, n in counts.items():
            made = make(name, split, n, seed, image_size, files)
            made.save(SETS / name / f"{split}.safetensors", True, partial(over, f"{name} {split}", "images"))
    except StudyError as error:
        absent_sets = [key for key in absent(block(document, "data.sets", dict[str, Any]), files.root) if key != name]
        raise StudyError(
            f"{error}. Not there either: {', '.join(absent_sets)}" if absent_sets else str(error)
        ) from None
    images = ", ".join(f"{n:,} {split} images" for split, n in counts.items())
    click.echo(f"{name}: {images}, {len(made.classnames)} classes")


if __name__ == "__main__":
    main()
