"""Several processes on one run: the same verdicts, the same losses, and a kill that costs only what was not kept."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from stages import command
from stages.command import CHILD
from tests.conftest import ROOT
from tests.prepared_sets import prepared_sets
from zsr import compute, files
from zsr.compute import ON_CPU
from zsr.data.sources import make
from zsr.evaluation.evaluate import Evaluation, Judging, judge
from zsr.evaluation.records import BITS, Record
from zsr.methods.tecoa import TeCoA
from zsr.methods.twins import Twins
from zsr.models import clip
from zsr.models.heads import Model
from zsr.params import StudyError, block, component, over, read, training_of
from zsr.scratch import unwatched
from zsr.training.finetune import FineTuning, Texts, TrainingTask, finetune, train, train_once

SLOW = pytest.mark.slow  # another case of the same
METHODS = ["ft_adv", "pmg_aft", "comp_tga", "fare", *(pytest.param(name, marks=SLOW) for name in ("tecoa", "agft"))]


def in_processes(n, work, folder):
    """What work(process) gives in n processes that know each other; forked, so that torch need not be loaded again."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def run(process):
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(process), "WORLD_SIZE": str(n), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ[CHILD] = "test"
        with compute.joined():
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
    document = document if name in document["methods"] else read(ROOT / "studies/frontier/params.yaml")
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


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(TeCoA(), id="at"),
        pytest.param(Twins(base={"module": "tecoa"}, lambda_frozen=1.0), id="twins", marks=SLOW),
    ],
)
def test_a_tower_with_batchnorm_is_refused_before_a_step(document, method, tmp_path):
    """The statistics of a part are not those of the batch: two processes would learn something else than one."""
    make("shapes", "train", 16, 0, 24).save(tmp_path / "train.safetensors")
    clip.save(tmp_path / "base.safetensors", clip.create("zsr-tiny-rn"), "zsr-tiny-rn")
    task = TrainingTask(
        method=method,
        recipe=replace(block(document, "train", FineTuning), batch_size=8),
        seed=0,
        model=Model(arch="zsr-tiny-rn"),
        compute=ON_CPU,
        threads=1,
        images=tmp_path / "train.safetensors",
        text_embeddings=tmp_path / "not read",
        weights=tmp_path / "base.safetensors",
        origin="base",
    )

    def work(process):
        try:
            train(task, tmp_path / "unfinished")
        except StudyError as error:
            return str(error)

    said = in_processes(2, work, tmp_path)
    assert said[0] == said[1] and "\n" not in said[0] and not (tmp_path / "unfinished").exists()
    assert said[0].startswith("zsr-tiny-rn has BatchNorm, whose statistics are those of a whole batch, but 2 processes")
    assert "set launcher: python, or PET_NPROC_PER_NODE=1" in said[0]
    with pytest.raises(StudyError, match="zsr-tiny-rn has BatchNorm.*train.accumulate must be 1, got 2"):
        train(replace(task, recipe=replace(task.recipe, accumulate=2)), tmp_path / "unfinished")


@pytest.fixture
def sets(tmp_path):
    """Three small sets; one has fewer images than there are processes."""
    text = torch.nn.functional.normalize(torch.randn(24, 48), dim=1)
    return prepared_sets(tmp_path, {"shapes": 25, "letters": 8, "greek": 1}, text)


@pytest.mark.parametrize("attack", [pytest.param("pgd", marks=SLOW), "autoattack"])
def test_two_processes_give_the_bits_of_one(document, attack, clip_model, sets, tmp_path, monkeypatch):
    small = over(document, {"attacks": {"autoattack": {"n_iter": 3}}})
    clip.save(tmp_path / "weights.safetensors", clip_model, "zsr-tiny")
    judging = Judging(
        method="tecoa",
        seed=0,
        attack_name=attack,
        attack=component(small, "attacks", attack),
        evaluation=Evaluation(seed=0, batch_size=4, save_every=2),
        model=Model(arch="zsr-tiny"),
        compute=ON_CPU,
        threads=1,
        weights=tmp_path / "weights.safetensors",
    )

    def work(process):
        monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / f"kept{process}"))
        judge(judging, sets, "code", lambda name: unwatched, tmp_path / f"out{process}")

    in_processes(2, work, tmp_path)
    work("alone")
    for name in sets:
        pair, alone = (Record.load(tmp_path / f"out{process}/{name}.json") for process in (0, "alone"))
        for found in ("ids", *BITS):
            assert getattr(pair, found).tolist() == getattr(alone, found).tolist(), found
        assert (pair.marks, pair.protocol) == (alone.marks, alone.protocol)
        assert not (tmp_path / f"out1/{name}.json").exists()
    assert not list((tmp_path / "kept1").rglob("*.json"))  # the first process keeps the whole
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept0").rglob("*.json")}
    in_processes(2, work, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept0").rglob("*.json")}


def test_no_process_goes_on_before_the_first_has_written_what_they_go_on_with(
    document, clip_model, sets, tmp_path, monkeypatch
):
    """A tower and a record: the stage that trains a grid reads both in every process."""
    clip.save(tmp_path / "base.safetensors", clip_model, "zsr-tiny")
    judging = Judging(
        method="clip",
        seed=0,
        attack_name="clean",
        attack=component(over(document, {"attacks": {"clean": {}}}), "attacks", "clean"),
        evaluation=Evaluation(seed=0, batch_size=4, save_every=2),
        model=Model(arch="zsr-tiny"),
        compute=ON_CPU,
        threads=1,
        weights=tmp_path / "base.safetensors",
    )
    task = TrainingTask(
        method=component(document, "methods", "clip"),
        recipe=block(document, "train", FineTuning),
        seed=0,
        model=judging.model,
        compute=ON_CPU,
        threads=1,
        images=sets["shapes"].images,
        text_embeddings=sets["shapes"].text,
        weights=judging.weights,
        origin="base",
    )
    write = files.write_atomic

    def slowly(*arguments):
        time.sleep(0.3)
        write(*arguments)

    monkeypatch.setattr(files, "write_atomic", slowly)
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "kept"))

    def work(process):
        tower, curve = train_once(task, "code")
        there = tower.exists()
        judge(judging, sets, "code", lambda name: unwatched, tmp_path / "out")
        return there, curve, sorted(path.stem for path in (tmp_path / "out").iterdir())

    assert in_processes(2, work, tmp_path) == [(True, [], sorted(sets))] * 2


