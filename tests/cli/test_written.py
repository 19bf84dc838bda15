"""A place where nothing can be written is refused before any work, for every option that names one."""

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from zsr.cli.command import WRITTEN, check_written
from zsr.cli.main import COMMANDS
from zsr.params import StudyError

BENCHMARKS = ("contact_sheet", "table8", "vit_rehearsal")
EVALUATE = ("evaluate", "weights.pt", "--data", "pictures", "--attack", "pgd")
OPTIONS = {  # (command, option) -> the arguments before the place, and whether the place is a folder
    ("convert", "out"): (("convert", "weights.pt", "--arch", "zsr-tiny", "--out"), False),
    ("evaluate", "out"): ((*EVALUATE, "--out"), True),
    ("evaluate", "entry"): ((*EVALUATE, "--entry"), False),
    ("evaluate --defence", "out"): ((*EVALUATE, "--defence", "ttc", "--out"), True),
    ("evaluate ROW", "out"): (("evaluate", "tecoa", "--out"), True),
    ("fetch", "root"): (("fetch", "cifar10", "--from", "pictures", "--root"), True),
    ("contact_sheet", "out"): (("contact_sheet", "--out"), False),
    ("table8", "out"): (("table8", "--arch", "none", "--json"), False),
    ("vit_rehearsal", "folder"): (("vit_rehearsal",), True),
}
READ = {("evaluate", "root")}  # a folder that is read alone


def command_of(name: str) -> click.Command:
    if name in BENCHMARKS:
        return import_module(f"benchmarks.{name}").main
    module, attribute = COMMANDS[name]
    return getattr(import_module(f"zsr.cli.{module}"), attribute)


def written() -> Iterator[tuple[str, str]]:
    for name in (*COMMANDS, *BENCHMARKS):
        yield from ((name, str(one.name)) for one in command_of(name).params if one.type is WRITTEN)


def places(folder: Path, is_folder: bool) -> dict[str, Path]:
    """Places where nothing can be written, by what they are."""
    (folder / "file").write_text("a file")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    found = {
        "no place for files": Path("/proc/x"),
        "below no place": Path("/proc/x/y"),
        "a long name": folder / ("n" * 300),
        "below a long name": folder / ("n" * 300) / "x",
        "a file's name with no room for that of a temporary file": folder / ("n" * 250),
        "below a file": folder / "file/x",
        "below a pipe": folder / "pipe/x",
        "below a link to itself": folder / "loop/x",
        "a pipe": folder / "pipe",
        "the other kind": folder / ("file" if is_folder else "folder"),
        "two lines": folder / "file/a\nb",
    }
    return {name: place for name, place in found.items() if not (is_folder and "temporary" in name)}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs the file system /proc of Linux")
@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=map(" ".join, OPTIONS))
def test_the_line_names_the_place_that_the_user_gave_and_comes_before_any_work(command, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"no weights, which nobody must have looked at")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "params.yaml").write_text("methods: {tecoa: {}}\n")
    arguments, is_folder = OPTIONS[command, option]
    given = places(tmp_path, is_folder)
    before = sorted(tmp_path.rglob("*"))
    for name, place in given.items():
        result = CliRunner().invoke(command_of(arguments[0]), [*arguments[1:], str(place)])
        line = result.output.removesuffix("\n")
        assert result.exit_code == 1 and line.startswith(f"Error: {str(place)[:40]}"), f"{name}: {line}"
        assert "\n" not in line and ".tmp" not in line and " name a" in line, f"{name}: {line}"
    assert sorted(tmp_path.rglob("*")) == before


def test_every_option_of_a_place_to_write_is_in_the_table_above():
    assert set(written()) - READ == {(name.partition(" ")[0], option) for name, option in OPTIONS}


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path, folder):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("as it was")
    before = sorted(tmp_path.rglob("*"))
    for name in ("new", "new/deep/er", "folder/new", "folder" if folder else "file", "n" * 200):
        check_written(tmp_path / name, folder)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "as it was"


def test_a_full_disk_is_refused_too(tmp_path, monkeypatch):
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device", "a temporary name")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StudyError, match=rf"^{tmp_path}/out cannot be written \(No space left on device\): name an"):
        check_written(tmp_path / "out")
