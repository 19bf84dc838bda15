"""The whole pipeline through DVC on a study of two sets and two methods: killed twice, repeated, changed, extended.

The tests share one checkout and build on each other, in order.
"""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.checkout import Checkout, ran
from zsr.evaluation.records import Record
from zsr.files import read_json, read_rows
from zsr.params import read

METHODS = list(read(Path(__file__).parents[2] / "params.yaml")["methods"])
SMALL = {
    "threads": 1,
    "data.source": "shapes",
    "data.start_source": "shapes",
    "data.sets": {"shapes": {"train": 160, "test": 30}, "digits_real": {"train": 0, "test": 30}},
    "data.controls": [],
    "base_model.pool": 320,
    "base_model.epochs": 2,
    "base_model.warmup_steps": 5,
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.save_every": 5,
    **{f"methods.{m}": None for m in METHODS if m not in ("clip", "tga_zsr")},
    "seeds": [0, 1],
    "evaluate.batch_size": 6,
    "attacks.pgd.n_iter": 5,
    "attacks.cw": None,
    "attacks.autoattack": None,
    "protocols.published.attacks.cw": None,
    "evaluate.save_every": 1,
    "evaluate.workers": 1,
    "eps_sweep.pgd.eps": ["8/255"],
    "eps_sweep.pgd.images": 5,
    "attention": {"shapes": {"attack": "pgd", "methods": ["clip", "tga_zsr"], "images": 4, "shown": 2}},
    "tables": ["accuracy", "audit", "orderings"],
    "figures": ["eps_sweep", "trade_off"],
}
STEPS = 30
MEASURES = {"eps_sweep@pgd", "attention@shapes"}
METHOD = '''"""A method that exists only in this test."""

from dataclasses import dataclass

from zsr.methods._base import Method
from zsr.models.passes import cross_entropy
from zsr.params import NonNegative


@dataclass(frozen=True, kw_only=True)
class Throwaway(Method):
    weight: NonNegative

    def losses(self, model, frozen, batch, adv):
        return {"ce": self.weight * cross_entropy(model(batch.images), batch.labels).mean()}


METHOD = Throwaway
'''


def kill_when(checkout: Checkout, target: str, unfinished: str) -> Path:
    """Start `dvc repro target`; kill all its processes as soon as a file of unfinished work is there."""
    process = checkout.start("-m", "dvc", "repro", target)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        found = [p for p in (checkout.folder / ".scratch").glob(unfinished) if p.suffix not in (".lock", ".tmp")]
        if found:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"{target} left no unfinished work:\n{process.communicate()[0]}")


def without(checkout: Checkout, *rows: str) -> None:
    """Remove rows, and the folders of their outputs, which DVC leaves."""
    checkout.edit({f"methods.{row}": None for row in rows})
    for row in rows:
        for place in (*checkout.folder.glob(f"data/*/{row}*"), *checkout.folder.glob(f"metrics/curves/{row}")):
            shutil.rmtree(place)


@pytest.fixture(scope="module")
def study(tmp_path_factory, warm):
    checkout = Checkout(tmp_path_factory.mktemp("study"), **warm)
    (checkout.folder / "dvc.lock").unlink()
    checkout.edit(SMALL)
    checkout.commit("small")
    return checkout


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint(study):
    unfinished = kill_when(study, "train@tga_zsr", "training/*/unfinished")
    step = torch.load(unfinished, weights_only=True)["step"]
    assert 0 < step < STEPS and not (study.folder / "data/checkpoints/tga_zsr").exists()
    output = study.dvc("repro", "train@tga_zsr")
    assert ran(output) == {"train@tga_zsr"}
    (began,) = re.findall(rf"tga_zsr: {STEPS} steps, loss .*went on from step (\d+)", output)
    assert step <= int(began) < STEPS
    assert len(read_rows(study.folder / "metrics/curves/tga_zsr/curve.csv")) == STEPS
    assert not unfinished.exists()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_from_its_record(study):
    unfinished = kill_when(study, "evaluate@tga_zsr-pgd", "evaluate/*.json")
    done = len(Record.load(unfinished).ids)
    assert 0 < done < 30
    output = study.dvc("repro", "evaluate@tga_zsr-pgd")
    assert ran(output) == {"evaluate@tga_zsr-pgd"}
    (found,) = re.findall(r"tga_zsr, pgd: .* 120 images; .*; (\d+) images from kept work", output)
    assert done <= int(found) < 120


