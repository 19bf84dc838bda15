"""A study on several base models: each seed trains, and is judged, on the base model of its own."""

import copy
from pathlib import Path

import pytest
import torch

from tests.in_process import run_study
from zsr.data import prepared
from zsr.files import load_tensors, read_rows, save_arrays
from zsr.files import of_seed as file_of
from zsr.params import ParamError, read
from zsr.study import check

ROOT = Path(__file__).parents[2]
SEEDS = [3, 1]
SHOWN = ("tables", "figures", "report")
NUMBERS = ("attack", "set", "seed", "n", "clean_correct", "adv_correct", "correct", "protocol")


@pytest.fixture(scope="module")
def small() -> dict:
    document = read(ROOT / "params.yaml")
    document |= {
        "threads": 1,
        "seeds": SEEDS,
        "eps_sweep": {},
        "attention": {},
        "figures": ["trade_off"],
        "tables": ["accuracy"],
    }
    document["data"] |= {"source": "shapes", "start_source": "shapes", "controls": []}
    document["data"]["sets"] = {"shapes": {"train": 32, "test": 12}, "digits_real": {"train": 0, "test": 12}}
    document["base_model"] |= {"seeds": SEEDS, "pool": 64, "epochs": 2, "warmup_steps": 1}
    document["train"] |= {"epochs": 1, "batch_size": 16, "warmup_steps": 0}
    document["methods"] = {name: document["methods"][name] for name in ("clip", "tecoa")}
    document["attacks"] = {"pgd": document["attacks"]["pgd"] | {"n_iter": 1}}
    document["protocols"] = {"trusted": {}}
    return document


@pytest.fixture(scope="module")
def study(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    with pytest.MonkeyPatch.context() as patch:
        run_study(small, patch, folder)
    return folder


def test_each_seed_has_a_base_model_and_texts_of_its_own(study):
    for kind in ("base_model", "text_embeddings/shapes"):
        first, second = (load_tensors(study / f"data/{kind}/{seed}.safetensors")[0] for seed in SEEDS)
        assert any(not torch.equal(first[name], second[name]) for name in first)
    texts = prepared.read_index(study / "data/text_embeddings")["shapes"]["text_embeddings"]
    assert set(texts) == {"1", "3"} and len(set(texts.values())) == 2


def test_each_seed_trains_on_its_base_model(study):
    for seed in SEEDS:
        base, clip, tuned = (
            load_tensors(study / f"data/{kind}/{seed}.safetensors")[0]
            for kind in ("base_model", "checkpoints/clip", "checkpoints/tecoa")
        )
        text = [name for name in base if not name.startswith("visual.")]
        assert text and all(torch.equal(base[name], tuned[name]) for name in text)
        assert all(torch.equal(base[name], clip[name]) for name in base)
        assert any(not torch.equal(base[name], tuned[name]) for name in base)


def test_each_seed_is_judged_with_the_texts_of_its_base_model(study, small, tmp_path):
    """Alone, each seed gives the numbers that it has among others."""
    both = [row for row in read_rows(study / "metrics/results/accuracy.csv") if row["method"] == "tecoa"]
    for seed in SEEDS:
        alone = copy.deepcopy(small) | {"seeds": [seed]}
        alone["base_model"]["seeds"], alone["methods"] = [seed], {"tecoa": small["methods"]["tecoa"]}
        (tmp_path / str(seed)).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            run_study(alone, patch, tmp_path / str(seed), without=SHOWN)
        rows = read_rows(tmp_path / f"{seed}/metrics/results/accuracy.csv")
        together = [row for row in both if row["seed"] == str(seed)]
        for row, other in zip(rows, together, strict=True):  # what the audit found in a seed is said of all seeds
            assert {key: row[key] for key in NUMBERS} == {key: other[key] for key in NUMBERS}


def test_tables_count_base_models(study):
    assert "standard deviation over 2 base models" in " ".join((study / "tables/accuracy.md").read_text().split())


def test_one_base_model_serves_all_seeds_and_clip_has_one_checkpoint(small, tmp_path):
    document = copy.deepcopy(small)
    document["base_model"]["seeds"] = [7]
    with pytest.MonkeyPatch.context() as patch:
        run_study(document, patch, tmp_path, without=(*SHOWN, "evaluate", "collect"))
    assert [path.name for path in (tmp_path / "data/base_model").iterdir()] == ["7.safetensors"]
    assert len(list((tmp_path / "data/checkpoints/clip").glob("*.safetensors"))) == 1
    assert {path.stem for path in (tmp_path / "data/checkpoints/tecoa").glob("*.safetensors")} == {"1", "3"}


@pytest.mark.parametrize("seeds", [[0, 1], [1, 3], [3, 1, 2]])
def test_base_models_are_one_or_one_for_each_seed(small, monkeypatch, seeds):
    document = copy.deepcopy(small)
    document["base_model"]["seeds"] = seeds
    monkeypatch.setattr("zsr.study.read", lambda path: document)
    with pytest.raises(ParamError, match=r"base_model.seeds must be one seed or the same list as seeds, \[3, 1\], got"):
        check("params.yaml")


def test_the_study_on_three_base_models_is_that_of_the_root():
    root, three = (read(ROOT / study / "params.yaml") for study in (".", "studies/embedded-3"))
    assert three["seeds"] == three["base_model"]["seeds"] == [0, 1, 2] and three["up"] == "../../"
    for key in ("name", "up", "seeds"):
        three[key] = root[key]
    three["base_model"]["seeds"] = root["base_model"]["seeds"]
    three["tables"].append("leaderboard")
    assert three == root


def test_the_file_of_a_seed(tmp_path):
    for seed in (0, 2):
        save_arrays(tmp_path / f"{seed}.safetensors", {})
    assert file_of(tmp_path, 2) == tmp_path / "2.safetensors" and not file_of(tmp_path, 1).exists()
    (tmp_path / "0.safetensors").unlink()
    assert file_of(tmp_path, 0) == tmp_path / "2.safetensors"
