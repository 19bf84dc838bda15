"""Kept work: finished and partial results of stages, outside DVC, which deletes a stage's outputs before it runs.

The key of kept work is a hash of three parts: the task, a frozen dataclass that holds all inputs of the computation,
where a path counts by the content of the file; the digest of the stage's code and libraries; and the kind of device.

A stage runs its script, all modules of the project that the script imports, the modules that params.yaml names (a
method, an attack, a set), the data files that these modules read, and libraries. Comments, docstrings and code of other
stages do not count, nor do progress bars and packages that only name what their modules define. A module that reads a
file or folder beside itself names it in a constant `PACKAGE_DATA`.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from zsr import files
from zsr.params import EXTENSIONS, StudyError, shown

ROOT = EXTENSIONS.parent
PACKAGES = ("zsr", "stages")
# Libraries that do not compute results: they read options and params files, draw progress bars, and watch processes.
INTERFACE = {"click", "psutil", "tqdm", "ruamel.yaml", "ruamel.yaml.clib"}
# What they show is no part of a result, and how processors round is no part of a task.
INTERFACE_FILES = ("stages/progress.py", "zsr/cli/running.py", "zsr/rounding.py")
LITERALS = (ast.Constant, ast.Dict, ast.Tuple, ast.List, ast.expr_context)
T = TypeVar("T")
# (the steps to come, the number of steps done, what gives the result so far) -> the same steps
Watch = Callable[[range, int, Callable[[], Any]], Iterable[int]]


def folder() -> Path:
    """The folder of kept work: ZSR_SCRATCH, or .scratch in the root of this checkout, shared by all its studies."""
    return Path(os.environ.get("ZSR_SCRATCH") or ROOT / ".scratch")


def key(task: Any, code: str) -> str:
    """The name of a task's kept work, 32 hexadecimal digits.

    Args:
        task: a frozen dataclass. The field `compute`, where there is one, gives the device of the computation.
        code: the digest of the code that computes the task, from `code_digest`.
    """
    device = task.compute.place().type if hasattr(task, "compute") else ""
    return files.digest(code, device, described(task))


def described(value: Any) -> str:
    """A text that is equal only for equal tasks: fields by name, numbers as Python writes them, files by content."""
    if isinstance(value, Path):
        return f"file {files.identity(value)}"
    if is_dataclass(value):
        named = ", ".join(f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__module__}.{type(value).__qualname__}({named})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {described(value[name])}" for name in value) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(described, value)) + "]"
    if value is not None and not isinstance(value, (bool, int, float, str)):  # a default in a user's own class
        raise StudyError(f"a hyper-parameter must be text, a number, a list or a block, got {shown(value)}")
    return repr(value)


@contextmanager
def claimed(kind: str, name: str) -> Iterator[Path]:
    """The path of one piece of kept work, under a lock: another process that wants the same piece waits.

    So a process left over from a killed run is waited for, and two processes never write one result.
    """
    path = folder() / kind / name
    with files.claimed(path):
        yield path


def kept(path: Path, read: Callable[[Path], T], make: Callable[[], None]) -> T:
    """What `read` gives of kept work at `path`. Where there is none, or it is damaged, `make` makes it anew first."""
    found = readable(path, read)
    if found is None:
        make()
        found = read(path)
    return found


def readable(path: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` gives of kept work at `path`; None: there is none. What is damaged, `read` refuses with Unusable."""
    if not path.exists():
        return None
    try:
        return read(path)
    except files.Unusable as error:
        set_aside(error)
        path.unlink(missing_ok=True)  # where another file of the same work is damaged
        return None


