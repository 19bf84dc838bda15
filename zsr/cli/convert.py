"""Bring a checkpoint of the field into a whole model of ours, or an image tower of ours into a published format."""

from pathlib import Path
from typing import Any

import click

from zsr.cli.command import EXISTING, STATS, WRITTEN, Number, check_written
from zsr.cli.running import OneLine
from zsr.params import Natural

FORMATS = ("zsr", "official", "robustvlm")


@click.command(cls=OneLine)
@click.argument("file", type=EXISTING)
@click.option("--arch", required=True, help="The tower's name in open_clip; OpenAI's end in -quickgelu.")
@click.option("--out", type=WRITTEN, required=True, help="The file to write.")
@click.option(
    "--to",
    "format_name",
    type=click.Choice(FORMATS),
    default="zsr",
    show_default=True,
    help="zsr: a whole open_clip model, safetensors. official: TGA-ZSR, PMG-AFT, TeCoA. robustvlm: the bare tower.",
)
@click.option("--base", type=EXISTING, help="A whole model, for all but the image tower, where FILE is a tower alone.")
@click.option("--epoch", type=Number(Natural), default=0, help="Epochs trained, as an official file says it.")
@click.option("--activation", type=click.Choice(["", "gelu", "quickgelu"]), default="", help="If FILE is silent.")
@click.option(
    "--norm-stats",
    type=click.Choice(["", *STATS]),
    default="",
    help="Mean and std of pixels in its training, if FILE is silent; PMG-AFT's code uses ImageNet's.",
)
def convert(
    file: Path,
    arch: str,
    out: Path,
    format_name: str,
    base: Path | None,
    epoch: int,
    activation: Any,
    norm_stats: Any,
) -> None:
    """Convert FILE, in any known layout; its content tells which.

    \b
    zsr convert tower.pt --arch ViT-B-32-quickgelu --base openai.pt --out tower.safetensors
    zsr convert tga_zsr.safetensors --arch ViT-B-32-quickgelu --to official --out tga_zsr.pt
    """
    check_written(out)
    from zsr.models import checkpoints

    checkpoints.convert(file, out, arch, format_name, base, epoch=epoch, activation=activation, norm_stats=norm_stats)
