"""Bring an image tower of the published code into our format, or ours into theirs. A command, not a stage of the DAG.

FILE is an official training dict, RobustVLM's bare tower or a whole model of ours; its content tells which.
"""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN, StageCommand
from zsr.models import checkpoints


@click.command(cls=StageCommand, help=__doc__)
@click.argument("file", type=EXISTING)
@click.option("--arch", required=True, help="The tower's name in open_clip; OpenAI's end in -quickgelu.")
@click.option("--out", type=WRITTEN, required=True, help="The file to write.")
@click.option(
    "--to",
    "format_name",
    type=click.Choice(checkpoints.FORMATS),
    default="zsr",
    show_default=True,
    help="zsr: a whole open_clip model, safetensors. official: TGA-ZSR, PMG-AFT, TeCoA. robustvlm: the bare tower.",
)
@click.option("--base", type=EXISTING, help="A whole model, for all but the image tower. For zsr, and needed there.")
@click.option("--epoch", type=click.IntRange(0), default=0, help="Epochs trained, as an official file says it.")
@click.option(
    "--norm-stats",
    type=click.Choice(["clip", "imagenet"]),
    default="clip",
    show_default=True,
    help="Mean and std of pixels in its training; PMG-AFT's code uses ImageNet's. Kept by zsr files.",
)
def main(file: Path, arch: str, out: Path, format_name: str, base: Path | None, epoch: int, norm_stats: str) -> None:
    checkpoints.convert(file, out, arch, format_name, base, epoch, norm_stats)


if __name__ == "__main__":
    main()
