"""What there is: attacks, defences, methods and sets, one line each."""

import ast
from importlib import resources
from importlib.resources.abc import Traversable

import click

from zsr.cli.running import OneLine

VARIANTS = {  # names that `zsr evaluate --attack` knows beside the modules: module, values, what it is
    "autoattack-paper": (
        "autoattack",
        {"version": "paper"},
        "AutoAttack as in the papers on robust CLIP: APGD on cross-entropy and on DLR.",
    ),
    "apgd-dlr": ("apgd", {"loss": "dlr"}, "APGD on the ratio of logits."),
    "apgd-t": (
        "apgd",
        {"loss": "dlr_targeted"},
        "APGD on the ratio of logits, towards one wrong class after another.",
    ),
}


def said(package: str) -> dict[str, str]:
    """Name of a module -> the first line of its docstring. Nothing is imported."""
    said = {}
    for file in sorted(resources.files(package).iterdir(), key=lambda file: file.name):
        name, _, ending = file.name.rpartition(".")
        if ending == "py" and not name.startswith("_"):
            said[name] = _first_line(file)
    return said


def _first_line(file: Traversable) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _show(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, line in lines.items():
        click.echo(f"{name:{width}}  {line}")


@click.command(cls=OneLine)
def attacks() -> None:
    """The attacks, by the names that --attack takes.

    \b
    zsr attacks
    zsr evaluate tower.pt --attack pgd,autoattack --sets cifar10
    """
    modules = {name: line for name, line in said("zsr.attacks").items() if name not in ("batch", "clean")}
    _show(modules | {name: line for name, (_, _, line) in VARIANTS.items()})


@click.command(cls=OneLine)
def defences() -> None:
    """The defences at test time, by the names that --defence takes.

    \b
    zsr defences
    zsr evaluate tower.pt --defence ttc --attack pgd --sets cifar10
    """
    _show(said("zsr.defences"))


@click.command(cls=OneLine)
def methods() -> None:
    """The fine-tuning methods, by the names that a row of params.yaml takes.

    \b
    zsr methods
    dvc exp run -S method.lambda_ar=0.1
    """
    _show(said("zsr.methods"))


@click.command(cls=OneLine)
def sets() -> None:
    """The sets, by the names that --sets takes.

    \b
    zsr sets
    zsr fetch cifar10 && zsr evaluate tower.pt --sets cifar10,shapes
    """
    from zsr.data.registry import entries

    drawn = {name: line for name, line in said("zsr.data.sets").items() if name not in entries()}
    public = {name: f"{one.title}, {one.num_classes} classes, zsr fetch {name}" for name, one in entries().items()}
    _show(public | drawn)
