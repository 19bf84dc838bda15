import copy
from dataclasses import dataclass, replace

import pytest
import torch

from tests.conftest import ROOT
from zsr import files
from zsr.attacks.batch import Noise
from zsr.data.sources import make
from zsr.methods.tecoa import TeCoA
from zsr.models import clip, heads
from zsr.models.clip import Classifier
from zsr.models.passes import cross_entropy
from zsr.params import Diverged, block, component, read, training_of
from zsr.training import finetune as trainings
from zsr.training.feed import Feed
from zsr.training.finetune import (
    FineTuning,
    Texts,
    TrainingAttack,
    anchors_of,
    finetune,
    task_of,
    train_once,
)
from zsr.training.loop import mean_curve

CPU = torch.device("cpu")
TRAINED = [name for name in read(ROOT / "params.yaml")["methods"] if name != "clip"]


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 20, 0, 24)


def short(recipe):
    return replace(recipe, epochs=1, batch_size=8, warmup_steps=1, save_every=1)


@pytest.fixture
def recipe(document):
    return short(block(document, "train", FineTuning))


@pytest.fixture
def texts():
    text_embeddings, non_class = torch.nn.functional.normalize(torch.randn(2, 12, 48), dim=2)
    return Texts(text_embeddings, non_class)


@pytest.fixture
def train(clip_model, texts, source, tmp_path):
    """Fine-tune a copy of the small CLIP; returns it and the curve."""
    runs = []

    def run(method, recipe, seed=0):
        model = copy.deepcopy(clip_model)
        runs.append(model)
        return model, finetune(method, model, texts, source, recipe, seed, tmp_path / str(len(runs)))

    return run


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_the_image_tower_alone(document, name, clip_model, train):
    before = clip_model.state_dict()
    model, rows = train(component(document, "methods", name), short(training_of(document, name, FineTuning)))
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert len(rows) == 3 and moved and all(key.startswith("visual.") for key in moved)
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in rows)


