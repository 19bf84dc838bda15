"""What goes wrong outside of the project: one line with the file and the remedy. A bug of ours keeps its traceback."""

import errno
import io
import json
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import click
import pytest
from click.testing import CliRunner, Result

from zsr import files
from zsr.cli.command import Number
from zsr.cli.main import Lazy
from zsr.cli.running import OneLine
from zsr.evaluation.evaluate import Evaluation
from zsr.evaluation.grid import Grid
from zsr.models.pretrained import Pretrained
from zsr.params import BatchSize, Count, Interval, ParamError, Seed, StudyError, Threads, build, line_of, read, text_of
from zsr.scratch import ROOT
from zsr.study import Study
from zsr.training.pretrain import Pretraining

ADVICE = "Tried to allocate 2 GiB. If reserved memory is large try PYTORCH_CUDA_ALLOC_CONF, or weights_only=False"
CPU = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4"
)


def raised(command_class: type, action: Callable[[], Any]) -> Result:
    """The result of a command that does the action. A class of groups does it in a subcommand."""
    if not issubclass(command_class, click.Group):
        return CliRunner().invoke(click.command(cls=command_class)(action))
    group = command_class("all")
    group.get_command = lambda context, name: click.command(name)(action)
    return CliRunner().invoke(group, ["do"])


def fail(error: BaseException) -> Any:
    raise error


def write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:  # the error of a write does not name the file
        file.write(b"x")


def tell(path: Path, where: str) -> None:
    path.touch()
    click.echo("done", file=io.TextIOWrapper(io.FileIO(where, "w"), write_through=True))


def fail_in_echo(error: OSError) -> None:
    click.echo("done", file=SimpleNamespace(write=lambda _: fail(error), flush=lambda: None))


