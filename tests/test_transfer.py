"""The transfer study as a pipeline of its own: params, stages, tables; the paper's scale on fixtures."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests import fixtures_real
from tests.test_architecture import imported
from zsr import storage, transfer_check, transfer_figures, transfer_tables
from zsr.errors import ParamError, StudyError
from zsr.finetune import FineTuning
from zsr.models import backbones
from zsr.models.backbones import Backbone
from zsr.params import component, over, read, training_of
from zsr.records import Record
from zsr.storage import read_json, read_rows
from zsr.transfer_params import Grid, recipe_of
from zsr.transfer_study import Run, row
from zsr.transfer_tables import Facts

ROOT = Path(__file__).parents[1]
TRANSFER, PAPER = (read(ROOT / folder / "params.yaml") for folder in ("transfer", "paper-transfer"))
STARTS, METHODS = ("scratch", "pretrained", "robust"), ("ft", "dm", "trades", "at")
STAGES = ("params", "start", "training", "verdicts", "likeness")
SMALL = Backbone(arch="small", side=0, width=4)


def written(folder, document):
    """A params file; JSON is YAML."""
    storage.write_json(folder / "params.yaml", document)
    return folder / "params.yaml"


# what is asked


def test_both_scales_have_one_graph():
    assert (ROOT / "transfer/dvc.yaml").read_text() == (ROOT / "paper-transfer/dvc.yaml").read_text()


@pytest.mark.parametrize("document", [TRANSFER, PAPER], ids=["embedded", "paper"])
def test_every_start_is_trained_by_every_method(document, tmp_path):
    study = transfer_check.check(written(tmp_path, document))
    pairs = {(run.start, run.method) for run in study.runs.values()}
    assert {(start, method) for start in STARTS for method in METHODS} <= pairs
    assert all(name == f"{run.start}_{run.method}" for name, run in study.runs.items())
    assert len(study.seeds) > 1


def test_dm_takes_its_weight_free_of_the_batch_size():
    own = {name: block for name, block in PAPER["methods"]["dm"].items() if "beta" in name}
    assert own == {"beta_eff": 500 / PAPER["train"]["batch_size"]}
    recipe = training_of(PAPER, "dm", FineTuning)
    assert (255 * recipe.attack.eps, recipe.attack.n_iter) == (pytest.approx(0.5), 10)
    assert recipe.attack.step_size == pytest.approx(1.25 * recipe.attack.eps / 10)


def test_every_trained_start_and_run_differs_by_its_start_or_method_alone():
    recipes = {start: recipe_of(TRANSFER, start, FineTuning) for start in STARTS}
    assert recipes["scratch"].epochs == 0 and recipes["pretrained"] == recipes["robust"]
    robust = {name: training_of(TRANSFER, name, FineTuning) for name in METHODS}
    assert robust["ft"] == robust["at"] == robust["trades"]


ERRORS = {
    "likeness.reference is none of starts (scratch, pretrained, robust): 'pretraind'; did you mean 'pretrained'?": {
        "likeness": {"reference": "pretraind"}
    },
    "runs.robust_dm.method is none of methods (ft, dm, trades, at): 'trade'; did you mean 'trades'?": {
        "runs": {"robust_dm": {"method": "trade"}}
    },
    "runs.robust_dm.start is none of starts (scratch, pretrained, robust): 'strong'": {
        "runs": {"robust_dm": {"start": "strong"}}
    },
    "runs must differ in start or method, got robust_ft, robust_dm": {"runs": {"robust_dm": {"method": "ft"}}},
    "runs.robust_dm.code must be one of methods/dm.py, got 'methods/ft.py'": {
        "runs": {"robust_dm": {"code": "methods/ft.py"}}
    },
    "starts.scratch must be random weights: train.epochs 0 and no file, got 1": {
        "starts": {"scratch": {"train": {"epochs": 1}}}
    },
    "starts.robust.train.lr must be above 0, got -1": {"starts": {"robust": {"train": {"lr": -1}}}},
    "starts.robust.sha256 is of starts.robust.file, of which there is none": {"starts": {"robust": {"sha256": "ab"}}},
    "backbone.arch must be one of resnet18, resnet50, wide_resnet50_2 where starts.robust is a file, got 'small'": {
        "starts": {"robust": {"file": "weights.pt"}}
    },
    "backbone.arch must be one of small, resnet18, resnet50, wide_resnet50_2, got 'resnet19'; did you mean": {
        "backbone": {"arch": "resnet19"}
    },
    "data: target must name one of sets (planted_source, planted_target), got 'planted'; did you mean": {
        "data": {"target": "planted"}
    },
    "data: the target 'planted_target' needs a training split: sets.planted_target.train is 0": {
        "data": {"sets": {"planted_target": {"train": 0}}}
    },
    "data.sets.planted_target.train must be at most 448, got 449": {
        "data": {"sets": {"planted_target": {"train": 449}}}
    },
    "unknown key 'methods.dm.beta'; did you mean 'beta_eff'?": {"methods": {"dm": {"beta": 500}}},
    "grid: eps must be at least one number, each larger than the one before, got []": {"grid": {"eps": []}},
    "grid.attack is none of attacks (pgd): 'pdg'; did you mean 'pgd'?": {"grid": {"attack": "pdg"}},
    "likeness.images must be above 64, features of small, for cca, got 64": {"likeness": {"images": 64}},
    "likeness.images must be at most 448, data.sets.planted_target.test, got 449": {"likeness": {"images": 449}},
    "evaluate.protocol must be trusted, got 'published'": {"evaluate": {"protocol": "published"}},
    "seeds must be at least one, none twice, got [0, 0]": {"seeds": [0, 0]},
    "methods.tga_zsr needs class prompts or a ViT; a ResNet with a linear head has neither": {
        "methods": {"tga_zsr": {"section": "methods.tga_zsr", **read(ROOT / "params.yaml")["method"]}}
    },
}


@pytest.mark.parametrize("message", ERRORS, ids=range(len(ERRORS)))
def test_what_cannot_be_is_named_before_anything_is_computed(message, tmp_path):
    document = over(TRANSFER, ERRORS[message])
    with pytest.raises(ParamError) as error:
        transfer_check.check(written(tmp_path, document))
    said = str(error.value).removeprefix(f"{tmp_path / 'params.yaml'}: ")
    assert said.startswith(message) and "\n" not in said


def test_no_method_knows_the_study():
    for path in (ROOT / "zsr/methods").glob("*.py"):
        assert not [name for name in imported(path) if "transfer" in name or "likeness" in name], path


def test_no_stage_loads_open_clip_and_the_tables_no_torch():
    commands = ", ".join(f"stages.transfer_{name}" for name in STAGES)
    code = (
        "import sys, stages.transfer_tables; sys.exit(1) if 'torch' in sys.modules else None; "
        f"import {commands}; sys.exit(2) if 'open_clip' in sys.modules else None"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# towers


def test_a_seed_has_one_tower_and_one_head_for_all_starts(tmp_path):
    one, same, other = (SMALL.random(5, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.visual.conv1.weight, other.visual.conv1.weight)
    before = torch.get_rng_state()
    heads = [backbones.with_new_head(model, 7, seed=3).head.weight for model in (one, other)]
    assert torch.equal(*heads) and heads[0].shape == (7, 16)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_is_kept_whole(tmp_path):
    model = backbones.with_new_head(SMALL.random(5, 0), 3, 1)
    with torch.no_grad():
        model.visual.bn1.running_mean.fill_(0.3)
        model.mean.fill_(0.25)
    backbones.save(tmp_path / "0.safetensors", model)
    found, images = SMALL.load(tmp_path / "0.safetensors"), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(found(images), model(images), rtol=0, atol=0)


def robustbench_file(path, seed=0):
    """A ResNet-18 of random weights as RobustBench keeps Salman2020Do_R18."""
    tower = Backbone(arch="resnet18", side=32).random(1000, seed)
    state = {f"model.{name}": value for name, value in tower.visual.state_dict().items()}
    state |= {f"model.fc.{name}": value for name, value in tower.head.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state | {"normalize.mean": tower.mean[None], "normalize.std": tower.std[None]}}, path)


def test_another_file_than_the_one_named_is_refused(tmp_path):
    backbone, path = Backbone(arch="resnet18", side=32), tmp_path / "weights.pt"
    with pytest.raises(StudyError, match="weights.pt is not there; bring the weights of resnet18"):
        backbone.from_file(path)
    path.write_bytes(b"other")
    with pytest.raises(StudyError, match="weights.pt has the sha256 [0-9a-f]{64}, not ab"):
        backbone.from_file(path, "ab")
    with pytest.raises(ParamError, match="backbone.arch must be one of resnet18, .* got 'small'"):
        SMALL.from_file(path)


# tables


FACTS = Facts("t", ("no evidence",), ("15/255",), 5)


def rows():
    """scratch and robust starts, two seeds: plain fine-tuning, and dm, which is more robust."""
    robust = {("scratch", "ft"): (0.4, 0.5), ("robust", "ft"): (0.3, 0.6), ("robust", "dm"): (0.7, 0.8)}
    return [
        row(Run(init=init, method=method, backbone="small", dataset="s", seed=i), 0.8, {"15/255": value}, 100)
        for (init, method), values in robust.items()
        for i, value in enumerate(values)
    ]


def alike():
    """Layer similarities and the rest; the features of the robust start's dm have collapsed with seed 1."""
    found = []
    for start, method in (("scratch", "ft"), ("robust", "ft"), ("robust", "dm")):
        for seed in "01":
            key = {"run": f"{start}_{method}", "start": start, "method": method, "seed": seed}
            gone = method == "dm" and seed == "1"
            for measure, given, layer, value in [
                ("cka", "clean", "layer1", 0.5 + 0.1 * int(seed)), ("cka", "clean", "features", 0.25),
                ("accuracy", "universal", "", 0.5), ("accuracy", "random_signs", "", 0.75),
                ("fooled", "universal", "", 0.4), ("variance", "train", "features", 0.001 if gone else 1.0),
                ("cross_entropy", "train", "", 1.6 if gone else 0.1),
            ]:  # fmt: skip
                found.append(key | {"measure": measure, "input": given, "layer": layer, "value": str(value)})
    return found


