"""What changes the digest of a stage's code, and what does not."""

from importlib.metadata import version

import pytest

from stages.command import cells, modules_of
from tests.conftest import ROOT, parsed
from zsr import scratch
from zsr.params import StudyError
from zsr.scratch import closure

STUDIES = ["", *sorted(f"studies/{path.name}" for path in (ROOT / "studies").iterdir())]
FRONT = """"Names."
from importlib import import_module

_MODULES = {"used": "zsr.used"}


def __getattr__(name):
    return import_module(_MODULES[name])


def __dir__():
    return list(_MODULES)
"""
FILES = {
    "stages/a.py": '"""A stage."""\nfrom stages import progress\nfrom zsr import used\n\nX = 1\n',
    "zsr/used.py": 'import numpy\n\nPACKAGE_DATA = ["table.txt"]\n\n\n'
    'def f():\n    "says"\n    from zsr import deep\n    return 2\n',
    "zsr/deep.py": "Y = 3\n",
    "zsr/unused.py": "Z = 4\n",
    "zsr/table.txt": "5\n",
    "zsr/__init__.py": "",
    "stages/progress.py": "BAR = 1\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def digest(root):
    return scratch.code_digest(["stages.a"], root)


def edit(root, name, text):
    """Write a file so that its time has certainly changed."""
    import os

    path = root / name
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


SAME = {
    "a comment": (
        "stages/a.py",
        '"""A stage."""\nfrom stages import progress\nfrom zsr import used  # why\n\n# more\nX = 1\n',
    ),
    "a docstring": ("stages/a.py", '"""Another text."""\nfrom stages import progress\nfrom zsr import used\n\nX = 1\n'),
    "the docstring of a function": ("zsr/used.py", FILES["zsr/used.py"].replace("says", "says more")),
    "layout": ("stages/a.py", '"""A stage."""\nfrom stages import progress\nfrom zsr import used\nX = (\n    1\n)\n'),
    "code that nothing imports": ("zsr/unused.py", "Z = 5\n"),
    "a bar": ("stages/progress.py", "BAR = 2\n"),
    "a package that only names modules": ("zsr/__init__.py", FRONT),
}
OTHER = {
    "a constant": ("stages/a.py", '"""A stage."""\nfrom stages import progress\nfrom zsr import used\n\nX = 2\n'),
    "1 and 1.0": ("stages/a.py", '"""A stage."""\nfrom stages import progress\nfrom zsr import used\n\nX = 1.0\n'),
    "a text that is no docstring": ("zsr/deep.py", 'Y = 3\n"""text"""\n'),
    "a module imported inside a function": ("zsr/deep.py", "Y = 4\n"),
    "a data file": ("zsr/table.txt", "6\n"),
    "a package": ("zsr/__init__.py", "A = 1\n"),
    "a package that names modules and has a number": ("zsr/__init__.py", FRONT + "A = 1\n"),
    "a package that names modules and imports one": ("zsr/__init__.py", FRONT + "import zsr.unused\n"),
    "a package that names modules and computes": ("zsr/__init__.py", FRONT + "_A = sorted([1])\n"),
    "a package that names modules and calls": ("zsr/__init__.py", FRONT + "print(1)\n"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_computes_nothing_leaves_the_digest(root, name):
    before = digest(root)
    edit(root, *SAME[name])
    assert digest(root) == before


@pytest.mark.parametrize("name", OTHER)
def test_what_may_compute_changes_the_digest(root, name):
    before = digest(root)
    edit(root, *OTHER[name])
    assert digest(root) != before


def test_a_package_in_extensions_counts_with_all_that_it_imports_of_itself(root):
    package = root / "extensions/mine"
    package.mkdir(parents=True)
    (package / "method.py").write_text("import numpy\nfrom mine import base\nfrom zsr import deep\n\nW = 1\n")
    (package / "base.py").write_text("V = 1\n")
    modules = ["stages.a", "mine.method"]
    found = closure(modules, root)
    assert {package / "method.py", package / "base.py", root / "zsr/deep.py"} <= found
    before = scratch.code_digest(modules, root)
    assert before != digest(root)
    edit(root, "extensions/mine/base.py", "V = 2\n")
    assert scratch.code_digest(modules, root) != before


NO_CODE = {
    "no Python": ("def x(:\n", "is not Python in line 1 (SyntaxError)"),
    "a NUL": ("x\0\n", "is not Python"),
    "data by a call": (
        "PACKAGE_DATA = [str(1)]\n",
        "PACKAGE_DATA in line 1 must be a list of names of files beside it",
    ),
    "data elsewhere": ("PACKAGE_DATA = ['/etc/hosts']\n", "PACKAGE_DATA in line 1 must be a list of names of files"),
    "data by number": ("PACKAGE_DATA = [1]\n", "PACKAGE_DATA in line 1 must be a list of names of files beside it"),
}


@pytest.mark.parametrize("case", NO_CODE)
def test_code_of_a_user_that_cannot_be_read_is_refused_in_one_line(root, case):
    text, message = NO_CODE[case]
    (root / "extensions").mkdir()
    (root / "extensions/mine.py").write_text(text)
    with pytest.raises(StudyError) as error:
        scratch.code_digest(["mine"], root)
    assert str(error.value).startswith(f"{root / 'extensions/mine.py'}") and message in str(error.value)


def test_a_byte_order_mark_is_no_code(root):
    before = digest(root)
    (root / "zsr/used.py").write_text("\ufeff" + FILES["zsr/used.py"], encoding="utf-8")
    scratch._parsed.cache_clear()
    assert digest(root) == before


def test_the_contents_of_weights_count_and_their_time_does_not(root):
    weights = root / "extensions/tower.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    before = scratch.code_digest(["stages.a"], root, [weights])
    edit(root, "extensions/tower.pt", "weights")
    assert scratch.code_digest(["stages.a"], root, [weights]) == before != digest(root)
    edit(root, "extensions/tower.pt", "weighty")
    assert scratch.code_digest(["stages.a"], root, [weights]) != before


def test_another_version_of_a_library_changes_the_digest(root, monkeypatch):
    before = digest(root)
    monkeypatch.setattr(scratch, "version", lambda name: "0.0")
    assert digest(root) != before
    assert scratch.libraries(closure(["stages.a"], root)) == {"numpy": "0.0"}


def test_what_is_not_there_is_named(root):
    with pytest.raises(StudyError, match="stages.b is no module of the project"):
        scratch.code_digest(["stages.b"], root)
    edit(root, "zsr/deep.py", "from . import used\n")
    with pytest.raises(StudyError, match="zsr/deep.py: line 1 imports relatively"):
        digest(root)


@pytest.mark.parametrize("name, cell", [("train", ["tecoa"]), ("evaluate", ["tecoa", "autoattack"])])
def test_every_file_and_library_of_a_stage_is_in_its_digest(name, cell, monkeypatch):
    modules = modules_of(parsed(ROOT / "params.yaml"), name, cell)
    real, of_file, versions = scratch.code_digest, scratch._file_digest, scratch.version
    files, before, edited = closure(modules), real(modules), ""
    monkeypatch.setattr(scratch, "_file_digest", lambda path: "edited" if path == edited else of_file(path))
    monkeypatch.setattr(scratch, "version", lambda name: "edited" if name == edited else versions(name))
    for edited in [*files, *scratch.libraries(files)]:  # noqa: B007  the patches read it
        assert real(modules) != before, f"{name} {cell}: {edited}"


def test_the_closure_has_what_rows_name_and_data_that_modules_read():
    document = parsed(ROOT / "studies/twins/params.yaml")
    files = {path.relative_to(ROOT).as_posix() for path in closure(modules_of(document, "train", ["twins_at"]))}
    assert {"zsr/methods/twins.py", "zsr/methods/tecoa.py", "zsr/attacks/pgd.py"} <= files
    assert "zsr/models/configs/zsr-tiny.json" in files and "zsr/methods/fare.py" not in files
    data = closure(modules_of(parsed(ROOT / "studies/paper/params.yaml"), "data", ["cifar10"]))
    assert {"cifar10.tsv", "cifar10.py"} <= {path.name for path in data}
    assert "registry.yaml" not in {path.name for path in data}  # one entry of it is a parameter of the download


@pytest.mark.parametrize("study", STUDIES)
def test_code_yaml_belongs_to_the_code(study, monkeypatch):
    """With the libraries that it names: another machine may have others, and then reruns what they may change."""
    from stages import code

    written = parsed(ROOT / study / "code.yaml")
    known = written["libraries"]
    monkeypatch.setattr(scratch, "version", lambda name: known.get(name, version(name)))
    document, digests = parsed(ROOT / study / "params.yaml"), {}
    for name, cell in cells(document):
        digests[code.key_of(name, cell)] = scratch.code_digest(modules_of(document, name, cell))
    flat = {
        f"{stage}.{cell}" if cell else stage: digest
        for stage, of in written.items()
        if stage != "libraries"
        for cell, digest in (of.items() if isinstance(of, dict) else [("", of)])
    }
    assert flat == digests
