import errno
import json
import multiprocessing
import os
import resource
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zsr import files, scratch
from zsr.params import StudyError


def test_arrays_and_facts_come_back(tmp_path):
    arrays = {"images": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": np.array([1, 2])}
    files.save_arrays(tmp_path / "x", arrays, {"names": ["a", "b"]})
    loaded, facts = files.load_arrays(tmp_path / "x")
    assert facts == {"names": ["a", "b"]} and all(np.array_equal(arrays[k], loaded[k]) for k in arrays)
    files.save_tensors(tmp_path / "y", {"w": torch.eye(3).T[1:]})
    assert torch.equal(files.load_tensors(tmp_path / "y")[0]["w"], torch.eye(3)[1:])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    files.write_atomic(path, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_digest_sees_contents_and_order_not_joints(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert files.digest(tmp_path / "f") == files.digest("abc") == files.digest(b"abc")
    assert len({files.digest("ab", "c"), files.digest("a", "bc"), files.digest("c", "ab")}) == 3


def _hold(path, held, seconds):
    with files.claimed(path):
        held.set()
        time.sleep(seconds)


def test_the_temporary_file_of_a_killed_process_goes_with_the_next_write_and_no_other_file(tmp_path):
    code = "import os; from pathlib import Path; from zsr.files import temporary_for; "
    code += "c = temporary_for(Path('x')); print(c.__enter__(), flush=True); os.kill(os.getpid(), 9)"
    there = os.environ | {"PYTHONPATH": os.getcwd()}
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=there, capture_output=True, text=True)
    [left] = tmp_path.iterdir()
    assert left.name == killed.stdout.strip() and left.name.startswith(".x.") and left.suffix == ".tmp"
    with files.temporary_for(tmp_path / "y") as own:
        others = [own, tmp_path / f".x.{os.getpid()}-{files.HOST}0.tmp", tmp_path / ".x.4194304-00000.tmp"]
        for path in others:
            path.touch()
        files.write_atomic(tmp_path / "x", b"new")
        assert {*tmp_path.iterdir()} == {*others, tmp_path / "x"}


def test_an_error_of_a_temporary_file_names_the_file_that_was_to_be_written(tmp_path):
    """The name of the temporary file is longer. The same holds where the disk has no room for one more file."""
    path = tmp_path / ("x" * 240)
    with pytest.raises(OSError) as caught:
        files.write_atomic(path, b"")
    assert caught.value.errno == errno.ENAMETOOLONG and caught.value.filename == path


def test_a_symlink_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / ".x.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), files.claimed(tmp_path / "x"):
        pass
    assert not (tmp_path / "elsewhere").exists()


DAMAGED = {
    "json": ("{", "is damaged (JSONDecodeError: "),
    "json empty": ("", "is damaged (JSONDecodeError: "),
    "json bytes": (b"\xff\xfe", "is damaged (UnicodeDecodeError: "),
    "json deep": ("[" * 100_000, "is damaged (RecursionError: "),
    "rows empty": ("", "is damaged (ValueError: it is empty)"),
    "rows cut": ("a,b\n1,2\n3\n", "is damaged (ValueError: row 2 has other columns than the header)"),
    "rows more": ("a,b\n1,2,3\n", "is damaged (ValueError: row 1 has other columns than the header)"),
    "tensors empty": ("", "is damaged (ValueError: 0 bytes"),
    "tensors of zeros": (bytes(100), "is damaged (ValueError: 100 bytes"),
    "tensors no header": ((8).to_bytes(8, "little") + bytes(8), "is damaged (JSONDecodeError: "),
    "tensors absent": (None, "is not there"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_cannot_be_read_is_one_line_with_the_path_and_the_remedy(tmp_path, kind):
    path, (content, reason) = tmp_path / "metrics/results/x", DAMAGED[kind]
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    read = {"json": files.read_json, "rows": files.read_rows, "tensors": files.load_tensors}[kind.split()[0]]
    with pytest.raises(StudyError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(f"{path} {reason}") and "\n" not in said
    assert said.endswith("; run git checkout metrics/results/x, or dvc repro -f -s collect")


@pytest.mark.parametrize("document", [{}, {"method": "tecoa"}, {"task": "a"}, {"content": 1}, {"task": "a", "more": 1}])
def test_a_document_of_another_form_that_states_its_digest_is_refused(tmp_path, document):
    """A record does so: in the place of a manifest or of the index of sets it is whole, and another file."""
    path = tmp_path / "x.json"
    files.write_json(path, document | {"digest": files.json_digest(document)})
    with pytest.raises(StudyError, match=rf"\A{path} is another file of the project, not that of the task a\Z"):
        files.read_kept(path, "a")
    files.write_kept(path, "a", 1)
    assert files.read_kept(path, "a") == 1


@pytest.mark.parametrize(
    ("path", "stage"),
    [("data/downloads/cifar10.json", "download@cifar10"), ("metrics/attention/tecoa.png", "attention@tecoa")],
)
def test_the_remedy_names_the_cell_and_not_the_file(path, stage):
    assert files.remedy(Path("/any", path)).endswith(f" {path}, or dvc repro -f -s {stage}")


@pytest.mark.parametrize("change", ["a byte", "four bytes", "a fact", "a name", "cut", "longer"])
def test_a_file_of_tensors_with_other_content_than_it_states_is_refused(tmp_path, change):
    path = tmp_path / "w.safetensors"
    files.save_tensors(path, {"weight": torch.arange(6.0), "n": torch.tensor(3)}, {"norm_stats": "clip"})
    content = path.read_bytes()
    changes = {"a byte": content[:-1] + b"x", "four bytes": content[:-12] + b"abcd" + content[-8:], "cut": content[:-4]}
    changes |= {"a fact": content.replace(b"clip", b"cllp"), "name": b"", "longer": content + b"0000"}
    changes |= {"a name": content.replace(b"weight", b"weihgt")}
    path.write_bytes(changes[change])
    for read in (files.load_tensors, files.check_content):
        with pytest.raises(StudyError, match=f"^{path} is damaged"):
            read(path)


def test_a_large_file_is_verified_once_and_again_after_a_change(tmp_path, monkeypatch):
    path, computed = tmp_path / "large", []
    path.write_bytes(b"large")
    for small, times in ((10, 2), (4, 3), (4, 3)):
        monkeypatch.setattr(files, "SMALL", small)
        for _ in range(2 if small == 10 else 1):
            files.verify(path, "digest", lambda: computed.append(1) or "digest")
        assert len(computed) == times
    os.utime(path, ns=(1, 1))
    with pytest.raises(StudyError, match="another digest"):
        files.verify(path, "digest", lambda: "other")


def test_a_file_that_states_its_place_is_refused_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors, place = {"w": torch.ones(2)}, tmp_path / "data/checkpoints/tecoa/0.safetensors"
    files.save_tensors(place.relative_to(tmp_path), tensors, {"a": 1}, placed=True)
    for path in (place, place.relative_to(tmp_path)):
        files.check_place(path)
    elsewhere = place.parents[1] / "fare/0.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(place.read_bytes())
    with pytest.raises(StudyError, match="fare/0.safetensors was written as data/checkpoints/tecoa/0.safetensors, and"):
        files.check_place(elsewhere)
    files.save_tensors(elsewhere, tensors, {"a": 1})
    with pytest.raises(StudyError, match="does not state what it was written as"):
        files.check_place(elsewhere)
    user = tmp_path / "mine.safetensors"
    files.save_tensors(user, tensors, {"a": 1})
    files.check_place(user)  # it is no output of a study
    assert files.load_facts(place) == files.load_facts(user) == {"a": 1}
    assert files.identity(place) == files.identity(user)  # equal models share their kept work


def test_a_file_is_in_its_place_seen_from_any_folder_and_through_links_of_the_users_own(tmp_path, monkeypatch):
    study, tensors = tmp_path / "study", {"w": torch.ones(2)}
    place = study / "data/checkpoints/tecoa/0.safetensors"
    files.save_tensors(place, tensors, {}, placed=True)  # it states an absolute path, of before the study was moved
    study = study.rename(tmp_path / "moved")
    place = study / place.relative_to(tmp_path / "study")
    for folder in (study, study / "data", place.parent, tmp_path):
        monkeypatch.chdir(folder)
        files.check_place(Path(os.path.relpath(place)))
    (tmp_path / "mine.safetensors").symlink_to(place)
    files.check_place(tmp_path / "mine.safetensors")
    cache = tmp_path / "cache/ab/cdef"
    cache.parent.mkdir(parents=True)
    place.rename(cache)
    place.symlink_to(cache)  # as DVC may do
    files.check_place(place)
    (place.parents[1] / "fare").symlink_to("tecoa")
    for path in (place.parents[1] / "fare/0.safetensors", place.with_name("1.safetensors")):
        if not path.exists():
            path.symlink_to("0.safetensors")
        with pytest.raises(StudyError, match="and is refused elsewhere"):
            files.check_place(path)


@pytest.mark.parametrize("folder", [False, True])
def test_a_place_that_cannot_be_written_is_known_before_anything_is_computed(tmp_path, folder):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    files.check_writable(tmp_path / "new/deep/x", folder)
    files.check_writable(tmp_path / ("folder" if folder else "file"), folder)
    bad = ["pipe", "file/x", "file/x/y", "pipe/x", "folder" if not folder else "file"]
    for path in (Path("/dev/full"), Path("/dev/full/x"), *(tmp_path / name for name in bad)):
        with pytest.raises(StudyError, match=rf"^{path}[^\n]*: name (a|another) [^\n]*$"):
            files.check_writable(path, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]


def test_no_reader_waits_for_a_pipe(tmp_path):
    from zsr.data import outside, pickles, samples, tars
    from zsr.params import read
    from zsr.reports import reading

    path = tmp_path / "pipe"
    os.mkfifo(path)
    readers = [files.read_json, files.read_rows, files.load_tensors, files.check_place, files.sha256, files.md5, read]
    readers += [outside.read_text, pickles.load, reading.curve, reading.results, files.check_zip]
    for reader in [*readers, lambda path: samples.decoded(path, path), lambda path: next(tars.members(path))]:
        with pytest.raises(StudyError, match=f"^{path} is a device or a pipe, and must be a file: put the file back$"):
            reader(path)


def test_names_that_are_not_known_are_passed_over(tmp_path):
    for name in (
        "10.safetensors",
        "2.safetensors",
        "0.bak.safetensors",
        "._0.safetensors",
        "x.lock",
        ".1.tmp",
        "٣.safetensors",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in files.listed(tmp_path, ".safetensors")] == ["2.safetensors", "10.safetensors"]
    assert files.listed(tmp_path / "nowhere", ".safetensors") == []
    (tmp_path / "10.safetensors").unlink()
    assert files.of_seed(tmp_path, 7) == tmp_path / "2.safetensors"


def test_a_second_writer_waits_for_the_first(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "x", held, 0.5))
    first.start()
    assert held.wait(10)
    start = time.monotonic()
    with files.claimed(tmp_path / "x"):
        assert time.monotonic() - start > 0.2
    first.join()


def test_a_file_of_images_is_named_by_its_header_and_every_other_file_by_its_bytes(tmp_path):
    images = {"images": np.arange(12, dtype=np.uint8)}
    facts = {"digest": "1234", "classnames": ["a"]}
    files.save_arrays(tmp_path / "a.safetensors", images, facts)
    named = files.identity(tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-1] += 1  # nothing but the header is read
    (tmp_path / "b.safetensors").write_bytes(content)
    assert files.identity(tmp_path / "b.safetensors") == named
    for i, change in enumerate(({"digest": "1235"}, {"classnames": ["b"]})):
        files.save_arrays(tmp_path / f"{i}.safetensors", images, facts | change)
        assert files.identity(tmp_path / f"{i}.safetensors") != named
    files.save_arrays(tmp_path / "weights.safetensors", images, {"classnames": ["a"]})
    for path in (tmp_path / "weights.safetensors", (tmp_path / "a.safetensors").rename(tmp_path / "a.bin")):
        assert files.identity(path) == files.sha256(path)


def test_images_written_one_by_one_are_the_file_that_is_written_at_once(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    arrays = {"labels": np.arange(5), "ids": np.arange(5) + 2**62}
    facts = {"digest": "0" * 8, "names": ["a", "ü"]}
    with files.growing_images(tmp_path / "grown", images.shape, arrays, facts) as rows:
        for i, image in enumerate(images):
            rows[i] = image
        facts["digest"] = "12345678"
    files.save_arrays(tmp_path / "whole", arrays | {"images": images}, facts)
    for read in (files.load_arrays, files.map_arrays):
        (grown, said), (whole, known) = (read(tmp_path / name) for name in ("grown", "whole"))
        assert said == known == facts and set(grown) == set(whole)
        assert all(np.array_equal(grown[name], whole[name]) for name in whole)
    assert (tmp_path / "grown").stat().st_size == (tmp_path / "whole").stat().st_size


def test_images_that_cannot_all_be_had_leave_no_file(tmp_path):
    with pytest.raises(KeyError), files.growing_images(tmp_path / "grown", (2, 1, 1, 3), {"ids": np.arange(2)}, {}):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_mapped_array_can_be_changed_and_the_file_cannot(tmp_path):
    files.save_arrays(tmp_path / "a", {"images": np.zeros((2, 1, 1, 3), np.uint8)}, {})
    (tmp_path / "a").chmod(0o444)  # as DVC links it
    arrays, _ = files.map_arrays(tmp_path / "a")
    arrays["images"] += 1
    assert files.map_arrays(tmp_path / "a")[0]["images"].sum() == 0


def test_a_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert files.digest(tmp_path / "a") == files.digest(content)


def grow(path, n=2_000_000):
    return files.growing_images(path, (n, 1, 1, 3), {"ids": np.arange(2)}, {})


def test_a_disk_without_room_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with pytest.raises(StudyError, match=r"new/grown needs 6.00 MB below .*, where 5.00 MB are free: make room"):
        with grow(tmp_path / "new" / "grown"):
            pytest.fail("the file is there")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=6_000_500))
    with pytest.raises(StudyError, match="6.00 MB are free"), grow(tmp_path / "grown"):
        pytest.fail("a margin stays free")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_reserved_is_one_line_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))
    try:
        with pytest.raises(StudyError, match=r"\A.*grown cannot be written .*it needs 6.00 MB, and .* are free.*\Z"):
            with grow(tmp_path / "grown"):
                pytest.fail("a write into the map would end the process by a signal")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_room_of_a_growing_file_is_reserved(tmp_path):
    with grow(tmp_path / "grown"):
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_blocks * 512 >= 6_000_000, "the file has holes"
        assert temporary.name.startswith(".") and temporary.stat().st_mode & 0o400


@pytest.mark.parametrize("number", files.CANNOT_RESERVE)
def test_a_file_system_that_reserves_nothing_is_written_to_all_the_same(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no way to reserve")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with grow(tmp_path / "grown", 2) as images:
        images[:] = 7
    assert files.load_arrays(tmp_path / "grown")[0]["images"].tolist() == [[[[7] * 3]]] * 2


def test_a_link_in_the_way_of_a_growing_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda n: "known")
    (tmp_path / f".grown.{os.getpid()}-{files.HOST}known.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), grow(tmp_path / "grown"):
        pytest.fail("it was followed")
    assert not (tmp_path / "elsewhere").exists()


def test_a_clone_has_the_same_bytes_whatever_git_does_to_ends_of_lines(tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    shutil.copy(Path(__file__).parents[2] / ".gitattributes", origin)
    held = {"a.py": b"x = 1\ny = 2\n", "b.png": b"\x89PNG\r\n\x1a\n\n", "c.safetensors": b"{}\n\r\n"}
    for name, content in held.items():
        (origin / name).write_bytes(content)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a", "-c", "core.autocrlf=true"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], cwd=origin, check=True, capture_output=True)
    subprocess.run([*git, "clone", "-q", "-c", "core.autocrlf=true", origin, tmp_path / "clone"], check=True)
    assert {name: (tmp_path / "clone" / name).read_bytes() for name in held} == held


def test_a_file_takes_no_place_of_a_device_or_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StudyError, match="pipe is a device or a pipe"):
        files.write_json(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("value", [["x"], {}, 7, None], ids=repr)
@pytest.mark.parametrize("fact", files.OF_ITSELF)
def test_a_fact_of_a_file_about_itself_is_text(tmp_path, fact, value):
    """A list is no key of what was verified, and no part of a path: both were tracebacks."""
    path = tmp_path / "data/checkpoints/tecoa/0.safetensors"
    files.save_tensors(path, {"w": torch.ones(2)}, {"a": 1}, placed=True)
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    facts = json.loads(header["__metadata__"]["facts"]) | {fact: value}
    text = json.dumps(header | {"__metadata__": {"facts": json.dumps(facts)}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[length:])
    for read in (files.check_place, files.check_content, files.load_tensors, files.load_facts):
        with pytest.raises(files.Unusable, match="0.safetensors is damaged .*facts are not those that the project"):
            read(path)


def test_a_place_of_two_lines_is_told_in_one(tmp_path):
    files.save_tensors(tmp_path / "a\nb.safetensors", {"w": torch.ones(2)}, {}, placed=True)
    (tmp_path / "a\nb.safetensors").rename(tmp_path / "c.safetensors")
    with pytest.raises(files.Unusable) as caught:
        files.check_place(tmp_path / "c.safetensors")
    assert "\n" not in str(caught.value) and r"a\nb.safetensors, and is refused" in str(caught.value)


def test_want_of_memory_is_no_damage_and_costs_no_kept_work(tmp_path, monkeypatch):
    def none(*arguments: object, **named: object) -> None:
        raise MemoryError

    files.write_kept(tmp_path / "kept", "task", 1)
    monkeypatch.setattr(json, "loads", none)
    with pytest.raises(MemoryError):
        scratch.readable(tmp_path / "kept", lambda path: files.read_kept(path, "task"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("content", [[], None, "text", {"a": 1}])
def test_kept_work_of_another_version_is_refused(tmp_path, content):
    files.write_kept(tmp_path / "kept", "task", content)
    assert files.read_kept(tmp_path / "kept", "task") == content
    with pytest.raises(files.Unusable, match="kept is of another form than the task of this version"):
        files.read_kept(tmp_path / "kept", "task", ("a", "b"))


def test_a_seed_has_one_name(tmp_path):
    for name in ("0", "00", "7", "07", "10"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert [path.stem for path in files.listed(tmp_path, ".safetensors")] == ["0", "7", "10"]