def test_the_study_runs_to_tables_figures_and_metrics(study):
    output = study.python("-m", "stages.repro", "--lanes", "1")
    assert {"train@clip", "evaluate@clip-pgd", "tables", "plots_page"} <= ran(output)
    assert_it_tells_what_it_does(output.splitlines())
    written = [f"tables/{name}" for name in ("accuracy.md", "accuracy.tex", "accuracy.csv", "orderings.md", "audit.md")]
    written += [f"figures/{name}.png" for name in ("eps_sweep_pgd", "trade_off")]
    for path in [*written, "metrics/attention/shapes.csv", "metrics/attention/shapes.png"]:
        assert (study.folder / path).stat().st_size > 100, path
    rows = read_rows(study.folder / "metrics/results/accuracy.csv")
    seeds = {"clip": "0", "tga_zsr": "01"}  # a method that does not train has one
    assert [(r["method"], r["attack"], r["set"], r["seed"]) for r in rows] == [
        (m, a, s, i) for m in seeds for a in ("clean", "pgd") for s in ("shapes", "digits_real") for i in seeds[m]
    ]
    assert "standard deviation over 2 training seeds (0, 1)" in " ".join(
        (study.folder / "tables/accuracy.md").read_text().split()
    )
    assert all(0 <= float(r["low"]) <= float(r["accuracy"]) <= float(r["high"]) <= 100 for r in rows)
    assert "window.vegaEmbed=" in (study.folder / "data/plots_page.js").read_text()
    summary = read_json(study.folder / "metrics/summary/clip.json")
    assert summary["robust"] <= summary["clean"]
    study.commit("ran")


def assert_it_tells_what_it_does(lines: list[str]) -> None:
    """Each stage says what it gave, in a line; the last line says what to open; there is no noise of DVC."""
    stages = ran("\n".join(lines))
    for stage, told in {
        "data@shapes": r"shapes: 160 train images, 30 test images, 12 classes",
        "base_model": r"base model: 10 steps, loss [\d.]+",
        "train@clip": r"clip: nothing to train",
        "train@tga_zsr": rf"tga_zsr: {STEPS} steps, loss [\d.]+; 2 seeds.*",
        "evaluate@tga_zsr-pgd": r"tga_zsr, pgd: [\d.]+ % right, mean over 2 sets, 120 images; clean [\d.]+ %.*",
        "collect": r"clip +[\d.]+ +[\d.]+",
    }.items():
        assert stage not in stages or any(re.fullmatch(rf"(\d\| )?{told}", line) for line in lines), told
    assert lines[-1].startswith("Open ") and "tables/accuracy.md" in lines[-1]
    assert not [
        line for line in lines if re.search(r"dvc push|Updating lock|didn't change|> PYTHONPATH|^(\d\|)?\s*$", line)
    ]
    assert len(lines) <= 3 * len(stages)


@pytest.mark.slow
def test_rows_can_run_side_by_side(study, tmp_path):
    clone = study.cloned(tmp_path / "clone")
    output = clone.python("-m", "stages.repro", "--lanes", "2")
    assert {"train@tga_zsr", "evaluate@tga_zsr-pgd", "report"} <= ran(output)
    assert output.count("Running stage") == len(ran(output))  # no lane ran what another one had run
    assert_it_tells_what_it_does(output.splitlines())


@pytest.mark.slow
def test_a_second_clone_takes_what_the_first_has_pushed(study, tmp_path):
    study.dvc("remote", "add", "--default", "--force", "shared", str(tmp_path / "remote"))
    study.commit("remote")
    study.dvc("push")
    clone = study.cloned(tmp_path / "clone")
    output = clone.dvc("repro", "--pull")
    assert not ran(output) and "Pulling data" in output
    same = ("data/checkpoints/*/*", "data/records/*/*/*", "metrics/**/*")
    ours, theirs = ({p.relative_to(of.folder): c for p, c in of.contents(*same).items()} for of in (study, clone))
    assert ours == theirs and len(ours) > 15
    assert "Data and pipelines are up to date." in clone.dvc("repro")


@pytest.mark.slow
def test_a_clone_with_the_same_cache_needs_no_lock(study, tmp_path):
    """What another machine has computed is restored by its inputs alone, but for what is cheap and not in the cache."""
    clone = study.cloned(tmp_path / "clone")
    (clone.folder / "dvc.lock").unlink()
    clone.dvc("cache", "dir", "--local", str(study.folder / ".dvc/cache"))
    assert ran(clone.dvc("repro")) <= {"code", "collect", "tables", "figures", "report", *MEASURES}