def test_differences_are_paired_by_seed_and_say_how_many_agree(tmp_path):
    found = transfer_tables.difference_rows(rows(), FACTS)
    pairs = [(r["first"], r["second"]) for r in found]
    assert pairs == [("robust ft", "scratch ft"), ("robust dm", "robust ft")]
    start, method = found
    assert (start["robust"], start["agree"], start["saturated"]) == (pytest.approx(0), 1, False)
    assert start["robust_sd"] == pytest.approx(np.std([-0.1, 0.1], ddof=1))
    assert (method["robust"], method["agree"]) == (pytest.approx(0.3), 0)
    transfer_tables.differences(tmp_path, found, FACTS)
    text = (tmp_path / "differences.md").read_text()
    assert "| robust ft | scratch ft | 15/255 | +0.0" in text and "1 of 2" in text and "- no evidence" in text
    assert len(read_rows(tmp_path / "differences.csv")) == 2


def test_tables_show_means_and_deviations_and_flag_what_collapsed(tmp_path):
    flags = transfer_tables.flags(alike(), 5)
    assert flags == {"robust dm": "collapsed 1 of 2"}
    transfer_tables.accuracy(tmp_path, rows(), FACTS, flags)
    text = (tmp_path / "transfer.md").read_text()
    assert "45.0 ± 7.1" in text and "collapsed 1 of 2" in text and "final" in text and "- no evidence" in text
    assert r"\begin{table}" in (tmp_path / "transfer.tex").read_text()
    transfer_tables.likeness(tmp_path, alike(), "pretrained", FACTS)
    assert "| scratch | ft       | 55.0 ± 7.1" in (tmp_path / "likeness.md").read_text()


