import multiprocessing
import time

import numpy as np
import pytest
import torch

from zsr import storage


def test_arrays_and_facts_come_back(tmp_path):
    arrays = {"images": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": np.array([1, 2])}
    storage.save_arrays(tmp_path / "x", arrays, {"names": ["a", "b"]})
    loaded, facts = storage.load_arrays(tmp_path / "x")
    assert facts == {"names": ["a", "b"]} and all(np.array_equal(arrays[k], loaded[k]) for k in arrays)
    storage.save_tensors(tmp_path / "y", {"w": torch.eye(3).T[1:]})
    assert torch.equal(storage.load_tensors(tmp_path / "y")[0]["w"], torch.eye(3)[1:])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    storage.write_atomic(path, b"old")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        storage.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_digest_sees_contents_and_order_not_joints(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert storage.digest(tmp_path / "f") == storage.digest("abc") == storage.digest(b"abc")
    assert len({storage.digest("ab", "c"), storage.digest("a", "bc"), storage.digest("c", "ab")}) == 3


def _hold(path, held, seconds):
    with storage.claimed(path):
        held.set()
        time.sleep(seconds)


def test_a_second_writer_waits_for_the_first(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Event()
    first = context.Process(target=_hold, args=(tmp_path / "x", held, 0.5))
    first.start()
    assert held.wait(10)
    start = time.monotonic()
    with storage.claimed(tmp_path / "x"):
        assert time.monotonic() - start > 0.2
    first.join()


def test_kept_work_is_not_restored_by_other_code_torch_or_threads(monkeypatch, tmp_path):
    before, threads = storage.computer_digest(), torch.get_num_threads()
    assert storage.computer_digest() == before
    torch.set_num_threads(threads + 1)
    try:
        assert storage.computer_digest() != before
    finally:
        torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0")
        assert storage.computer_digest() != before
    edited = tmp_path / "errors.py"
    edited.write_text("# edited\n")
    monkeypatch.setattr("zsr.errors.__file__", str(edited))
    assert storage.computer_digest() != before
