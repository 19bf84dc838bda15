"""The shape of the code: imports point down, the core knows neither click nor DVC, no function is long."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from zsr.code_digest import closure

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors", "losses", "watch"},
    {"code_digest", "params", "storage"},
    {"scratch"},
    {"data"},
    {"distributed"},
    {"batches"},
    {"models", "records"},
    {"attention", "frequency", "similarity", "universal"},
    {"attacks"},
    {"methods"},
    {"sentinels"},
    {"effective_rate", "train"},
    {"feed"},
    {"attention_study", "evaluate", "finetune", "likeness", "pretrain", "results", "transfer_study"},
    {"audit", "eps_sweep", "figures", "grid", "rates", "tables", "terms"},
    {"comparison", "rates_tables", "study", "transfer_figures", "transfer_tables"},
]
CODE = sorted([*(ROOT / "zsr").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
CORE = [path for path in CODE if path.is_relative_to(ROOT / "zsr") and path.name != "__init__.py"]


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, wherever in it: modules, and members of modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", CORE, ids=name)
def test_imports_point_down(path):
    own = name(path)
    for module in imported(path):
        if module.startswith("zsr.") and module.split(".")[1] != own.split(".")[1]:
            assert layer(module) < layer(own), f"{own} imports {module}"
        assert module.split(".")[0] not in ("stages", "tests", "click", "dvc"), f"{own} imports {module}"


@pytest.mark.parametrize("kind", ["methods", "attacks", "data/sets"])
def test_methods_attacks_and_sets_import_no_sibling(kind):
    folder = ROOT / "zsr" / kind
    siblings = {name(path) for path in folder.glob("*.py") if not path.name.startswith("_")}
    for path in folder.glob("*.py"):
        assert not imported(path) & siblings, path


def test_packages_are_empty_so_that_they_are_no_dependency():
    assert all(path.read_text() == "" for path in CODE if path.name == "__init__.py")


def test_the_core_never_prints():
    for path in CORE:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


@pytest.mark.parametrize("stage", ["code", "collect", "tables", "figures", "plots_page"])
def test_cheap_stages_load_no_torch_and_run_none_of_what_trains_or_judges(stage):
    heavy = {"torch", "open_clip", "torchvision"}
    code = f"import sys, stages.{stage}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    files = {path.stem for path in closure([f"stages.{stage}"])}
    assert not files & {"finetune", "evaluate", "classifier", "clip"}


def test_functions_and_files_stay_small():
    for path in CODE:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path}:{node.name}"
        if path.parent.name in ("methods", "attacks"):
            assert text.count("\n") <= 80, path