@pytest.mark.slow
def test_an_uninterrupted_run_gives_the_same_bytes(study):
    results = ("data/checkpoints/*/*", "data/records/*/*/*", "metrics/**/*")
    before = study.contents(*results)
    lock = (study.folder / "dvc.lock").read_bytes()
    for kept in ("training", "evaluate"):
        shutil.rmtree(study.folder / ".scratch" / kept)
    for stage in ("train@tga_zsr", "evaluate@tga_zsr-pgd", "evaluate@clip-pgd", "collect"):
        assert ran(study.dvc("repro", "--force", "--single-item", stage)) == {stage}
    assert len(before) > 15 and study.contents(*results) == before
    assert (study.folder / "dvc.lock").read_bytes() == lock


def test_nothing_runs_when_nothing_changed(study):
    assert "Data and pipelines are up to date." in study.dvc("repro")


@pytest.mark.slow
def test_metrics_fit_the_terminal_and_read_like_a_table(study):
    lines = study.dvc("metrics", "show").splitlines()
    assert lines[0].split() == ["Path", "clean", "marked", "robust", "unseen"] and len(lines) == 1 + 2
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_a_seed_added_costs_its_own_training_and_evaluation(study):
    study.edit({"seeds": [0, 1, 2]})
    output = study.dvc("repro", "train@tga_zsr", "evaluate@tga_zsr-pgd")
    assert ran(output) == {"code", "check", "start", "train@tga_zsr", "evaluate@tga_zsr-pgd"}
    assert "3 seeds, 2 from kept work" in output
    assert re.search(r"tga_zsr, pgd: .* 180 images; .*; 120 images from kept work", output)
    study.edit({"seeds": [0, 1]})
    study.dvc("repro")


@pytest.mark.slow
def test_an_experiment_reruns_one_training_and_what_follows_from_it(study):
    output = study.dvc("exp", "run", "-S", "method.lambda_ar=0.1", "-n", "ar01")
    below = {
        "code",
        "check",
        "train@tga_zsr",
        "evaluate@tga_zsr-pgd",
        "collect",
        "tables",
        "figures",
        "report",
        *MEASURES,
    }
    assert {"check", "train@tga_zsr", "evaluate@tga_zsr-pgd"} <= ran(output) <= below
    lines = study.dvc("metrics", "diff").splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 24 and all("tga_zsr.json" in line for line in lines[1:] if line)
    assert "ar01" in study.dvc("exp", "show", "--csv")


@pytest.mark.slow
def test_going_back_computes_nothing(study):
    study.edit({"method.lambda_ar": 0.08})
    assert not ran(study.dvc("repro")) & {"train@tga_zsr", "evaluate@tga_zsr-pgd"}


@pytest.mark.slow
def test_plots_need_no_network(study):
    study.dvc("plots", "show", "--out", "plots")
    page = (study.folder / "plots/index.html").read_text()
    beside = re.sub(r"<template.*?</template>", "", page, flags=re.DOTALL)  # what serves where the script is not there
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", beside) and beside.count("<img") >= 4
    (script,) = re.findall(r'<script src="(.*?)"', beside)
    assert "window.vegaEmbed=" in (study.folder / "plots" / script).read_text()


@pytest.mark.slow
def test_a_set_added_costs_its_own_evaluation_only(study):
    study.edit({"data.sets.textures": {"train": 0, "test": 12}})
    output = study.dvc("repro")
    assert not any(stage.startswith(("finetune", "base_model")) for stage in ran(output))
    assert "data@textures" in ran(output) and "evaluate@clip-pgd" in ran(output)
    assert re.search(r"clip, pgd: .* 72 images; .*; 60 images from kept work", output)


@pytest.mark.slow
def test_a_row_of_another_module_trains_is_judged_and_stands_in_the_tables(study):
    study.edit({"methods.tecoa_two": {"section": "methods.tecoa_two", "module": "tecoa"}})
    output = study.dvc("repro")
    assert {"train@tecoa_two", "evaluate@tecoa_two-pgd"} <= ran(output)
    assert not ran(output) & {"train@clip", "train@tga_zsr", "base_model"}
    table = (study.folder / "tables/accuracy.md").read_text()
    assert len(re.findall(r"^\| ?tecoa_two *\|", table, re.MULTILINE)) >= 3  # averages, and sets of each attack
    without(study, "tecoa_two")


