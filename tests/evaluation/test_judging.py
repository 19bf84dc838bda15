"""One model on every set: sets side by side, and records of equal weights shared."""

import threading
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import numpy as np
import pytest

from tests.prepared_sets import prepared_sets
from zsr import scratch
from zsr.compute import ON_CPU, Compute
from zsr.evaluation import evaluate as evaluation_module
from zsr.evaluation.evaluate import Evaluation, Judging, judge
from zsr.evaluation.records import BITS, Record
from zsr.models import clip
from zsr.models.heads import Model
from zsr.params import ParamError, component
from zsr.scratch import unwatched

SETS = {"shapes": 20, "letters": 9, "greek": 8}


@pytest.fixture
def sets(tmp_path, fitted_prompts):
    return prepared_sets(tmp_path, SETS, fitted_prompts)


@pytest.fixture
def judged(clip_model, sets, tmp_path, document, monkeypatch):
    """Judges a model on the three sets, and returns the records by name."""
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    clip_model.logit_scale.data += 5.7  # the factor by which `fitted_prompts` lead
    attack = replace(component(document, "attacks", "pgd"), eps=0.4 / 255, step_size=0.2 / 255, n_iter=3)

    def run(workers: int, method: str = "m", bias: float = 0.0, compute: Compute = ON_CPU) -> dict[str, Record]:
        clip_model.visual.ln_post.bias.data += bias
        weights = tmp_path / f"{bias}.safetensors"
        clip.save(weights, clip_model, "zsr-tiny")
        judging = Judging(
            method=method,
            seed=0,
            attack_name="pgd",
            attack=attack,
            evaluation=Evaluation(seed=0, batch_size=7, save_every=2, workers=workers),
            model=Model(arch="zsr-tiny"),
            compute=compute,
            threads=1,
            weights=weights,
        )
        out = tmp_path / f"{method}-{bias}-{workers}"
        judge(judging, sets, "code", lambda name: unwatched, out)
        return {name: Record.load(out / f"{name}.json") for name in sets}

    return run


def test_sets_side_by_side_give_the_bits_of_one_after_another(judged):
    one, several = judged(1), judged(3)
    for name in SETS:
        assert all(np.array_equal(getattr(one[name], bits), getattr(several[name], bits)) for bits in BITS)
        assert one[name].set_name == name
    assert 0 < one["shapes"].robust_bits.sum() < one["shapes"].clean_bits.sum()


@pytest.mark.parametrize("workers, each", [(1, 7), (3, 2), (9, 1)])
def test_sets_side_by_side_share_the_threads(workers, each):
    judging = SimpleNamespace(threads=7, evaluation=SimpleNamespace(workers=workers))
    assert Judging.threads_each.fget(judging) == each


def test_no_more_threads_are_started_than_sets_are_judged(judged, monkeypatch):
    started = []
    monkeypatch.setattr(evaluation_module, "ThreadPool", lambda workers: started.append(workers) or ThreadPool(workers))
    judged(1000)
    assert started == [len(SETS)]


def test_equal_weights_are_judged_once_and_other_weights_again(judged, tmp_path):
    def kept():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").rglob("*.json")}

    first, before = judged(1), kept()
    again = judged(1, method="other")
    for name in SETS:
        assert again[name].method == "other" and np.array_equal(again[name].adv_bits, first[name].adv_bits)
    assert len(before) == len(SETS) and kept() == before
    judged(1, bias=0.1)
    assert len(kept()) == 2 * len(SETS)


def test_a_tower_and_a_part_of_the_images_are_in_the_key(sets, tmp_path, document):
    """A grid judges the towers of all its rates on held-out images: the last ones of the training split."""
    for name in ("weights", "tower", "other"):
        (tmp_path / name).write_bytes(name.encode())
    judging = Judging(
        method="m",
        seed=0,
        attack_name="pgd",
        attack=component(document, "attacks", "pgd"),
        evaluation=Evaluation(seed=0, batch_size=7, save_every=2),
        model=Model(arch="zsr-tiny"),
        compute=ON_CPU,
        threads=1,
        weights=tmp_path / "weights",
    )
    towers = [judging, *(replace(judging, tower=tmp_path / name) for name in ("tower", "other"))]
    parts = [sets["shapes"], *(replace(sets["shapes"], last=n) for n in (3, 4))]
    keys = {scratch.key(of_tower.task("shapes", part), "code") for of_tower in towers for part in parts}
    assert len(keys) == 9


def test_several_sets_at_a_time_are_refused_on_a_gpu_whose_flags_are_the_process_own(judged, monkeypatch):
    import torch

    monkeypatch.setattr(Compute, "place", lambda self: torch.device("cuda"))
    with pytest.raises(ParamError, match="evaluate.workers must be 1 on a GPU, got 2"):
        judged(2)


def test_one_set_at_a_time_is_judged_in_the_main_thread_which_may_set_the_flags_of_a_gpu(judged, monkeypatch):
    found = []
    plain = evaluation_module.matmul_precision
    monkeypatch.setattr(
        evaluation_module,
        "matmul_precision",
        lambda *arguments: found.append(threading.current_thread()) or plain(*arguments),
    )
    judged(1)
    assert found and set(found) == {threading.main_thread()}


def test_numeric_flags_of_a_gpu_are_never_set_from_a_thread():
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from zsr.compute import matmul_precision

    def enter():
        with matmul_precision(torch.device("cuda"), "fp32"):
            pass

    enter()
    with ThreadPoolExecutor(1) as pool, pytest.raises(AssertionError, match="belong to the main thread"):
        pool.submit(enter).result()