def read_text(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return path.read_text(encoding="utf-8")


def load_json(path: Path) -> Any:
    path.write_bytes(b"{")
    return json.loads(path.read_bytes())


def replace_folder(file: Path, folder: Path) -> None:
    file.touch()
    folder.mkdir()
    file.replace(folder)


def load_arrays(path: Path) -> Any:
    path.write_bytes(b"\xff" * 100)
    return files.load_arrays(path)


MISHAPS = {  # what a command does in a folder -> parts of the line
    "full disk": (lambda x: write(Path("/dev/full")), ["no space left on /dev while writing /dev/full", "run again"]),
    "full disk of the output": (lambda x: tell(x / "a", "/dev/full"), ["no space left for the output of the command"]),
    "a closed output": (lambda x: fail_in_echo(OSError(errno.EBADF, "?")), ["the output of the command: is closed"]),
    "quota": (
        lambda x: fail(OSError(errno.EDQUOT, "?", x / "a")),
        ["the quota is used up", "a; finished work is kept"],
    ),
    "a folder": (lambda x: x.read_bytes(), ["is a folder, and must be a file"]),
    "no file": (lambda x: (x / "none.csv").read_bytes(), ["none.csv: is not there"]),
    "a name of two lines": (lambda x: (x / "a\nb\udcff").read_bytes(), ["a?b?: is not there"]),
    "a name in a message": (lambda x: fail(StudyError("a\nb\x1b\udcff is lost")), [r"a\nb\x1b\udcff is lost"]),
    "a name of no text": (lambda x: "\udcff".encode(), ["utf-8 has no", "rename what has a byte in its name"]),
    "a folder in the way": (lambda x: replace_folder(x / "new", x / "old"), ["/old: is a folder, and must be a file"]),
    "no right": (lambda x: fail(PermissionError(errno.EACCES, "?", x / "a")), ["a: permission denied; give"]),
    "read-only": (lambda x: fail(OSError(errno.EROFS, "?", x / "a")), ["a: the file system is read-only; choose"]),
    "many open files": (lambda x: fail(OSError(errno.EMFILE, "?", x / "a")), ["too many files are open; allow more"]),
    "another error": (lambda x: fail(OSError(errno.EXDEV, "Cross-device link", x / "a")), ["a: Cross-device link"]),
    "Latin-1": (lambda x: read_text(x / "names.tsv", b"caf\xe9"), ["names.tsv: must be UTF-8 text, and byte 0xe9"]),
    "a cut file": (lambda x: fail(EOFError("Ran out of input")), ["damaged", "(EOFError)"]),
    "broken JSON": (lambda x: load_json(x / "study.json"), ["study.json: damaged", "(JSONDecodeError)", "restore"]),
    "broken safetensors": (lambda x: load_arrays(x / "0.safetensors"), ["0.safetensors", "damaged"]),
    "no zip": (lambda x: zipfile.ZipFile(__file__), ["damaged", "(BadZipFile)"]),
    "broken pickle": (lambda x: pickle.loads(b"\x80\x05X"), ["damaged", "(UnpicklingError)"]),
    "no memory": (lambda x: fail(MemoryError("Unable to allocate 3 TiB")), ["out of memory; set batch_size"]),
    "no memory for torch": (lambda x: fail(RuntimeError(CPU)), ["out of memory; set batch_size"]),
    "no memory of a GPU": (lambda x: fail(RuntimeError(f"CUDA out of memory. {ADVICE}")), ["out of memory; set"]),
    "no threads": (lambda x: fail(RuntimeError("can't start new thread")), ["no more threads; set threads lower"]),
    "no host": (lambda x: fail(ConnectionResetError(errno.ECONNRESET, "Connection reset")), ["Connection reset"]),
}


@pytest.mark.parametrize("command_class", [OneLine, Lazy])
@pytest.mark.parametrize("mishap", MISHAPS)
def test_a_mishap_is_one_line_that_says_what_to_do_and_no_advice_of_libraries(command_class, mishap, tmp_path):
    action, parts = MISHAPS[mishap]
    result = raised(command_class, lambda: action(tmp_path))
    assert result.exit_code == 1 and result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert all(part in result.output for part in parts), result.output
    assert not any(word in result.output for word in ("weights_only", "PYTORCH", "alloc_cpu", "Ran out"))


def test_a_name_in_a_locale_without_its_letters_needs_another_locale(monkeypatch):
    """Where names of files are ASCII, every other byte is one that is no text."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert "set PYTHONUTF8=1" in raised(OneLine, lambda: "\udcc3".encode()).output


@pytest.mark.parametrize("command_class", [OneLine, Lazy])
@pytest.mark.parametrize("kind", [AssertionError, TypeError, KeyError, ValueError, RuntimeError, RecursionError])
def test_a_bug_keeps_its_traceback(command_class, kind):
    bug = kind("x")
    assert raised(command_class, lambda: fail(bug)).exception is bug and line_of(bug) == ""


@pytest.mark.parametrize("command_class", [OneLine, Lazy])
def test_ctrl_c_is_no_mishap(command_class):
    result = raised(command_class, lambda: fail(KeyboardInterrupt()))
    assert result.exit_code == 1 and result.output.strip() == "Aborted!"


GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")
LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
CONTENTS = {  # content of params.yaml -> what is said of it
    b"": "must hold keys and values, got None",
    b"- 1\n": "must hold keys and values, got [1]",
    GOOD.encode("utf-16"): "must be UTF-8 text, and is UTF-16 or UTF-32; save it as UTF-8",
    "# \u00b1\nname: \u00e4\n".encode("latin-1"): "must be UTF-8 text, and byte 0xb1 in line 1 is not",
    bytes(range(256)): "must be UTF-8 text, and byte 0x80 in line 2 is not",
    b"name: a\0b\n": "not valid YAML: unacceptable character #x0000",
    b"threads: 2026-01-01\n": "threads must be text, a number, true, false, null, a list or a block, got the date",
    b"threads: 2026-99-99\n": "holds a number or date that YAML cannot read",
    b"a: {b: !!binary aGVsbG8=}\n": "a.b must be text, a number",
    b"a: !!python/object/apply:os.system [x]\n": "not valid YAML in line 1: could not determine a constructor",
    b"a: " + b"[" * 100 + b"]" * 100: "blocks and lists must be nested in at most 20 levels",
    b"a: &a {b: *a}\n": "a.b.b.b.b.b.b.b.b.b.b",
    LAUGHS.encode(): "must hold at most 20,000 values, aliases counted wherever they stand",
    b"a: " + b"9" * 5000: "holds a number or date that YAML cannot read",
    b"a: 1\na: 2\n": 'not valid YAML in line 2: found duplicate key "a"',
    b"#" * 200_000: "must have at most 100,000 letters, got 200,000",
}


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: repr(content[:20]))
def test_whatever_params_yaml_holds_is_read_or_refused_in_one_line(content, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {CONTENTS[content]}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_text_is_utf_8_with_or_without_a_byte_order_mark_in_any_locale(tmp_path):
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "params.yaml").write_bytes(start + "name: ±".encode())
        assert read(tmp_path / "params.yaml") == {"name": "±"} and text_of(tmp_path / "params.yaml") == "name: ±"


def configured() -> Iterator[type]:
    """Every dataclass whose values may stand in params.yaml."""
    queue: list[Any] = [Study, Pretraining, Pretrained, Grid, Evaluation]
    for kind, name in (("attacks", "ATTACK"), ("methods", "METHOD")):
        modules = [path.stem for path in (ROOT / "zsr" / kind).glob("*.py") if not path.name.startswith("_")]
        loaded = [import_module(f"zsr.{kind}.{module}") for module in modules]
        queue += [getattr(module, name) for module in loaded if hasattr(module, name)]
    seen: set[type] = set()
    while queue:
        schema = queue.pop()
        if is_dataclass(schema) and schema not in seen:
            seen.add(schema)
            queue += get_type_hints(schema).values()
            yield schema
        else:
            queue += [part for part in get_args(schema) if isinstance(part, type) or get_args(part)]


def numbers(schema: Any, bound: Interval | None = None) -> Iterator[Interval | None]:
    """The interval of each number in a type hint; None: a number without one."""
    if get_origin(schema) is Annotated:
        yield from numbers(get_args(schema)[0], get_args(schema)[1])
    elif schema in (int, float):
        yield bound
    else:
        yield from (found for part in get_args(schema) for found in numbers(part))


def test_every_number_of_params_yaml_has_two_ends():
    found = 0
    for schema in configured():
        hints = get_type_hints(schema, include_extras=True)
        for field in fields(schema):
            for bound in numbers(hints[field.name]):
                found += 1
                where = f"{schema.__module__}.{schema.__name__}.{field.name}"
                assert bound is not None and min(bound.high, bound.ceiling) < math.inf, where
    assert found > 60


@pytest.mark.parametrize("kind, most", [(Threads, "1,024"), (BatchSize, "16,384"), (Seed, "4,294,967,295")])
def test_an_option_and_a_call_refuse_a_number_with_the_sentence_of_params_yaml(kind, most):
    command = click.command()(click.option("--many", type=Number(kind))(lambda many: click.echo(many)))
    largest = int(most.replace(",", ""))
    assert CliRunner().invoke(command, ["--many", str(largest)]).output == f"{largest}\n"
    for value in (largest + 1, 10**30):
        with pytest.raises(ParamError) as error:
            build(kind, value, "it")
        assert f"and at most {most}, got {value}" in str(error.value)
        result = CliRunner().invoke(command, ["--many", str(value)])
        assert result.exit_code == 2 and f"Error: Invalid value for '--many': {error.value}\n" in result.output
    for value in ("9" * 5000, "1.5", "x", ""):
        assert "it must be a whole number, got '" in CliRunner().invoke(command, ["--many", value]).output
    assert "at least" in CliRunner().invoke(command, ["--many", "-1"]).output
    zero = click.command()(click.option("--many", type=Number(Count, or_zero=True))(lambda many: click.echo(many)))
    assert CliRunner().invoke(zero, ["--many", "0"]).output == "0\n"


def test_python_calls_are_refused_as_params_yaml_is():
    with pytest.raises(ParamError, match="Evaluation.batch_size must be at least 1 and at most 16,384, got 1000000000"):
        Evaluation(seed=0, batch_size=10**9, save_every=1)


def test_what_the_graph_names_may_not_be_left_out(document, monkeypatch):
    """DVC has no defaults: a key that a stage of dvc.yaml depends on is there, or the check says so."""
    from zsr import study

    stages = [stage for name, stage in read(ROOT / "dvc.yaml")["stages"].items() if name != "defend"]  # it has no cell
    named = {key for stage in stages for key in stage.get("do", stage).get("params", []) if isinstance(key, str)}
    keys = {key for key in named if "$" not in key} | {"data.source", "evaluate.protocol", "up"}
    assert len(keys) > 20
    for key in keys:
        *parents, last = key.split(".")
        changed = json.loads(json.dumps(document))
        block = changed
        for parent in parents:
            block = block[parent]
        del block[last]
        monkeypatch.setattr(study, "read", lambda path, changed=changed: changed)
        with pytest.raises(ParamError, match=f"missing key '{key}'"):
            study.check("params.yaml")
