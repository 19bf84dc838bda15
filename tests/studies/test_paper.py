"""The paper's study: its numbers are complete, and it runs on fixtures."""

import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import fixtures_real
from tests.checkout import ROOT, Checkout, ran
from zsr import study
from zsr.data.registry import entries
from zsr.evaluation.records import Record
from zsr.files import load_facts, read_rows
from zsr.params import ParamError, over, read

PAPER, FEW = (read(ROOT / "studies" / name / "params.yaml") for name in ("paper", "paper-1k"))
SETS = list(PAPER["data"]["sets"])


@pytest.mark.parametrize("name", ["paper", "paper-1k"])
def test_its_numbers_are_a_study(name):
    assert study.check(ROOT / "studies" / name / "params.yaml").up == "../../"


def test_other_towers_are_a_study_too_and_grad_cam_needs_a_vit(tmp_path):
    def check(arch, *left_out):
        methods = {name: block for name, block in PAPER["methods"].items() if name not in left_out}
        (tmp_path / "params.yaml").write_text(json.dumps(PAPER | {"model": {"arch": arch}, "methods": methods}))
        study.check(tmp_path / "params.yaml")

    for arch in ("ViT-B-16-quickgelu", "ViT-L-14-quickgelu"):
        check(arch)
    check("RN50-quickgelu", "vision_attention")
    with pytest.raises(ParamError, match="methods.vision_attention needs a ViT, which RN50-quickgelu is not"):
        check("RN50-quickgelu")
    with pytest.raises(ParamError, match="model.arch must be 'ViT-B-32-quickgelu' for the weights 'openai'"):
        check("ViT-B-32")


def test_every_key_of_the_embedded_scale_is_there_but_how_its_own_base_is_trained():
    def keys(document, at=""):
        inner = {key: value for key, value in document.items() if isinstance(value, dict)}
        return {f"{at}{key}" for key in document} | {k for key in inner for k in keys(inner[key], f"{at}{key}.")}

    own = ("base_model.", "data.sets.", "methods.", "attention.")
    missing = {key for key in keys(read(ROOT / "params.yaml")) - keys(PAPER) if not key.startswith(own)}
    assert missing == set()
    root = list(read(ROOT / "params.yaml")["methods"])
    assert list(PAPER["methods"]) == [*root, "agft", "tecoa_180", "saft", "sim_clip"]  # at the embedded scale: frontier


def test_whole_sets_in_the_order_of_the_papers_tables():
    sizes = {name: size["test"] for name, size in PAPER["data"]["sets"].items()}
    assert sizes == {name: of.splits["test"] for name, of in entries().items()} and sum(sizes.values()) == 344_128
    assert PAPER["data"]["sets"]["tiny_imagenet"]["train"] == 100_000


def test_paper_1k_is_paper_with_a_thousand_images_of_each_set():
    sizes = {name: {"train": size["train"], "test": 1000} for name, size in PAPER["data"]["sets"].items()}
    assert FEW == over(PAPER, {"name": FEW["name"], "data": {"sets": sizes}})


@pytest.mark.parametrize(
    "method, published",
    [
        ("tga_zsr", {"lr": 1e-4, "batch_size": 128, "epochs": 10, "optimizer": "sgd", "weight_decay": 0}),
        ("tecoa", {"lr": 1e-5, "batch_size": 128, "epochs": 10, "optimizer": "sgd"}),
        ("pmg_aft", {"lr": 5e-5, "batch_size": 256, "epochs": 10, "optimizer": "sgd"}),
        ("fare", {"lr": 1e-5, "batch_size": 128, "optimizer": "adamw", "weight_decay": 1e-4, "warmup_steps": 1400}),
    ],
)
def test_training_is_as_published(method, published):
    from zsr.params import training_of
    from zsr.training.finetune import FineTuning

    recipe = training_of(PAPER, method, FineTuning)
    assert {key: getattr(recipe, key) for key in published} == published
    attack = recipe.attack
    assert (255 * attack.eps, 255 * attack.step_size) == (1, 1) and attack.n_iter == (10 if method == "fare" else 2)
    assert recipe.n_steps(100_000) == {"fare": 20_000, "pmg_aft": 3910}.get(method, 7820)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, warm):
    return Checkout(tmp_path_factory.mktemp("paper"), scale="studies/paper", DATA_ROOT="", HF_HUB_OFFLINE="1", **warm)


