"""The command `zsr`. A subcommand is imported when it is called, so `zsr --help` is quick."""

import os
from importlib import import_module

import click

from zsr import rounding
from zsr.cli.running import OneLine

COMMANDS = {  # name -> module of zsr.cli, name of the command in it
    "evaluate": ("evaluate", "evaluate"),
    "compare": ("compare", "compare"),
    "attacks": ("listing", "attacks"),
    "defences": ("listing", "defences"),
    "methods": ("listing", "methods"),
    "sets": ("listing", "sets"),
    "fetch": ("fetch", "fetch"),
    "convert": ("convert", "convert"),
}


class Lazy(OneLine, click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name."""
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name]
        return getattr(import_module(f"zsr.cli.{module}"), attribute)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zsr")
def main() -> None:
    """Measure, compare and reproduce the zero-shot adversarial robustness of vision-language models.

    \b
    zsr evaluate model.pt --arch ViT-B-32-quickgelu --sets cifar10,stl10
    zsr evaluate openai --arch ViT-B-32-quickgelu --data my_pictures
    zsr compare results/a results/b
    """
    os.environ.update(rounding.variables())  # before a command loads torch