def test_a_model_that_is_never_right_has_no_drop_rate_and_stops_no_table(tmp_path):
    never = [row(Run(**{k: r[k] for k in Run.__dataclass_fields__}), 0.0, {"15/255": 0.0}, 100) for r in rows()[:2]]
    transfer_tables.accuracy(tmp_path, never + rows()[2:], FACTS, {})
    assert "nan" in (tmp_path / "transfer.md").read_text()
    found = transfer_tables.difference_rows(never + rows()[2:], FACTS)
    assert np.isnan(found[0]["drop_rate"]) and found[0]["agree"] == 0


def test_metrics_are_means_over_seeds_in_percent(tmp_path):
    transfer_tables.write_metrics(tmp_path, rows(), alike(), FACTS)
    assert read_json(tmp_path / "robust_dm.json") == {
        "clean": 80.0, "robust@15/255": 75.0, "DR@15/255": 6.25, "CKA": 25.0, "universal": 50.0, "random_signs": 75.0,
    }  # fmt: skip


def test_equal_rows_draw_equal_figures(tmp_path):
    for name in "ab":
        transfer_figures.robustness(tmp_path / name / "robustness.png", rows(), FACTS.eps, "note")
        transfer_figures.likeness(tmp_path / name / "likeness.png", alike(), "note")
    for figure in ("robustness.png", "likeness.png"):
        assert (tmp_path / "a" / figure).read_bytes() == (tmp_path / "b" / figure).read_bytes()


