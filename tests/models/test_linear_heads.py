"""Fine-tuning of classifiers without text: tower and head move, by every method that asks for no text."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.conftest import ROOT
from tests.methods.test_twins import AT
from tests.thin_resnet import thin_resnets
from zsr import files
from zsr.compute import Compute
from zsr.data.sources import make
from zsr.methods.dm import DM
from zsr.methods.fare import FARE
from zsr.methods.ft import FT
from zsr.methods.tecoa import TeCoA
from zsr.methods.trades import TRADES
from zsr.methods.twins import Twins
from zsr.models import heads
from zsr.models.heads import Model
from zsr.models.linear import small_resnet
from zsr.params import ParamError, StudyError, block, component, read
from zsr.study import check
from zsr.training import finetune
from zsr.training.finetune import FineTuning, TrainingTask, finetune_plain, train, train_once

METHODS = {
    "ft": FT(),
    "at": TeCoA(),
    "trades": TRADES(beta=6.0, beta_reduction="nominal_batch"),
    "dm": DM(anchor="self", beta_eff=1.6),
    "dm_frozen": DM(anchor="frozen", beta_eff=1.6),
    "twins_at": Twins(base=AT, lambda_frozen=1.0),
    "twins_trades": Twins(base={"module": "trades", "beta": 6.0, "beta_reduction": "mean"}, lambda_frozen=0.4),
    "frozen_only": Twins(base=AT, lambda_frozen=1.0, wings="frozen"),
}


@pytest.fixture(scope="module")
def source():
    return make("planted_target", "train", 40, 0, 8)


@pytest.fixture
def recipe(document):
    recipe = block(document, "train", FineTuning)
    attack = replace(recipe.attack, n_iter=1, init_sigma=5e-4)
    return replace(recipe, epochs=1, batch_size=8, warmup_steps=1, save_every=1, attack=attack)


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return small_resnet(5, width=8)  # of 4 oneDNN writes beside its memory in backward passes with AVX2


@pytest.mark.parametrize("name", METHODS)
def test_tower_and_head_learn_and_the_modules_are_those_from_before(name, plain, source, recipe, tmp_path):
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    rows = finetune_plain(METHODS[name], plain, source, recipe, 0, tmp_path / "s")
    after = plain.state_dict()
    assert list(after) == list(before) and len(rows) == 5 and not plain.visual.training
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in moved} == {"visual", "head"}
    assert ("visual.bn1.running_mean" in moved) == (name != "frozen_only")
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)


def test_without_a_label_the_head_stays(plain, source, recipe, tmp_path):
    head = plain.head.weight.clone()
    recipe = replace(recipe, weight_decay=0.0)
    finetune_plain(FARE(features="raw"), plain, source, recipe, 0, tmp_path / "s")
    assert torch.equal(plain.head.weight, head)


def test_the_effective_rate_is_that_of_the_tower(plain, source, recipe, tmp_path):
    recipe = replace(recipe, log_effective_rate=True)
    rows = finetune_plain(METHODS["at"], plain, source, recipe, 0, tmp_path / "s")
    assert {"rho", "rho_layer1", "rho_layer3", "rho_stem"} <= set(rows[0])
    assert all(row["radial"] < 1e-4 for row in rows)  # batch statistics alone: the gradient is orthogonal


def test_a_run_that_was_killed_continues_bit_for_bit(plain, source, recipe, tmp_path):
    whole, killed, resumed = (copy.deepcopy(plain) for _ in range(3))
    rows = finetune_plain(METHODS["twins_at"], whole, source, recipe, 0, tmp_path / "whole")

    def watch(steps, _done, _rows):
        for step in steps:
            if step == 3:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        finetune_plain(METHODS["twins_at"], killed, source, recipe, 0, tmp_path / "killed", watch)
    assert finetune_plain(METHODS["twins_at"], resumed, source, recipe, 0, tmp_path / "killed") == rows
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize("name", ["ft_clean", "ft_adv", "tecoa", "fare", "pmg_aft", "tga_zsr", "comp_tga"])
def test_what_looks_at_text_is_refused_and_nothing_else(document, name, plain, source, recipe, tmp_path):
    method = component(document, "methods", name)
    if name not in ("pmg_aft", "tga_zsr", "comp_tga"):
        assert finetune_plain(method, plain, source, recipe, 0, tmp_path / "s")
        return
    with pytest.raises(StudyError, match=f"{type(method).__name__} needs class prompts or patch tokens"):
        finetune_plain(method, plain, source, recipe, 0, tmp_path / "s")


def test_twins_over_a_method_that_looks_at_text_does_too(document):
    own = {k: v for k, v in document["method"].items()}
    assert Twins(base={"module": "tga_zsr", **own}, lambda_frozen=1.0).needs_text and not METHODS["twins_at"].needs_text


def test_wings_are_refused_on_a_vit_before_anything_runs(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    row = "  twins_at: {section: methods.twins_at, module: twins, base: {module: tecoa}, lambda_frozen: 1}\n"
    (tmp_path / "params.yaml").write_text(text.replace("\nmethods:\n", f"\nmethods:\n{row}", 1))
    with pytest.raises(
        ParamError, match="methods.twins_at needs a tower with BatchNorm.*zsr-tiny-32 is a ViT"
    ) as error:
        check(tmp_path / "params.yaml")
    assert "\n" not in str(error.value) and "twins_at" in read(tmp_path / "params.yaml")["methods"]


# what a training begins with, and whole tasks


SMALL = Model(arch="small", head="linear", width=8)


def same(one, other):
    return all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_random_weights_are_those_of_the_seed_and_starts_get_the_new_head_of_the_seed(tmp_path):
    """So rows of one seed differ by their start alone."""
    one, again, other = (heads.first_weights(SMALL, tmp_path, "random", 5, seed) for seed in (0, 0, 1))
    assert same(one, again) and not same(one, other)
    begun = []
    for name, model in {"one": one, "other": other}.items():
        heads.save(tmp_path / name, model, SMALL)
        begun.append(heads.first_weights(SMALL, tmp_path / name, "start", 7, seed=3))
        assert same(begun[-1].visual, model.visual)
    assert same(begun[0].head, begun[1].head) and begun[0].head.out_features == 7
    fourth = heads.first_weights(SMALL, tmp_path / "one", "start", 7, seed=4)
    assert not same(begun[0].head, fourth.head)


@pytest.mark.parametrize("trained", [True, False])
def test_weights_of_others_keep_their_head_where_no_step_follows(trained, tmp_path, monkeypatch):
    thin_resnets(monkeypatch)
    resnet18 = Model(arch="resnet18", head="linear", side=32)
    theirs = resnet18.backbone.random(1000, 0)
    state = theirs.visual.state_dict() | {f"fc.{key}": value for key, value in theirs.head.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    found = heads.first_weights(resnet18, tmp_path / "weights.pth", "file", 5, 0, trained=trained)
    assert same(found.visual, theirs.visual) and found.head.out_features == (5 if trained else 1000)


@pytest.fixture
def task(document, recipe, source, tmp_path):
    """One epoch of adversarial training from random weights."""
    source.save(tmp_path / "train.safetensors")
    files.save_tensors(tmp_path / "none.safetensors", {})
    return TrainingTask(
        method=METHODS["at"],
        recipe=recipe,
        seed=0,
        model=SMALL,
        compute=block(document, "compute", Compute),
        threads=1,
        images=tmp_path / "train.safetensors",
        text_embeddings=tmp_path / "none.safetensors",
        weights=tmp_path / "none.safetensors",
        origin="random",
    )


def test_images_that_are_held_out_are_not_trained_on(task, source, tmp_path):
    whole, rows = train(replace(task, held_out=16), tmp_path / "u")
    other = heads.first_weights(SMALL, task.weights, "random", 5, 0)
    expected = finetune_plain(task.method, other, source.part(slice(24)), task.recipe, 0, tmp_path / "v")
    assert rows == expected and len(rows) == 3 and same(whole, other)


def test_a_training_is_kept_by_its_task_and_its_code(task, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    made = tower, curve = train_once(task, "code")
    assert heads.load(SMALL, tower).head.out_features == 5 and len(curve) == 5

    def never(steps, done):
        raise AssertionError("it was trained before")

    assert train_once(task, "code", never) == made
    for other, code in ((replace(task, seed=1), "code"), (task, "other code")):
        assert train_once(other, code)[0] != tower


@pytest.mark.parametrize("processes, parts", [(2, 1), (1, 2)])
def test_batch_norm_refuses_a_batch_in_parts_before_any_step(task, processes, parts, tmp_path, monkeypatch):
    def never(steps, done):
        raise AssertionError("a step was to be computed")

    monkeypatch.setattr(finetune, "world_size", lambda: processes)
    of_parts = replace(task, recipe=replace(task.recipe, accumulate=parts))
    said = "set launcher: python, or PET_NPROC_PER_NODE=1" if processes > 1 else "train.accumulate must be 1, got 2"
    with pytest.raises(StudyError, match=f"^small has BatchNorm, whose statistics are those of a whole .*{said}") as e:
        train(of_parts, tmp_path / "u", never)
    assert "\n" not in str(e.value) and not (tmp_path / "u").exists()
    assert train(replace(of_parts, recipe=replace(of_parts.recipe, epochs=0)), tmp_path / "u")[1] == []  # no step