def kept_json(kind: str, name: str, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, as JSON gives it back. It comes from kept work if there is any. name: of `key`."""
    with claimed(kind, name) as path:
        return kept(path, lambda _: files.read_kept(path, name), lambda: files.write_kept(path, name, compute()))


def set_aside(error: files.Unusable) -> None:
    """Rename a damaged file, so that it is no kept work any more, and say so on stderr."""
    if error.path.exists():
        damaged = error.path.with_name(f"{error.path.name}.damaged")
        error.path.replace(damaged)
        files.say(f"{error.path} {error.reason}; it is now {damaged.name}, and is computed anew")
    else:
        files.say(f"{error.path} {error.reason}; it is computed anew")


def unwatched(steps: range, done: int, result: Callable[[], Any]) -> Iterable[int]:
    """A Watch that shows no progress: it returns the steps themselves."""
    return steps


# The digest of the code


def code_digest(modules: Iterable[str], root: Path = ROOT, weights: Iterable[Path] = ()) -> str:
    """The digest of everything that the given modules run: code, data files and versions of libraries.

    Args:
        modules: dotted names, such as "stages.train" and "zsr.methods.tecoa".
        root: the folder of the packages; modules from outside the project are in its folder `extensions`.
        weights: files in the folder `extensions` that the modules read.

    Raises:
        StudyError: there is no such module.
    """
    paths = closure(modules, root)
    parts = [f"{path.relative_to(root).as_posix()} {_file_digest(path)}" for path in sorted(paths)]
    parts += [f"{name} {release}" for name, release in libraries(paths).items()]
    parts += [f"{path.name} {files.sha256(path)}" for path in weights]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def closure(modules: Iterable[str], root: Path = ROOT) -> set[Path]:
    """The project files that the given modules import, directly or not, and the data files that these modules read."""
    project_files: set[Path] = set()
    queue = [file for name in modules for file in (_required(root, name), *_module_files(root, name))]
    while queue:
        path = queue.pop()
        if path in project_files or computes_nothing(path):
            continue
        project_files.add(path)
        imported, data_files, _ = _read(path)
        queue += [file for name in imported for file in _module_files(root, name)]
        project_files |= {file for name in data_files for file in _data_files(path.parent / name)}
    return project_files


def libraries(paths: Iterable[Path]) -> dict[str, str]:
    """The libraries that the given Python files import: name of the package -> version."""
    imported = {name for path in paths if path.suffix == ".py" for name in _read(path)[2]}
    packages = {package for name in imported for package in _packages().get(name, ())}
    return {package: version(package) for package in sorted(packages, key=str.lower) if package not in INTERFACE}


def loaded_files(root: Path = ROOT) -> set[Path]:
    """The files of the project's modules that this process has loaded."""
    named = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    homes = tuple(f"{root / folder}{os.sep}" for folder in (*PACKAGES, EXTENSIONS.name))
    return {Path(name) for name in named if name and name.startswith(homes) and not computes_nothing(Path(name))}


_packages = cache(packages_distributions)


def _required(root: Path, name: str) -> Path:
    path = (_home(root, name) or root) / (name.replace(".", "/") + ".py")
    if not path.is_file():
        raise StudyError(f"{name} is no module of the project: {path} is not there")
    return path


@cache
def _module_files(root: Path, name: str) -> list[Path]:
    """The files of a module and of the packages around it; fewer where the name is a member of a module."""
    parts, home = name.split("."), _home(root, name)
    if home is None:
        return []
    packages = [home.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates = [*packages, home.joinpath(*parts[:-1], f"{parts[-1]}.py")]
    return [path for path in candidates if path.is_file()]


def computes_nothing(path: Path) -> bool:
    """Does the file say how to run or what to show, or is it a package that only names what its modules define?

    Such a package imports a module when its name is used. A stage names modules, so the package does not count.
    """
    if path.as_posix().endswith(INTERFACE_FILES):
        return True
    return path.name == "__init__.py" and _parsed(path, path.stat().st_mtime_ns).names_alone


def _only_names(body: list[ast.stmt]) -> bool:
    functions = {statement.name for statement in body if isinstance(statement, ast.FunctionDef)}
    return functions <= {"__getattr__", "__dir__"} and all(map(_names, body))


def _names(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return statement.module in ("importlib", "typing")
    if isinstance(statement, ast.Assign):
        private = all(isinstance(name, ast.Name) and name.id.startswith("_") for name in statement.targets)
        return private and all(isinstance(part, LITERALS) for part in ast.walk(statement.value))
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.FunctionDef)


def _home(root: Path, name: str) -> Path | None:
    """The folder of a project module's outermost package; None: the module is not the project's."""
    outermost, extensions = name.split(".")[0], root / EXTENSIONS.name
    if outermost in PACKAGES:
        return root
    return extensions if (extensions / outermost).is_dir() or (extensions / f"{outermost}.py").is_file() else None


def _data_files(path: Path) -> list[Path]:
    if not path.exists():
        raise StudyError(f"{path} is named by PACKAGE_DATA, and is not there")
    inside = path.rglob("*") if path.is_dir() else [path]
    known = (file for file in inside if not file.name.startswith(".") and file.suffix not in (".py", ".pyc"))
    return [file for file in known if file.is_file()]


def _read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """For a Python file: modules that it may import, names of its data files, packages that are no project's own."""
    return _parsed(path, path.stat().st_mtime_ns).imports if path.suffix == ".py" else ((), (), ())


def _file_digest(path: Path) -> str:
    if path.suffix == ".py":
        return _parsed(path, path.stat().st_mtime_ns).digest
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Parsed:
    digest: str
    names_alone: bool
    imports: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@cache
def _parsed(path: Path, changed: int) -> _Parsed:
    """The digest and the imports of a Python file. changed: the time of the last change, for the cache."""
    tree, parts = _tree(path), list[str]()
    _structure(tree, parts)
    structure = "".join(f"{part}\0" for part in parts).encode("utf-8", "surrogatepass")
    return _Parsed(hashlib.sha256(structure).hexdigest(), _only_names(tree.body), _imports(path, tree))


def _tree(path: Path) -> ast.Module:
    """The syntax tree of a Python file. Raises StudyError where there is none: the file may be a user's own."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise StudyError(f"{path} is not Python{line} ({type(error).__name__}): mend it") from None


def _imports(path: Path, tree: ast.Module) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    names, data_files = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise StudyError(f"{path}: line {node.lineno} imports relatively; name the whole module")
            assert node.module is not None  # only a relative import may lack a module
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PACKAGE_DATA":
            data_files += _names_of_data(path, node.value)
    top = {name.split(".")[0] for name in names} - set(PACKAGES) - set(sys.stdlib_module_names)
    return tuple(names), tuple(data_files), tuple(sorted(top))


def _names_of_data(path: Path, value: ast.expr) -> list[str]:
    listed = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    names: list[Any] = [getattr(element, "value", None) for element in listed]
    if not all(isinstance(name, str) and name and not os.path.isabs(name) for name in names):
        raise StudyError(f"{path}: PACKAGE_DATA in line {value.lineno} must be a list of names of files beside it")
    return names


def _structure(node: Any, parts: list[str]) -> None:
    """Append the parts of a syntax tree without docstrings, positions and comments, equal for every version of Python.

    A stage does it for each of its files, so the list is one, and not a generator in a generator for each level.
    """
    if isinstance(node, list):
        parts.append("[")
        for item in node:
            _structure(item, parts)
        parts.append("]")
    elif isinstance(node, ast.AST):
        parts.append(type(node).__name__)
        for name in node._fields:
            value: Any = getattr(node, name, None)
            if name == "body" and _has_docstring(node):
                value = value[1:]
            if value is not None and value != []:  # fields that newer versions of Python add are empty in older code
                parts.append(name)
                _structure(value, parts)
    else:
        parts.append(repr(node))


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