def test_clip_stays_as_it_is(document, clip_model, train, recipe):
    model, rows = train(component(document, "methods", "clip"), recipe)
    assert rows == [] and all(torch.equal(v, clip_model.state_dict()[key]) for key, v in model.state_dict().items())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(train, recipe):
    results = [train(TeCoA(), recipe, seed)[0].visual.conv1.weight for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_published_visual_attention_ends_with_the_weights_of_tecoa(document, train, recipe):
    visual, _ = train(component(document, "methods", "vision_attention"), recipe)
    plain, _ = train(TeCoA(), recipe)
    assert all(torch.equal(a, b) for a, b in zip(visual.parameters(), plain.parameters(), strict=True))


# Anchors


@pytest.mark.parametrize(
    "name, shape",
    [("tga_zsr", (20, 36)), ("comp_tga", (20, 2, 36)), ("fare", (20, 48)), ("embedding_anchor", (20, 48))],
)
def test_anchors_are_what_the_frozen_model_says_of_each_image(document, name, shape, clip_model, texts, source, recipe):
    method = component(document, "methods", name)
    frozen = Classifier(clip_model, texts.text_embeddings).requires_grad_(False)
    images, labels, _ = source.tensors(range(20))
    recipe = replace(recipe, batch_size=8)
    anchors = anchors_of(method, frozen, texts, Feed(source, recipe, recipe.attack, 0, CPU), recipe)
    assert anchors.shape == shape
    torch.testing.assert_close(anchors, method.anchors(frozen, texts.batch(images, labels)), atol=1e-5, rtol=1e-4)


def test_a_method_without_anchors_has_none(clip_model, texts, source, recipe):
    frozen = Classifier(clip_model, texts.text_embeddings)
    assert anchors_of(TeCoA(), frozen, texts, Feed(source, recipe, recipe.attack, 0, CPU), recipe) is None


@pytest.mark.parametrize("name", ["tga_zsr", "comp_tga", "fare", "embedding_anchor"])
def test_training_is_the_same_with_anchors_computed_in_every_step(document, name, clip_model, train, texts, recipe):
    method = component(document, "methods", name)
    frozen = Classifier(copy.deepcopy(clip_model), texts.text_embeddings).requires_grad_(False).train()
    kept, rows = train(method, recipe)

    @dataclass(frozen=True, kw_only=True)
    class Fresh(type(method)):
        def anchors(self, frozen, batch):
            return None

        def inner_objective(self, model, batch):
            return super().inner_objective(model, self._with_anchors(batch))

        def losses(self, model, _frozen, batch, adv):
            return super().losses(model, frozen, self._with_anchors(batch), adv)

        def _with_anchors(self, batch):
            return replace(batch, anchors=method.anchors(frozen, batch))

    fresh, fresh_rows = train(Fresh(**vars(method)), recipe)
    for a, b in zip(rows, fresh_rows, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    for a, b in zip(kept.visual.parameters(), fresh.visual.parameters(), strict=True):
        assert (a - b).abs().mean() < 0.02 * recipe.lr  # a parameter moves by up to lr in each of the three steps


def test_the_first_step_of_tga_starts_at_zero_constraint(document, train, recipe):
    _, rows = train(component(document, "methods", "tga_zsr"), recipe)
    assert rows[0]["attention_constraint"] < 1e-5 < 1e-4 < rows[1]["attention_constraint"]  # rounding, then a move


def test_the_second_prompt_is_made_where_a_method_has_one(document, texts, source):
    asked = []

    def embed(prompts):
        asked.append(prompts)
        return texts.non_class

    assert Texts.of(component(document, "methods", "tga_zsr"), texts.text_embeddings, source, embed).non_class is None
    made = Texts.of(component(document, "methods", "comp_tga"), texts.text_embeddings, source, embed)
    assert asked == [[f"this is not a photo of {noun}" for noun in source.nouns]]
    batch = made.batch(torch.rand(2, 3, 24, 24), torch.tensor([7, 3]))
    assert torch.equal(batch.non_class, texts.non_class[[7, 3]])


# The training attack


def attack(document, **changes) -> TrainingAttack:
    return replace(block(document, "train.attack", TrainingAttack), **changes)


def test_without_a_leak_the_attack_leaves_no_gradient_in_the_weights(document, model, batch):
    attack(document).maximise(lambda x: cross_entropy(model(x), batch.labels), batch.images, Noise(0, "t", range(6)))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_leak_gathers_the_gradients_of_the_mean_loss_of_every_step(document, model, batch, reduction):
    """Quirk S1: what K calls of loss.backward() leave behind."""
    seen = []

    def objective(x):
        seen.append(x.detach().clone())
        return cross_entropy(model(x), batch.labels)

    leaking = attack(document, gradient_leak=1.0, reduction=reduction)
    adv = leaking.maximise(objective, batch.images, Noise(0, "t", range(6)))
    weight = model.visual.proj
    expected = sum(torch.autograd.grad(cross_entropy(model(x), batch.labels).mean(), weight)[0] for x in seen)
    assert len(seen) == 2
    torch.testing.assert_close(weight.grad, expected)
    clean = replace(leaking, gradient_leak=0.0).maximise(objective, batch.images, Noise(0, "t", range(6)))
    assert torch.equal(adv, clean)


def test_a_whole_leak_trebles_the_step_and_a_scaled_one_is_invisible(document, train, recipe):
    """Spec: K + 1 times without a loss scaler, 3e-5 with one; plain SGD shows the size of the step."""
    plain = replace(recipe, optimizer="sgd", epochs=1 / 3, warmup_steps=0, grad_clip=0.0, lr=1e-4, weight_decay=0.0)
    moves = []
    for leak in (0.0, 1.0, 1 / 65536):
        model, _ = train(TeCoA(), replace(plain, attack=replace(plain.attack, gradient_leak=leak)))
        moves.append(torch.cat([p.detach().flatten() for p in model.visual.parameters()]))
    none, _ = train(TeCoA(), replace(plain, epochs=0.0))
    start = torch.cat([p.detach().flatten() for p in none.visual.parameters()])
    step, whole, scaled = ((moved - start).norm() for moved in moves)
    assert 2 < whole / step < 3.5 and (moves[2] - moves[0]).norm() / step < 1e-3


@pytest.mark.parametrize("fixed_noise", [True, False])
def test_fixed_noise_is_the_same_start_in_every_step(document, train, recipe, source, fixed_noise):
    starts = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(TeCoA):
        def inner_objective(self, model, batch):
            usual, first = super().inner_objective(model, batch), []

            def objective(adv):
                if not first:
                    starts.append((adv.detach() - batch.images)[:4])
                    first.append(True)
                return usual(adv)

            return objective

    changed = replace(recipe.attack, fixed_noise=fixed_noise, clip_start=False)
    train(Spy(), replace(recipe, attack=changed))
    assert len(starts) == 3 and starts[0].abs().max() > 0.9 * changed.eps
    same = [torch.allclose(start, starts[0], atol=1e-6) for start in starts[1:]]
    assert same == [fixed_noise] * 2


# Kept trainings


@pytest.fixture
def task(document, clip_model, texts, source, tmp_path, monkeypatch):
    """TeCoA from the small CLIP, with its files."""
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    names = ("images", "text_embeddings", "weights")
    paths = {name: tmp_path / f"{name}.safetensors" for name in names}
    source.save(paths["images"])
    files.save_tensors(paths["text_embeddings"], {"text_embeddings": texts.text_embeddings})
    clip.save(paths["weights"], clip_model, "zsr-tiny")
    made = task_of(document, "methods", "tecoa", 0, origin="base", **paths)
    model = heads.Model(arch="zsr-tiny")
    return replace(made, model=model, recipe=short(made.recipe), threads=torch.get_num_threads())


def test_a_training_is_done_once_and_what_is_kept_is_its_tower_and_its_curve(task, tmp_path, monkeypatch):
    tower, curve = train_once(task, "code")
    whole, rows = trainings.train(task, tmp_path / "unfinished")
    kept = heads.load(task.model, task.weights, tower)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in kept.state_dict().items())
    assert [{name: float(value) for name, value in row.items()} for row in curve] == rows
    assert not (tower.parent / "unfinished").exists()
    monkeypatch.setattr(trainings, "train", None)
    assert train_once(task, "code") == (tower, curve)


def test_that_a_training_diverged_is_kept_too(task, monkeypatch):
    calls = []

    def diverging(*_):
        calls.append(True)
        raise Diverged("stopped at step 3")

    monkeypatch.setattr(trainings, "train", diverging)
    for _ in range(2):
        with pytest.raises(Diverged, match="stopped at step 3"):
            train_once(task, "code")
    assert len(calls) == 1


# Curves


def test_the_curve_of_several_seeds_is_their_mean():
    first = [
        {"step": "0", "lr": "0.1", "loss": "2.0", "ce": "1.5"},
        {"step": "1", "lr": "0.2", "loss": "1.0", "ce": "1"},
    ]
    second = [row | {"loss": "4.0"} for row in first]
    mean = mean_curve([first, second])
    assert [row["loss"] for row in mean] == [3.0, 2.5] and mean[1]["step"] == "1" and mean[0]["ce"] == 1.5
    assert mean_curve([first])[0]["loss"] == 2.0 and mean_curve([[]]) == []