@pytest.fixture
def fine_tuning(tmp_path, clip_model, monkeypatch):
    """A folder in which `python -m stages.train` runs: `(launcher, **params) -> the command`."""
    monkeypatch.chdir(tmp_path)
    make("shapes", "train", 200, 0, 24).save(Path("data/sets/shapes/train.safetensors"), placed=True)
    text = torch.nn.functional.normalize(torch.randn(12, 48), dim=1)
    embedded = Path("data/text_embeddings/shapes/0.safetensors")
    files.save_tensors(embedded, {"text_embeddings": text}, {}, placed=True)
    clip.save(Path("data/base_model/0.safetensors"), clip_model, "zsr-tiny", placed=True)

    def command(launcher, **changes):
        changed = over(read(ROOT / "params.yaml"), {"launcher": launcher, "threads": 1, "train": changes})
        (tmp_path / "params.yaml").write_text(json.dumps(changed))
        return [sys.executable, "-m", "stages.train", "tecoa"]

    return command


def start(command, folder, processes):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PET_NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1"}
    environment["ZSR_SCRATCH"] = str(folder / ".scratch")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_in_one_line_and_the_next_goes_on(fine_tuning, tmp_path):
    command = fine_tuning("torchrun", batch_size=8, epochs=12, warmup_steps=1, save_every=5, optimizer="sgd")
    run = start(command, tmp_path, 2)
    while not list(tmp_path.glob(".scratch/training/*/unfinished")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    [second] = [p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1"]
    second.kill()
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "Traceback" not in said
    assert "stages.train: process 1 of the run was killed by signal 9; the others were ended." in said
    assert not psutil.Process().children(recursive=True)
    [kept] = tmp_path.glob(".scratch/training/*/unfinished")
    done = torch.load(kept, weights_only=True)
    assert 0 < done["step"] < 300 and done["step"] % 5 == 0
    again = start(command, tmp_path, 2)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    rows = files.read_rows(tmp_path / "metrics/curves/tecoa/curve.csv")
    assert len(rows) == 300 and [float(r["loss"]) for r in rows[: done["step"]]] == [r["loss"] for r in done["rows"]]


@pytest.mark.slow
def test_a_mistake_in_a_process_is_told_once_more_in_one_line(fine_tuning, tmp_path):
    run = start(fine_tuning("torchrun", attack={"gradient_leak": 1.0}), tmp_path, 2)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "Traceback" not in said
    assert "train.attack.gradient_leak needs one process; choose launcher: python, or gradient_leak: 0" in said
    assert "of the run ended with exit code 1; its message is above" in said


@pytest.mark.parametrize("found", [{}, {"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "1"}])
def test_variables_of_torchrun_that_are_half_set_are_told_in_one_line(monkeypatch, found):
    for name in compute.OF_RUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in {compute.CHILD: "x", **found}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StudyError, match="^TORCHELASTIC_RUN_ID is set, .* unset TORCHELASTIC_RUN_ID$"):
        with compute.joined():
            pass


@pytest.mark.parametrize("name, value", [("NPROC_PER_NODE", "many"), ("NPROC_PER_NODE", "0"), ("MASTER_PORT", "a")])
def test_a_variable_that_torchrun_does_not_take_is_told_in_one_line(monkeypatch, capfd, name, value):
    monkeypatch.setenv(f"PET_{name}", value)
    with pytest.raises(StudyError, match=f"^torchrun does not start with .*PET_{name} '{value}'.* see many_gpus.md$"):
        command._start_processes("stages.check", [])
    assert capfd.readouterr().err == ""
