"""Several processes on one run: the same verdicts, the same losses, and a kill that costs only what was not kept."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

from stages.launch import CHILD
from stages.verdicts import Judged, judge
from tests.conftest import ROOT
from zsr import distributed, storage
from zsr.data import prepared
from zsr.data.sources import make
from zsr.data.split import digest
from zsr.finetune import FineTuning, Texts, finetune
from zsr.models import clip
from zsr.params import component, over, read, training_of
from zsr.records import BITS, Record

METHODS = ["ft_adv", "tecoa", "pmg_aft", "comp_tga", "fare"]


def in_processes(n, work, folder):
    """What work(process) gives in n processes that know each other; forked, so that torch need not be loaded again."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def run(process):
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(process), "WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ[CHILD] = "test"
        with distributed.joined():
            torch.save(work(process), folder / str(process))

    started = [multiprocessing.get_context("fork").Process(target=run, args=(process,)) for process in range(n)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    return [torch.load(folder / str(process), weights_only=False) for process in range(n)]


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 21, 0, 24)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_with_the_losses_of_one(document, name, clip_model, source, tmp_path):
    """Batches of 8 and a last one of 5; with its contrastive loss over the batch, its sums, its noise by place."""
    method = component(document, "methods", name)
    recipe = replace(
        training_of(document, name, FineTuning), epochs=1, batch_size=8, warmup_steps=1, save_every=1, optimizer="sgd"
    )
    texts = Texts(*torch.nn.functional.normalize(torch.randn(2, 12, 48), dim=2))

    def work(process):
        kept = tmp_path / f"kept{process}"
        return finetune(method, clip_model, texts, source, recipe, 0, kept), clip_model.visual.state_dict()

    pair = in_processes(2, work, tmp_path)
    torch.set_num_threads(1)
    rows, weights = work("alone")
    for process, (its_rows, its_weights) in enumerate(pair):
        for row, other in zip(rows, its_rows, strict=True):
            assert other == pytest.approx(row, rel=1e-5, abs=1e-6)
        assert all(torch.equal(its_weights[key], value) for key, value in pair[0][1].items())
        assert (tmp_path / f"kept{process}").exists() == (process == 0)
    assert (weights["proj"] - pair[0][1]["proj"]).norm() < 1e-4 * weights["proj"].norm()


@pytest.fixture
def sets(tmp_path, clip_model):
    """Three small sets as the pipeline prepares them; one has fewer images than there are processes."""
    for name, n in {"shapes": 25, "letters": 8, "combos": 1}.items():
        test = tmp_path / f"sets/{name}/test.safetensors"
        make(name, "test", n, 0, 24).save(test)
        text = torch.nn.functional.normalize(torch.randn(24, 48), dim=1)
        embedded = tmp_path / f"text/{name}.safetensors"
        storage.save_tensors(embedded, {"text_embeddings": text}, {"wording": "prompt 'a {}'"})
        storage.write_json(embedded.with_suffix(".json"), {"images": digest(test)})
    return {name: prepared.load(tmp_path / "sets", tmp_path / "text", name) for name in ("shapes", "letters", "combos")}


@pytest.mark.parametrize("attack", ["pgd", "autoattack"])
def test_two_processes_give_the_bits_of_one(document, attack, clip_model, sets, tmp_path, monkeypatch):
    changes = {"evaluate": {"batch_size": 4, "save_every": 2}, "attacks": {"autoattack": {"n_iter": 3}}}
    small, judged = over(document, changes), Judged("tecoa", 0, "weights", clip_model)

    def work(process):
        monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / f"kept{process}"))
        judge(small, judged, attack, sets, tmp_path / f"out{process}")

    in_processes(2, work, tmp_path)
    torch.set_num_threads(1)
    work("alone")
    for name in sets:
        pair, alone = (Record.load(tmp_path / f"out{process}/{name}.json") for process in (0, "alone"))
        for bits in ("ids", *BITS, "marks", "protocol"):
            assert getattr(pair, bits) == getattr(alone, bits), bits
        assert not (tmp_path / f"out1/{name}.json").exists()
    assert not list((tmp_path / "kept1").rglob("*.json"))  # the first process keeps the whole
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept0").rglob("*.json")}
    in_processes(2, work, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept0").rglob("*.json")}


@pytest.fixture
def fine_tuning(tmp_path, clip_model):
    """A folder in which `python -m stages.finetune` runs: `(launcher, **params) -> the command`."""
    make("shapes", "train", 200, 0, 24).save(tmp_path / "train.safetensors")
    text = torch.nn.functional.normalize(torch.randn(12, 48), dim=1)
    storage.save_tensors(tmp_path / "text.safetensors", {"text_embeddings": text}, {})
    clip.save(tmp_path / "base.safetensors", clip_model, "zsr-tiny")

    def command(launcher, **changes):
        changed = over(read(ROOT / "params.yaml"), {"launcher": launcher, "threads": 1, "train": changes})
        (tmp_path / "params.yaml").write_text(json.dumps(changed))
        arguments = "tecoa --source train.safetensors --text text.safetensors --base base.safetensors"
        return [sys.executable, "-m", "stages.finetune", *arguments.split(), "--out", "out", "--curve", "curve.csv"]

    return command


def start(command, folder, processes):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PET_NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_in_one_line_and_the_next_goes_on(fine_tuning, tmp_path):
    command = fine_tuning("torchrun", batch_size=8, epochs=12, warmup_steps=1, save_every=5, optimizer="sgd")
    run = start(command, tmp_path, 2)
    while not list(tmp_path.glob(".scratch/finetune/*/*/unfinished")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    [second] = [p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1"]
    second.kill()
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "Traceback" not in said
    assert "stages.finetune: process 1 of the run was killed by signal 9; the others were ended." in said
    assert not psutil.Process().children(recursive=True)
    [kept] = tmp_path.glob(".scratch/finetune/*/*/unfinished")
    done = torch.load(kept, weights_only=True)
    assert 0 < done["step"] < 300 and done["step"] % 5 == 0
    again = start(command, tmp_path, 2)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    rows = storage.read_rows(tmp_path / "curve.csv")
    assert len(rows) == 300 and [float(r["loss"]) for r in rows[: done["step"]]] == [r["loss"] for r in done["rows"]]


@pytest.mark.slow
def test_a_mistake_in_a_process_is_told_once_more_in_one_line(fine_tuning, tmp_path):
    run = start(fine_tuning("torchrun", attack={"gradient_leak": 1.0}), tmp_path, 2)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "Traceback" not in said
    assert "train.attack.gradient_leak needs one process; choose launcher: python, or gradient_leak: 0" in said
    assert "of the run ended with exit code 1; its message is above" in said