@pytest.mark.slow
def test_status_is_clean_after_a_run_and_after_a_push_and_a_pull(study, tmp_path):
    study.dvc("repro")
    assert "Data and pipelines are up to date." in study.dvc("status")
    study.dvc("remote", "add", "--default", "--force", "shared", str(tmp_path / "remote"))
    study.dvc("push")
    shutil.rmtree(study.folder / ".dvc/cache")
    study.dvc("pull")
    assert "Data and pipelines are up to date." in study.dvc("status")
    study.commit("before an experiment")
    assert "has been saved" in study.dvc("exp", "save", "-n", "kept")


@pytest.mark.slow
def test_a_method_is_one_file_and_one_block(study):
    (study.folder / "zsr/methods/throwaway.py").write_text(METHOD)
    study.edit({"methods.throwaway": {"section": "methods.throwaway", "weight": 0.5}})
    output = study.dvc("repro")
    assert {"train@throwaway", "evaluate@throwaway-pgd"} <= ran(output)
    assert not ran(output) & {"train@clip", "train@tga_zsr", "base_model"}
    table = (study.folder / "tables/accuracy.md").read_text()
    assert len(re.findall(r"^\| ?throwaway *\|", table, re.MULTILINE)) >= 3  # averages, and sets of each attack
    assert set(read_json(study.folder / "metrics/summary/throwaway.json")) == {"clean", "robust", "unseen", "marked"}


@pytest.mark.slow
def test_a_checkpoint_and_a_method_from_elsewhere_stand_beside_ours_and_rerun_when_they_change(study):
    extensions = study.folder / "extensions"
    (extensions / "lab").mkdir()
    (extensions / "lab/throwaway.py").write_text(METHOD)
    ours = study.folder / "data/checkpoints/tga_zsr"
    shutil.copy(ours / "0.safetensors", extensions / "tower.safetensors")
    mine = {"section": "methods.mine", "module": "checkpoint", "weights": "tower.safetensors", "norm_stats": "clip"}
    theirs = {"section": "methods.theirs", "module": "lab.throwaway", "weight": 0.5}
    study.edit({"methods.mine": mine, "methods.theirs": theirs})
    rows = {"train@mine", "evaluate@mine-pgd"}, {"train@theirs", "evaluate@theirs-pgd"}
    output = study.dvc("repro")
    assert rows[0] | rows[1] <= ran(output) and not ran(output) & {"train@clip", "train@tga_zsr", "base_model"}
    summary = study.folder / "metrics/summary"
    assert {path.stem for path in summary.glob("*.json")} >= {"clip", "tga_zsr", "mine", "theirs"}
    records = [Record.load(study.folder / f"data/records/{m}-pgd/0/shapes.json") for m in ("mine", "tga_zsr")]
    assert (records[0].adv_bits == records[1].adv_bits).all()
    shutil.copy(ours / "1.safetensors", extensions / "tower.safetensors")
    assert ran(study.dvc("repro")) & (rows[0] | rows[1]) == rows[0]
    (extensions / "lab/throwaway.py").write_text(METHOD.replace(".mean()", ".sum()"))
    assert ran(study.dvc("repro")) & (rows[0] | rows[1]) == rows[1]
    without(study, "mine", "theirs")


@pytest.mark.slow
def test_the_command_judges_a_row_as_the_pipeline_does(study):
    study.python("-m", "zsr", "evaluate", "tga_zsr", "--sets", "shapes", "--attack", "pgd", "--out", "judged")
    ours, theirs = study.folder / "judged/pgd/shapes.json", study.folder / "data/records/tga_zsr-pgd/0/shapes.json"
    assert ours.read_bytes() == theirs.read_bytes()
    shutil.rmtree(study.folder / "judged")
    said = study.python("-m", "zsr", "evaluate", "tga_zsr", "--sets", "shapes", "-n", "6", "--attack", "pgd",
                        "--n-iter", "2", "--out", "judged")  # fmt: skip
    assert "Quick look" in said and Record.load(next((study.folder / "judged").rglob("*.json"))).n == 6


def test_a_mistake_stops_the_study_with_one_line(study):
    study.edit({"train.lr": -1})
    process = study.start("-m", "dvc", "repro")
    output, _ = process.communicate()
    assert process.returncode != 0 and ran(output) == {"code", "check"}
    assert "Error: params.yaml: train.lr must be above 0, got -1" in output and "Traceback" not in output
    assert read(study.folder / "params.yaml")["train"]["lr"] == -1