# stages


def call(stage, *arguments):
    """A stage in this process, in the folder that the test is in; its files are named as in dvc.yaml."""
    result = CliRunner().invoke(import_module(f"stages.{stage}").main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


def run_all(document):
    """Every stage of dvc.yaml, in the current folder."""
    written(Path(), document)
    target = f"data/sets/{document['data']['target']}"
    call("transfer_params", "--out", "data/params.ok")
    for name in document["data"]["sets"]:
        call("data", name, "--root", "downloads", "--out", f"data/sets/{name}")
    source = f"data/sets/{document['data']['source']}/train.safetensors"
    for name in document["starts"]:
        where = ("--out", f"data/starts/{name}", "--curve", f"metrics/curves/start_{name}.csv")
        call("transfer_start", name, "--source", source, *where)
    for name, run in document["runs"].items():
        where = ("--out", f"data/towers/{name}", "--curve", f"metrics/curves/{name}.csv")
        given = ("--start", f"data/starts/{run['start']}", "--target", f"{target}/train.safetensors")
        call("transfer_training", name, *given, *where)
        given = ("--towers", f"data/towers/{name}", "--target", f"{target}/test.safetensors")
        call("transfer_verdicts", name, *given, "--out", f"data/records/{name}")
    given = ("--starts", "data/starts", "--towers", "data/towers", "--target", target)
    call("transfer_likeness", *given, "--out", "metrics/likeness.csv")
    read_from = ("--records", "data/records", "--likeness", "metrics/likeness.csv")
    written_to = ("--tables", "tables", "--figures", "figures", "--metrics", "metrics/runs")
    call("transfer_tables", *read_from, "--target", f"{target}/test.safetensors", *written_to)


def few(document, *runs):
    return document | {"runs": {name: document["runs"][name] for name in runs}}


TINY = {
    "seeds": [0, 1],
    "data": {"sets": {"planted_source": {"train": 20, "test": 1}, "planted_target": {"train": 20, "test": 30}}},
    "backbone": {"width": 4},
    "train": {"epochs": 1, "batch_size": 10, "attack": {"n_iter": 1}},
    "methods": {"dm": {"train": {"attack": {"n_iter": 1}}}},
    "attacks": {"pgd": {"n_iter": 1}},
    "grid": {"eps": ["15/510", "15/255"]},
    "evaluate": {"batch_size": 30},
    "likeness": {"images": 30, "universal": {"epochs": 1}},
}


def test_the_stages_make_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = few(over(TRANSFER, TINY), "scratch_ft", "pretrained_ft", "pretrained_dm", "robust_at")
    run_all(wanted)
    record = Record.load(Path("data/records/pretrained_dm/1/7.5.json"))
    assert (record.method, record.seed, record.attack, len(record.ids)) == ("pretrained_dm", 1, "pgd", 30)
    assert "eps 7.5/255, step 1.875/255" in record.protocol and "linear head" in record.protocol
    assert "acts at 8 px" in record.protocol
    start, tuned = (
        [SMALL.load(Path(f"data/{kind}/{name}/{seed}.safetensors")) for seed in (0, 1)]
        for kind, name in (("starts", "scratch"), ("towers", "scratch_ft"))
    )
    assert not torch.equal(start[0].visual.conv1.weight, start[1].visual.conv1.weight)
    assert not torch.equal(start[0].visual.conv1.weight, tuned[0].visual.conv1.weight)
    assert len(read_rows(Path("metrics/curves/pretrained_dm.csv"))) == 2
    assert read_rows(Path("metrics/curves/start_scratch.csv")) == []
    measured = read_rows(Path("metrics/likeness.csv"))
    assert {r["run"] for r in measured} == set(wanted["runs"]) and {r["seed"] for r in measured} == {"0", "1"}
    assert {r["measure"] for r in measured} == {"cka", "cca", "accuracy", "fooled", "variance", "cross_entropy"}
    assert len(read_rows(Path("tables/transfer.csv"))) == 8
    assert {p.stem for p in Path("metrics/runs").glob("*.json")} == set(wanted["runs"])
    assert "It is no evidence for the paper's claim" in Path("tables/transfer.md").read_text()
    made = Path("data/towers/scratch_ft/0.safetensors").read_bytes()
    given = ("--start", "data/starts/scratch", "--target", "data/sets/planted_target/train.safetensors")
    call("transfer_training", "scratch_ft", *given, "--out", "again", "--curve", "again.csv")  # is kept outside DVC
    assert Path("again/0.safetensors").read_bytes() == made


def test_a_grid_stretches_the_step_with_eps():
    attack = component(TRANSFER, "attacks", "pgd")
    made = Grid(attack="pgd", eps=(0.25 / 255, 1 / 255)).attacks(attack)
    assert {name: of.eps for name, of in made.items()} == {"0.25": 0.25 / 255, "1": 1 / 255}
    assert all(of.step_size == pytest.approx(of.eps / 4) and of.n_iter == 10 for of in made.values())


PETS = {
    "seeds": [0],
    "threads": 1,
    "compute": {"device": "cpu"},
    "data": {"image_size": 64, "complete": False, "sets": {"oxford_pets": {"train": 2, "test": 2}}},
    "backbone": {"side": 64},
    "train": {"epochs": 1, "batch_size": 2, "attack": {"n_iter": 1}},
    "grid": {"eps": ["1/255"]},
    "evaluate": {"batch_size": 2},
    "attacks": {"pgd": {"n_iter": 1}},
    "likeness": {"measures": ["cka"], "images": 2, "universal": {"epochs": 1}},
}


def test_the_papers_scale_runs_on_fixtures(tmp_path, monkeypatch):
    """Oxford Pets in its own format, files of random weights as torchvision and RobustBench have them, TWINS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    fixtures_real.oxford_pets(Path("downloads"), np.random.default_rng(0))
    robustbench_file(Path("downloads/weights/robust.pt"), seed=1)
    tower = Backbone(arch="resnet18", side=32).random(1000, 2)
    head = {f"fc.{name}": value for name, value in tower.head.state_dict().items()}
    torch.save(tower.visual.state_dict() | head, "downloads/weights/plain.pth")
    changes = {"twins_trades": {"train": {"epochs": 1, "attack": {"n_iter": 1}}}}
    starts = {
        "pretrained": {"file": "downloads/weights/plain.pth"},
        "robust": {
            "file": "downloads/weights/robust.pt",
            "sha256": storage.sha256(Path("downloads/weights/robust.pt")),
        },
    }
    wanted = over(PAPER, PETS | {"starts": starts, "methods": changes})
    wanted["starts"].pop("scratch")
    run_all(few(wanted, "pretrained_dm", "robust_twins_trades"))
    start = Backbone(arch="resnet18", side=32).load(Path("data/starts/pretrained/0.safetensors"))
    torch.testing.assert_close(start.visual.conv1.weight, tower.visual.conv1.weight, rtol=0, atol=0)
    twins = Backbone(arch="resnet18", side=32).load(Path("data/towers/robust_twins_trades/0.safetensors"))
    assert twins.head.out_features == 2
    record = Record.load(Path("data/records/robust_twins_trades/0/1.json"))
    assert len(record.ids) == 2 and "acts at 64 px" in record.protocol
    assert "frozen_kl" in read_rows(Path("metrics/curves/robust_twins_trades.csv"))[0]
    assert "no number of theirs stands here" in Path("tables/transfer.md").read_text()
