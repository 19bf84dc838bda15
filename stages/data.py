"""One data set: its test split and, where the study asks for one, its training split.

Of a set that the stage `download` left out, the output is a folder with the reason.
"""

from collections.abc import Mapping
from functools import partial

import click

from stages.command import DOWNLOADS, SETS, data_root, stage
from stages.progress import Files, over
from zsr import files
from zsr.data import downloads, prepared
from zsr.data.config import PromptSet, Resolution, SetSize
from zsr.data.sources import Files as Sources
from zsr.data.sources import make
from zsr.params import Count, Natural, StudyError, block


@stage("data", "name", beside=[downloads.FETCHING])
def main(document: Mapping, code: str, name: str) -> None:
    size = block(document, f"data.sets.{name}", SetSize)
    manifest = files.read_kept(DOWNLOADS / f"{name}.json", f"download of {name}", ("set",))
    if reason := downloads.reason_of(manifest):
        files.write_kept(SETS / name / prepared.ABSENT, f"images of {name}", {downloads.ABSENT: reason})
        return click.echo(f"{name}: left out, since it {reason}")
    _require_files(name, size, manifest)
    (SETS / name / prepared.ABSENT).unlink(missing_ok=True)  # of a run by hand before its files were here
    seed, image_size = block(document, "data.seed", Natural), block(document, "data.image_size", Count)
    native = block(document, "data.attack_resolution", Resolution) == "native"
    prompt_set, complete = block(document, "data.prompt_set", PromptSet), block(document, "data.complete", bool)
    for split in size.splits:
        sources = Sources(data_root(), native, prompt_set, complete)
        made = make(name, split, getattr(size, split), seed, image_size, sources)
        made.save(SETS / name / f"{split}.safetensors", True, partial(over, f"{name} {split}", "images"))
    images = ", ".join(f"{getattr(size, split):,} {split} images" for split in size.splits)
    click.echo(f"{name}: {images}, {len(made.classnames)} classes")


def _require_files(name: str, size: SetSize, manifest: Mapping) -> None:
    """Get the files of the manifest where they are not here any more: DVC may have restored the manifest alone."""
    if "sources" not in manifest:
        return
    there = downloads.ensure(name, size.splits, data_root(), watch=Files(), warn=files.say)
    if there != manifest:
        raise StudyError(
            f"{DOWNLOADS / name}.json is of other files of {name} than those below {data_root()}; "
            f"run dvc repro -f -s download@{name}, then dvc repro"
        )


if __name__ == "__main__":
    main()
