import multiprocessing
import time

import numpy as np
import pytest
import torch

from zsr import files


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