def test_the_plan_can_be_seen_without_data():
    from dvc.repo import Repo

    with Repo(str(ROOT / "studies/paper")) as repo:
        listed = {stage.name for stage in repo.index.stages}
    stages = {f"data@{s}" for s in SETS} | {f"train@{m}" for m in PAPER["methods"]}
    stages |= {f"evaluate@{m}-{a}" for m in PAPER["methods"] for a in PAPER["attacks"]}
    assert stages < listed
    assert not any(name.startswith("likeness") for name in listed)  # the study's block of that name is empty


def test_a_set_behind_a_registration_is_left_out_or_is_an_error_that_says_how_to_do_without(tmp_path, monkeypatch):
    """No request is sent. The first run is that of the study, which may do without ImageNet."""
    text = (ROOT / "studies/paper/params.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "nothing"))
    download = import_module("stages.download")
    monkeypatch.setattr("zsr.scratch.loaded_files", set)  # this process has run other tests
    for if_missing, ended, told in (
        ("skip", 0, "imagenet is left out: imagenet could not be fetched; its terms have to be accepted first"),
        ("fail", 1, "To do without, set data.sets.imagenet.if_missing to skip"),
    ):
        assert text.count("if_missing: skip") == 1
        Path("params.yaml").write_text(text.replace("if_missing: skip", f"if_missing: {if_missing}"))
        result = CliRunner().invoke(download.main, ["imagenet"])
        assert result.exit_code == ended and isinstance(result.exception, SystemExit | None) and told in result.output
        said = Path("data/downloads/imagenet.json")
        assert not ended == said.exists() and (ended or "needs a registration" in said.read_text())
        said.unlink(missing_ok=True)


TRIED = ("clip", "fare", "pmg_aft", "tga_zsr")
FIXTURES = {
    **{f"data.sets.{name}": {"train": 0, "test": 2} for name in SETS},
    "data.sets.tiny_imagenet": {"train": 4, "test": 2},
    "data.complete": False,
    "train.epochs": 1,
    "train.batch_size": 4,
    "train.attack.precision": "fp32",  # a CPU that has no bfloat16 takes ten times as long
    "methods.fare.train.epochs": 1,
    "methods.pmg_aft.train.batch_size": 4,
    "attacks.pgd.n_iter": 2,
    "evaluate.batch_size": 2,
    "attacks.cw": None,
    "attacks.autoattack": None,
    "protocols.published.attacks.cw": None,
    "protocols.published.attacks.autoattack": None,
    "eps_sweep.pgd": {"eps": ["1/255"], "images": 1},
    "attention.tiny_imagenet": {"attack": "pgd", "methods": ["clip", "tga_zsr"], "images": 2, "shown": 2},
    "threads": 2,
    "launcher": "python",
    **{f"methods.{m}": None for m in PAPER["methods"] if m not in TRIED},
}


@pytest.mark.slow
def test_the_whole_study_runs_on_fixtures(checkout, tmp_path):
    """Every set from its own format, a ViT-B/32 of random weights, one step of training, PGD-2, tables."""
    from zsr.models import clip

    rng, root = np.random.default_rng(0), tmp_path / "downloads"
    written = {name: getattr(fixtures_real, name)(root, rng) for name in SETS}
    weights = tmp_path / "weights.safetensors"
    clip.save(weights, clip.create("ViT-B-32-quickgelu"), "ViT-B-32-quickgelu")
    checkout.variables["DATA_ROOT"] = str(root)
    checkout.edit(FIXTURES | {"base_model.file": str(weights)})
    output = checkout.dvc("repro")
    expected = {f"data@{name}" for name in SETS} | {f"evaluate@{method}-pgd" for method in TRIED}
    assert expected | {f"train@{method}" for method in TRIED} <= ran(output)
    folder = checkout.folder / "studies/paper"
    for name in SETS:
        record = Record.load(folder / f"data/records/tga_zsr-pgd/0/{name}.json")
        assert len(record.ids) == 2 and record.gradients >= 2 and "acts at 224 px" in record.protocol
        assert "official prompts of the set" in record.protocol
        prompts = load_facts(folder / f"data/text_embeddings/{name}/0.safetensors")["prompts"]
        assert len(prompts) == len(written[name]["test"].keys)
    curve = read_rows(folder / "metrics/curves/tga_zsr/curve.csv")
    assert len(curve) == 1 and float(curve[0]["ce_adv"]) > 0
    table = (folder / "tables/published.md").read_text()
    assert re.search(r"\| tiny_imagenet \|.* / 64.0 / ", table)  # TGA-ZSR under PGD, as published
    assert "Data and pipelines are up to date." in checkout.dvc("repro")
