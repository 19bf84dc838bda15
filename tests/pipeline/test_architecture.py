"""The shape of the code: imports point down, the core knows neither click nor DVC, no function is long."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from stages.command import modules_of
from tests.conftest import parsed
from tests.in_process import load_without
from zsr.scratch import closure, computes_nothing

ROOT = Path(__file__).parents[2]
ROOMS = [  # modules and folders of zsr, from the ground up; those of one line do not know each other
    {"rounding"},
    {"params"},
    {"files"},
    {"compute"},
    {"scratch"},
    {"data"},
    {"models"},
    {"attacks"},
    {"methods", "defences"},
    {"training", "evaluation"},
    {"measures"},
    {"reports"},
    {"study"},
    {"cli"},  # the only place with click
    {"__main__"},
]
FRONTS = ("zsr/__init__.py", "zsr/attacks/__init__.py")  # they name public classes, and load none by themselves
CODE = sorted([*(ROOT / "zsr").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
CORE = [path for path in CODE if path.is_relative_to(ROOT / "zsr") and path.name != "__init__.py"]


def name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def parsed_code(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    """Dotted names of what a file imports, wherever in it: modules, and members of modules."""
    found = set()
    for node in ast.walk(parsed_code(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(ROOMS) if part in names)


def test_imports_point_down():
    for path in CORE:
        own = name(path)
        for module in imported(path):
            if module.startswith("zsr.") and module.split(".")[1] != own.split(".")[1]:
                assert floor(module) < floor(own), f"{own} imports {module}"
            barred = ("stages", "tests", "dvc") if "cli" in own else ("stages", "tests", "dvc", "click")
            assert module.split(".")[0] not in barred, f"{own} imports {module}"


@pytest.mark.parametrize("stage", [("train", "tga_zsr"), ("evaluate", "tga_zsr", "pgd"), ("eps_sweep", "pgd")])
def test_the_study_of_clip_runs_no_code_of_the_other_studies(stage):
    files = closure(modules_of(parsed(ROOT / "params.yaml"), stage[0], list(stage[1:])))
    others = ("twins", "transfer", "linear", "effective_rate", "likeness")
    assert not [path for path in files if any(word in path.name for word in others)]


def test_an_evaluation_meets_few_files():
    files = closure(modules_of(parsed(ROOT / "params.yaml"), "evaluate", ["tga_zsr", "pgd"]))
    assert len([path for path in files if path.suffix == ".py" and path.read_text()]) <= 15


@pytest.mark.parametrize("kind", ["methods", "defences", "data/sets"])
def test_methods_defences_and_sets_import_no_sibling(kind):
    folder = ROOT / "zsr" / kind
    siblings = {name(path) for path in folder.glob("*.py") if not path.name.startswith("_")}
    for path in folder.glob("*.py"):
        assert not imported(path) & siblings, path


def test_packages_are_empty_so_that_they_are_no_dependency():
    fronts = [ROOT / front for front in FRONTS]
    assert all(path.read_text() == "" for path in CODE if path.name == "__init__.py" and path not in fronts)
    assert all(computes_nothing(path) for path in fronts)


def test_the_front_door_opens_at_once_and_names_what_is_there():
    import zsr
    from zsr import attacks

    code = "import sys, zsr; sys.exit(bool({'torch', 'numpy', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    for package in (zsr, attacks):
        assert all(getattr(package, public_name) for public_name in dir(package))
        with pytest.raises(AttributeError):
            package.nothing  # noqa: B018


def test_the_core_never_prints():
    for path in CORE:
        calls = [node.func for node in ast.walk(parsed_code(path)) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"], path


@pytest.mark.parametrize("stage", ["code", "collect", "tables", "figures", "report", "plots_page"])
def test_cheap_stages_load_no_torch_and_run_none_of_what_trains_or_judges(stage):
    assert load_without([f"stages.{stage}"], ["torch", "open_clip", "torchvision"])
    files = {path.stem for path in closure([f"stages.{stage}"])}
    assert not files & {"finetune", "evaluate", "classifier", "clip"}


def test_functions_stay_small():
    for path in CODE:
        for node in ast.walk(parsed_code(path)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path}:{node.name}"


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """What a module or a public class has for others: names without a leading underscore, and __call__."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (node.name[0] != "_" or node.name == "__call__"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def fields_of(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """The public fields of a dataclass; what is none has none."""
    if not any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list):
        return []
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    names = [ast.unparse(part.target) for part in fields if "ClassVar" not in ast.unparse(part.annotation)]
    return [field for field in names if field[0] != "_"]


def explained(field: str, docstring: str) -> bool:
    """Has it an entry of its own below `Attributes:`, or one with others, as in "file, sha256: ..."?"""
    return (
        re.search(rf"^    (\w+, )*{field}(, \w+)*:", docstring.partition("Attributes:\n")[2], re.MULTILINE) is not None
    )


def test_every_public_name_is_documented():
    missing = []
    for path in CORE:
        tree = parsed_code(path)
        missing += [] if ast.get_docstring(tree) else [name(path)]
        for node in public(tree.body):
            said, place = ast.get_docstring(node) or "", f"{name(path)}:{node.lineno} {node.name}"
            missing += [] if said else [place]
            missing += [f"{place}.{field}" for field in fields_of(node) if not explained(field, said)]
    assert not missing, "\n".join(missing)


def test_text_is_read_and_written_as_utf_8_in_any_locale():
    for path in [*CODE, *sorted((ROOT / "benchmarks").glob("*.py"))]:
        for node in ast.walk(parsed_code(path)):
            if isinstance(node, ast.Call) and opens_text(node):
                stated = {keyword.arg for keyword in node.keywords}
                assert "encoding" in stated, f"{path}:{node.lineno} {ast.unparse(node)}"


def opens_text(call: ast.Call) -> bool:
    """Is it `read_text`, `write_text`, or `open` in a text mode? `open` of images and archives has no such mode."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    constants = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
    modes = [text for text in constants if isinstance(text, str) and re.fullmatch("[rwaxbt+]+", text)]
    plain = isinstance(call.func, ast.Name) or "newline" in {keyword.arg for keyword in call.keywords}
    is_text = any("b" not in mode for mode in modes) or not modes and plain
    of_path = called in ("read_text", "write_text") and isinstance(call.func, ast.Attribute)
    return of_path or called == "open" and is_text
