"""The stages of dvc.yaml in this process, in its order: what DVC would run, with torch loaded once for all of them.

But for the page of plots, which only DVC reads.
"""

import itertools
import multiprocessing
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.conftest import ROOT, parsed
from zsr import files, scratch
from zsr.params import block

GRAPH = parsed(ROOT / "dvc.yaml")["stages"]


def cells(document: Mapping) -> Iterator[tuple[dict, dict[str, str]]]:
    """Every stage over a params document, and what stands for the names in braces in its text."""
    for stage in (stage for name, stage in GRAPH.items() if name != "plots_page"):
        if "matrix" in stage:
            keys = {f"item.{name}": _rows(document, of) for name, of in stage["matrix"].items()}
            yield from ((stage, dict(zip(keys, cell))) for cell in itertools.product(*keys.values()))
        elif "foreach" in stage:
            yield from ((stage["do"], {"key": key}) for key in _rows(document, stage["foreach"]))
        else:
            yield stage, {}


def _rows(document: Mapping, interpolated: str) -> list[str]:
    return list(block(document, interpolated[2:-1], dict[str, Any]))


def _named(text: str, names: Mapping[str, str]) -> str:
    for name, value in ({"up": ""} | dict(names)).items():
        text = text.replace(f"${{{name}}}", value)
    return text


def run_study(document: Mapping, monkeypatch, folder: Path, without: Collection[str] = ()) -> None:
    """Every stage in a folder, which becomes the current one; each must leave what dvc.yaml says it leaves.

    without: names of stages that are left out.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZSR_SCRATCH", str(folder / "scratch"))
    monkeypatch.setattr(scratch, "loaded_files", set)  # this process has loaded far more than a stage does
    for reader in ("stages.code", "stages.command", "stages.report", "zsr.study"):
        monkeypatch.setattr(f"{reader}.read", parsed)  # every stage reads two files
    monkeypatch.setattr("vl_convert.javascript_bundle", str)  # seconds for a script that is the same in every page
    files.write_json(Path("params.yaml"), document)
    for stage, names in cells(document):
        _, name, *arguments = shlex.split(_named(stage["cmd"], names))[4:]
        if name in without:
            continue
        call(f"stages.{name}", *arguments)
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                path = Path(_named(out if isinstance(out, str) else next(iter(out)), names))
                assert path.exists(), f"{stage['cmd']} with {names} leaves no {path}"


def load_without(modules: Collection[str], libraries: Collection[str]) -> bool:
    """Do modules of the project load where the libraries are not there? They load anew, in a fork of this process."""

    def load() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("zsr", "stages", *libraries)]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(libraries))  # an import of what is None fails
        for name in modules:
            import_module(name)

    process = multiprocessing.get_context("fork").Process(target=load)
    process.start()
    process.join()
    return process.exitcode == 0


def call(module: str, *arguments: str) -> None:
    """`python -m module arguments`, which must end well."""
    result = CliRunner().invoke(import_module(module).main, list(arguments))
    assert result.exit_code == 0, f"{module} {arguments}: {result.output} {result.exception!r}"
