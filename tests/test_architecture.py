"""The shape of the code: imports point down, the core knows neither click nor DVC, no function is long."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors", "losses", "watch"},
    {"params", "storage"},
    {"data"},
    {"models", "records"},
    {"attention", "frequency", "similarity", "transfer_params", "universal"},
    {"attacks"},
    {"methods"},
    {"distributed", "sentinels"},
    {"batches"},
    {"effective_rate", "train"},
    {"feed"},
    {"attention_study", "eps_sweep", "evaluate", "finetune", "likeness", "pretrain", "results", "transfer_study"},
    {"ablation", "audit", "figures", "tables", "terms", "twins_grid"},
    {"comparison", "study", "transfer_check", "transfer_figures", "transfer_tables", "twins_tables"},
    {"twins_study"},
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


def test_params_results_tables_and_figures_load_no_torch():
    modules = ", ".join(
        f"zsr.{module}" for module in ("params", "records", "results", "audit", "tables", "figures", "twins_tables")
    )
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'open_clip', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_functions_and_files_stay_small():
    for path in CODE:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{path}:{node.name}"
        if path.parent.name in ("methods", "attacks"):
            assert text.count("\n") <= 80, path
