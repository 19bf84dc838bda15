"""The transfer study: params, stages, tables; the paper's scale on fixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import fixtures_real
from tests.conftest import ROOT, parsed
from tests.in_process import call, load_without, run_study
from tests.pipeline.test_architecture import imported
from zsr import files, study
from zsr.evaluation.records import Record
from zsr.files import read_json, read_rows
from zsr.models import linear
from zsr.models.linear import Backbone
from zsr.params import ParamError, StudyError, component, over, training_of
from zsr.reports import figures, tables
from zsr.reports.tables import Facts
from zsr.reports.transfer import Run, row
from zsr.study import check
from zsr.training.finetune import FineTuning

TRANSFER, PAPER = (parsed(ROOT / "studies" / name / "params.yaml") for name in ("transfer", "transfer-paper"))
STARTS, SECTIONS = ("scratch", "pretrained", "robust"), ("ft", "dm", "trades", "at")
SMALL = Backbone(arch="small", side=0, width=8)  # of 4 oneDNN writes beside its memory in backward passes with AVX2


# what is asked


@pytest.mark.parametrize("name", ["transfer", "transfer-paper"])
def test_every_start_is_trained_by_every_method(name):
    checked = check(ROOT / "studies" / name / "params.yaml")
    rows = {row: (own["start"], own["section"].removeprefix("shared.")) for row, own in checked.methods.items()}
    assert {(start, section) for start in STARTS for section in SECTIONS} <= set(rows.values())
    assert all(row == f"{start}_{section}" for row, (start, section) in rows.items())
    assert len(checked.seeds) > 1 and checked.judged == [checked.data.source]


def test_dm_takes_its_weight_free_of_the_batch_size():
    own = {name: block for name, block in PAPER["shared"]["dm"].items() if "beta" in name}
    assert own == {"beta_eff": 500 / PAPER["train"]["batch_size"]}
    recipe = training_of(PAPER, "robust_dm", FineTuning)
    assert (255 * recipe.attack.eps, recipe.attack.n_iter) == (pytest.approx(0.5), 10)
    assert recipe.attack.step_size == pytest.approx(1.25 * recipe.attack.eps / 10)


def test_every_trained_start_and_run_differs_by_its_start_or_method_alone():
    starts = {start: training_of(TRANSFER, start, FineTuning, "starts") for start in STARTS}
    assert starts["scratch"].epochs == 0 and starts["pretrained"] == starts["robust"]
    of_rows = {name: training_of(TRANSFER, name, FineTuning) for name in TRANSFER["methods"]}
    plain = {repr(recipe) for name, recipe in of_rows.items() if not name.endswith("_dm")}
    assert len(plain) == 1 and len({repr(of_rows[f"{start}_dm"]) for start in STARTS}) == 1
    assert {type(component(TRANSFER, "methods", f"{start}_dm")).__name__ for start in STARTS} == {"DM"}


@pytest.mark.parametrize("document", [TRANSFER, PAPER], ids=["embedded", "paper"])
def test_the_step_of_every_attack_is_a_quarter_of_its_eps(document):
    attacks = [component(document, "attacks", name) for name in document["attacks"]]
    assert all(attack.step_size == pytest.approx(attack.eps / 4) and attack.n_iter == 10 for attack in attacks)
    assert [attack.eps for attack in attacks] == sorted({attack.eps for attack in attacks})


LIKENESS = TRANSFER["likeness"]["pretrained"]
ERRORS = {
    "likeness is none of starts (scratch, pretrained, robust): 'pretraind'; did you mean 'pretrained'?": {
        "likeness": {"pretraind": LIKENESS}
    },
    "methods.robust_dm.start is none of starts (scratch, pretrained, robust): 'strong'": {
        "methods": {"robust_dm": {"start": "strong"}}
    },
    "methods.robust_dm.section must be one of methods.robust_dm, method, shared.ft, shared.dm, shared.trades, "
    "shared.at, got 'shared.trade'; did you mean 'shared.trades'?": {
        "methods": {"robust_dm": {"section": "shared.trade"}}
    },
    "methods.robust_dm.module names no module of zsr.methods: 'dmm'; did you mean 'dm'?": {
        "methods": {"robust_dm": {"module": "dmm"}}
    },
    "unknown key 'methods.robust_dm.beta_eff': the hyper-parameters of robust_dm are in 'shared.dm'": {
        "methods": {"robust_dm": {"beta_eff": 1.6}}
    },
    "starts.robust.train.lr must be above 0, got -1": {"starts": {"robust": {"train": {"lr": -1}}}},
    "starts.robust.sha256 is of starts.robust.file, of which there is none": {"starts": {"robust": {"sha256": "ab"}}},
    "model.arch must be one of resnet18, resnet50, wide_resnet50_2 where starts.robust is a file, got 'small'": {
        "starts": {"robust": {"file": "weights.pt"}}
    },
    "model.arch must be one of small, resnet18, resnet50, wide_resnet50_2, got 'resnet19'; did you mean": {
        "model": {"arch": "resnet19"}
    },
    "model.head must be one of text, linear, got 'linar'; did you mean 'linear'?": {"model": {"head": "linar"}},
    "data: source must name one of sets (planted_source, planted_target), got 'planted'": {
        "data": {"source": "planted"}
    },
    "data: start_source must name one of sets (planted_source, planted_target), got 'planted'": {
        "data": {"start_source": "planted"}
    },
    "data: the source 'planted_target' needs a training split: sets.planted_target.train is 0": {
        "data": {"sets": {"planted_target": {"train": 0}}}
    },
    "data.sets.planted_target.train must be at most 448, got 449": {
        "data": {"sets": {"planted_target": {"train": 449}}}
    },
    "unknown key 'shared.dm.beta'; did you mean 'beta_eff'?": {"shared": {"dm": {"beta": 500}}},
    "attacks.pgd_half.module names no module of zsr.attacks: 'pdg'; did you mean 'pgd'?": {
        "attacks": {"pgd_half": {"module": "pdg"}}
    },
    "likeness.pretrained.images must be above 64, features of small, for cca, got 64": {
        "likeness": {"pretrained": {"images": 64}}
    },
    "likeness.pretrained.images must be at most 448, data.sets.planted_target.test, got 449": {
        "likeness": {"pretrained": {"images": 449}}
    },
    "evaluate.protocol is none of protocols (trusted): 'published'": {"evaluate": {"protocol": "published"}},
    "seeds must be at least one, none twice, got [0, 0]": {"seeds": [0, 0]},
    "methods.tga_zsr needs class prompts or a ViT; a ResNet with a linear head has neither": {
        "methods": {"tga_zsr": {"section": "methods.tga_zsr", **parsed(ROOT / "params.yaml")["method"]}}
    },
    "methods.tecoa.norm_stats must be clip, which stands for the tower's own, got 'imagenet'": {
        "methods": {"tecoa": {"section": "methods.tecoa", "norm_stats": "imagenet"}}
    },
    "methods.another has the start and the section of methods.robust_dm, which name a row of the tables; give it": {
        "methods": {"another": {"section": "shared.dm", "module": "dm", "start": "robust"}}
    },
    "figures: 'rates' needs grid, which this study does not have": {"figures": ["rates"]},
    "train.accumulate must be 1 for a ResNet, whose BatchNorm needs whole batches": {"train": {"accumulate": 2}},
    "train.accumulate must be 1 for a ResNet, whose BatchNorm needs whole": {
        "shared": {"at": {"train": {"accumulate": 2}}}
    },
}


@pytest.mark.parametrize("message", ERRORS, ids=range(len(ERRORS)))
def test_what_cannot_be_is_named_before_anything_is_computed(message, monkeypatch):
    document = over(TRANSFER, ERRORS[message])
    monkeypatch.setattr(study, "read", lambda path: document)
    with pytest.raises(ParamError) as error:
        check("params.yaml")
    said = str(error.value).removeprefix("params.yaml: ")
    assert said.startswith(message) and "\n" not in said


def test_no_method_knows_the_study():
    for path in (ROOT / "zsr/methods").glob("*.py"):
        assert not [name for name in imported(path) if "transfer" in name or "likeness" in name], path


def test_a_study_of_linear_heads_loads_no_open_clip_and_its_tables_no_torch():
    stages = ("check", "data", "base_model", "text_embeddings", "start", "train", "evaluate", "collect", "likeness")
    assert load_without([f"stages.{name}" for name in stages], ["open_clip"])
    assert load_without(["stages.tables", "stages.figures"], ["open_clip", "torch"])


# towers


def test_a_seed_has_one_tower_and_one_head_for_all_starts(tmp_path):
    one, same, other = (SMALL.random(5, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.visual.conv1.weight, other.visual.conv1.weight)
    before = torch.get_rng_state()
    heads = [linear.with_new_head(model, 7, seed=3).head.weight for model in (one, other)]
    assert torch.equal(*heads) and heads[0].shape == (7, 32)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_is_kept_whole(tmp_path):
    model = linear.with_new_head(SMALL.random(5, 0), 3, 1)
    with torch.no_grad():
        model.visual.bn1.running_mean.fill_(0.3)
        model.mean.fill_(0.25)
    linear.save(tmp_path / "0.safetensors", model)
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
    with pytest.raises(ParamError, match="model.arch must be one of resnet18, .* got 'small'"):
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


STUDY = {
    "arch": "small",
    "attacks": {"pgd_half": "7.5/255", "pgd_whole": "15/255"},
    "methods": {
        "robust_at": {"section": "shared.at", "module": "tecoa", "start": "robust"},
        "plain": {"section": "methods.plain", "module": "ft"},
    },
}


def cell(method, attack, correct, seed=0, clean=80):
    """A row of metrics/results/accuracy.csv, as far as it is read."""
    counts = {"n": "100", "clean_correct": str(clean), "correct": str(correct)}
    return {"method": method, "attack": attack, "set": "s", "seed": str(seed)} | counts


def test_rows_are_those_of_the_study_with_every_eps():
    correct = {"clean": 80, "pgd_half": 40, "pgd_whole": 20, "worst_case": 20}
    cells = [cell("robust_at", attack, count) for attack, count in correct.items()]
    cells += [cell("robust_at", "pgd_half", 50, seed=1), cell("plain", "pgd_half", 0)]
    first, second, plain = tables.rows_of_cells(cells, STUDY)
    named = {"init": "robust", "method": "at", "backbone": "small", "dataset": "s", "seed": 0, "checkpoint": "final"}
    assert {key: first[key] for key in named} == named and (first["n"], first["clean"]) == (100, 0.8)
    assert (first["robust@7.5/255"], first["DR@7.5/255"], first["robust@15/255"]) == (0.4, 0.5, 0.2)
    assert (second["seed"], second["robust@7.5/255"]) == (1, 0.5)
    assert (plain["init"], plain["method"], plain["DR@7.5/255"]) == ("scratch", "plain", 1.0)


def test_notes_say_what_the_numbers_are_not_and_of_which_images_they_are():
    facts = {"counted": "both", "ids": "a1b2", "protocol": "PGD-10"}
    cells = [cell("robust_at", attack, 1, seed) | facts for attack in ("clean", "pgd_half") for seed in (0, 1)]
    mark = {"method": "plain", "attack": "pgd_half", "mark": "masked", "reason": "too high"}
    said = tables.transfer_notes("no evidence", cells, [mark, mark])
    assert said[0] == "no evidence" and "over 2 seeds (0, 1)" in said[1] and "nothing is chosen by the test" in said[1]
    assert said[3:] == (
        "n, test images of s (digest of their ids): 100 (a1b2).",
        "PGD-10.",
        "marked: plain pgd_half, masked: too high.",
    )


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
    found = tables.difference_rows(rows(), FACTS)
    pairs = [(r["first"], r["second"]) for r in found]
    assert pairs == [("robust ft", "scratch ft"), ("robust dm", "robust ft")]
    start, method = found
    assert (start["robust"], start["agree"], start["saturated"]) == (pytest.approx(0), 1, False)
    assert start["robust_sd"] == pytest.approx(np.std([-0.1, 0.1], ddof=1))
    assert (method["robust"], method["agree"]) == (pytest.approx(0.3), 0)
    tables.differences(tmp_path, found, FACTS)
    text = " ".join((tmp_path / "differences.md").read_text().split())
    assert "| robust ft | scratch ft | 15/255 | +0.0" in text and "1 of 2" in text and "- no evidence" in text
    assert len(read_rows(tmp_path / "differences.csv")) == 2


def test_tables_show_means_and_deviations_and_flag_what_collapsed(tmp_path):
    flags = tables.flags(alike(), 5)
    assert flags == {"robust dm": "collapsed 1 of 2"}
    tables.transfer(tmp_path, rows(), FACTS, flags)
    text = " ".join((tmp_path / "transfer.md").read_text().split())
    assert "45.0 ± 7.1" in text and "collapsed 1 of 2" in text and "- no evidence" in text
    assert r"\begin{table}" in (tmp_path / "transfer.tex").read_text()
    tables.likeness(tmp_path, alike(), "pretrained", FACTS)
    assert "| scratch | ft | 55.0 ± 7.1" in " ".join((tmp_path / "likeness.md").read_text().split())


def test_a_model_that_is_never_right_has_no_drop_rate_and_stops_no_table(tmp_path):
    never = [row(Run(**{k: r[k] for k in Run.__dataclass_fields__}), 0.0, {"15/255": 0.0}, 100) for r in rows()[:2]]
    tables.transfer(tmp_path, never + rows()[2:], FACTS, {})
    assert "nan" in (tmp_path / "transfer.md").read_text()
    found = tables.difference_rows(never + rows()[2:], FACTS)
    assert np.isnan(found[0]["drop_rate"]) and found[0]["agree"] == 0


@pytest.mark.slow
def test_equal_rows_draw_equal_figures(tmp_path):
    for name in "ab":
        figures.robustness(tmp_path / name / "robustness.png", rows(), FACTS.eps, "title", "note")
        figures.likeness(tmp_path / name / "likeness.png", alike(), "title", "note")
    for figure in ("robustness.png", "likeness.png"):
        assert (tmp_path / "a" / figure).read_bytes() == (tmp_path / "b" / figure).read_bytes()


# stages


TINY = {
    "seeds": [0, 1],
    "data": {"sets": {"planted_source": {"train": 20, "test": 1}, "planted_target": {"train": 20, "test": 40}}},
    "model": {"width": 8},
    "train": {"epochs": 1, "batch_size": 10, "attack": {"n_iter": 1}},
    "shared": {"dm": {"train": {"attack": {"n_iter": 1}}}},
    "evaluate": {"batch_size": 40},
    "likeness": {"pretrained": {"images": 40, "universal": {"epochs": 1}}},
}


def few(document, *rows):
    """Some rows under two attacks of one step."""
    attacks = {name: document["attacks"][name] | {"n_iter": 1} for name in list(document["attacks"])[1:3]}
    return document | {"methods": {name: document["methods"][name] for name in rows}, "attacks": attacks}


def test_the_stages_make_the_study(tmp_path, monkeypatch):
    wanted = few(over(TRANSFER, TINY), "scratch_ft", "pretrained_ft", "pretrained_dm", "robust_at")
    run_study(wanted, monkeypatch, tmp_path)
    record = Record.load(Path("data/records/pretrained_dm-pgd_half/1/planted_target.json"))
    assert (record.method, record.seed, record.attack, record.n) == ("pretrained_dm", 1, "pgd_half", 40)
    assert "eps 7.5/255, step 1.875/255" in record.protocol and "linear head" in record.protocol
    assert "acts at 8 px" in record.protocol and not list(Path("data/records").glob("*/*/planted_source.json"))
    start, tuned = (
        [SMALL.load(Path(f"data/{kind}/{name}/{seed}.safetensors")) for seed in (0, 1)]
        for kind, name in (("starts", "scratch"), ("checkpoints", "scratch_ft"))
    )
    assert not torch.equal(start[0].visual.conv1.weight, start[1].visual.conv1.weight)
    assert not torch.equal(start[0].visual.conv1.weight, tuned[0].visual.conv1.weight)
    assert len(read_rows(Path("metrics/curves/pretrained_dm/curve.csv"))) == 2
    assert read_rows(Path("data/starts/scratch/curve.csv")) == read_rows(Path("metrics/curves/base_model.csv")) == []
    assert read_json(Path("metrics/results/study.json"))["classes"] == {"planted_target": 5}
    made = Path("data/checkpoints/scratch_ft/0.safetensors")
    before, _ = made.read_bytes(), made.unlink()
    call("stages.train", "scratch_ft")  # is kept outside DVC
    assert made.read_bytes() == before
    _are_measured_and_shown(wanted)


def _are_measured_and_shown(wanted):
    measured = read_rows(Path("metrics/likeness/pretrained.csv"))
    assert {r["run"] for r in measured} == set(wanted["methods"]) and {r["seed"] for r in measured} == {"0", "1"}
    assert {r["measure"] for r in measured} == {"cka", "cca", "accuracy", "fooled", "variance", "cross_entropy"}
    shown = read_rows(Path("tables/transfer.csv"))
    assert len(shown) == 8 and list(shown[0])[-4:] == ["robust@7.5/255", "DR@7.5/255", "robust@15/255", "DR@15/255"]
    rows = {(r["init"], r["method"]) for r in shown}  # flags of what has collapsed go from one to the other
    assert rows == {(r["start"], r["method"]) for r in measured} and ("robust", "at") in rows
    assert {p.stem for p in Path("metrics/summary").glob("*.json")} == set(wanted["methods"])
    assert "It is no evidence for the paper's claim" in " ".join(Path("tables/transfer.md").read_text().split())
    assert {path.name for path in Path("figures").glob("*.png")} == {"robustness.png", "likeness_pretrained.png"}


PETS = {
    "seeds": [0],
    "threads": 1,
    "compute": {"device": "cpu"},
    "data": {"image_size": 64, "complete": False, "sets": {"oxford_pets": {"train": 2, "test": 2}}},
    "model": {"side": 64},
    "train": {"epochs": 1, "batch_size": 2, "attack": {"n_iter": 1}},
    "shared": {"twins_trades": {"train": {"epochs": 1, "attack": {"n_iter": 1}}}},
    "evaluate": {"batch_size": 2},
    "likeness": {"pretrained": {"measures": ["cka"], "images": 2, "universal": {"epochs": 1}}},
}


@pytest.mark.slow
def test_the_papers_scale_runs_on_fixtures(tmp_path, monkeypatch):
    """Oxford Pets in its own format, files of random weights as torchvision and RobustBench have them, TWINS."""
    root = tmp_path / "downloads"
    monkeypatch.setenv("DATA_ROOT", str(root))
    fixtures_real.oxford_pets(root, np.random.default_rng(0))
    robustbench_file(root / "robust.pt", seed=1)
    tower = Backbone(arch="resnet18", side=32).random(1000, 2)
    head = {f"fc.{name}": value for name, value in tower.head.state_dict().items()}
    torch.save(tower.visual.state_dict() | head, root / "plain.pth")
    starts = {"pretrained": {"file": str(root / "plain.pth")}, "robust": {"file": str(root / "robust.pt")}}
    starts["robust"]["sha256"] = files.sha256(root / "robust.pt")
    wanted = over(PAPER, PETS | {"starts": starts})
    wanted["starts"].pop("scratch")
    run_study(few(wanted, "pretrained_dm", "robust_twins_trades"), monkeypatch, tmp_path)
    start = Backbone(arch="resnet18", side=32).load(Path("data/starts/pretrained/0.safetensors"))
    torch.testing.assert_close(start.visual.conv1.weight, tower.visual.conv1.weight, rtol=0, atol=0)
    twins = Backbone(arch="resnet18", side=32).load(Path("data/checkpoints/robust_twins_trades/0.safetensors"))
    assert start.head.out_features == 1000 and twins.head.out_features == 2
    record = Record.load(Path("data/records/robust_twins_trades-pgd_whole/0/oxford_pets.json"))
    assert record.n == 2 and "acts at 64 px" in record.protocol
    assert "frozen_kl" in read_rows(Path("metrics/curves/robust_twins_trades/curve.csv"))[0]
    assert "no number of theirs stands here" in Path("tables/transfer.md").read_text()
