import multiprocessing
import resource
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zsr import disk, files
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
    assert path.read_bytes() == b"old"


def test_a_digest_sees_contents_and_order_not_joints(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert files.digest(tmp_path / "f") == files.digest("abc") == files.digest(b"abc")
    assert len({files.digest("ab", "c"), files.digest("a", "bc"), files.digest("c", "ab")}) == 3


def _hold(path, held, seconds):
    with files.claimed(path):
        held.set()
        time.sleep(seconds)


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


@pytest.mark.parametrize("number", disk.CANNOT_RESERVE)
def test_a_file_system_that_reserves_nothing_is_written_to_all_the_same(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no way to reserve")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with grow(tmp_path / "grown", 2) as images:
        images[:] = 7
    assert files.load_arrays(tmp_path / "grown")[0]["images"].tolist() == [[[[7] * 3]]] * 2


def test_a_link_in_the_way_of_a_growing_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda n: "known")
    (tmp_path / ".grown.known.tmp").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="grown cannot be written"), grow(tmp_path / "grown"):
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
