"""AGFT: the numbered tests of its specification, and Sim-CLIP, the variant of FARE beside it."""

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from zsr.data.sources import make
from zsr.methods._base import Batch
from zsr.methods.agft import AGFT
from zsr.methods.fare import FARE
from zsr.methods.tecoa import TeCoA
from zsr.params import ParamError, block, build, training_of
from zsr.training.finetune import FineTuning, Texts, finetune
from zsr.training.loop import learning_rate

METHOD = AGFT(logit_scale=180.0, scale_ratio=0.4, teacher="clip")


def with_anchors(method, frozen, batch):
    with torch.no_grad():
        return dataclasses.replace(batch, anchors=method.anchors(frozen, batch))


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.visual.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


class Cosines:
    """A model of one image: its features are cosines to three orthonormal class prompts, and a rest."""

    logit_scale = torch.tensor(100.0)

    def __init__(self, clean, adv):
        self.clean, self.adv = torch.tensor(clean), torch.tensor(adv, requires_grad=True)

    def classify(self, features):
        return self.logit_scale * features

    def __call__(self, images):
        return self.logit_scale * self.adv[None]


@pytest.mark.parametrize(
    "tau, rho, target, loss, slope",
    [
        (180.0, 0.4, (0.972696, 0.026578, 0.000726), 0.211275, (-0.114548, 0.115273, -0.000726)),
        (100.0, 1.0, (0.993262, 0.006693, 0.000045), 0.320560, None),
    ],
)
def test_the_loss_is_that_of_the_test_vector(tau, rho, target, loss, slope):
    """Test 1 of the specification."""
    model = Cosines((0.30, 0.25, 0.20), (0.28, 0.27, 0.20))
    method = AGFT(logit_scale=tau, scale_ratio=rho, teacher="clip")
    batch = Batch(torch.zeros(1, 3, 2, 2), torch.tensor([2]), anchors=model.clean[None])
    torch.testing.assert_close(method._target(model, batch)[0], torch.tensor(target), atol=1e-6, rtol=0)
    term = method.losses(model, model, batch, batch.images)["soft_ce_adv"]
    assert term.item() == pytest.approx(loss, abs=2e-6)
    term.backward()
    if slope:
        torch.testing.assert_close(model.adv.grad / tau, torch.tensor(slope), atol=1e-6, rtol=0)
    raised = method.inner_objective(model, batch)(batch.images)
    assert raised.shape == (1,) and raised.item() == pytest.approx(loss, abs=2e-6)


def test_a_hard_teacher_that_is_right_is_tecoa(model, frozen, batch):
    """Test 2: loss, gradient and attack objective, at the model's own scale."""
    labels = frozen(batch.images).argmax(dim=1)
    own = float(model.logit_scale)
    hard = AGFT(logit_scale=own, scale_ratio=1e4, teacher="clip")
    right = with_anchors(hard, frozen, Batch(batch.images, labels))
    adv = (batch.images + 0.05).clamp(0, 1)
    ours, plain = (m.losses(model, frozen, right, adv) for m in (hard, TeCoA()))
    torch.testing.assert_close(ours["soft_ce_adv"], plain["ce_adv"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        gradients(ours["soft_ce_adv"], model), gradients(plain["ce_adv"], model), atol=1e-5, rtol=1e-4
    )
    raised, usual = (m.inner_objective(model, right)(adv) for m in (hard, TeCoA()))
    torch.testing.assert_close(raised, usual, atol=1e-5, rtol=1e-5)


def test_the_calibration_pushes_logits_together_from_the_first_step(model, frozen, batch):
    """Test 3: at the start, without an attack, only the calibration moves anything, and it lowers the top logit."""
    slopes = {}
    for ratio in (1.0, 0.4):
        method = replace(METHOD, scale_ratio=ratio)
        given = with_anchors(method, frozen, batch)
        term = method.losses(model, frozen, given, batch.images)["soft_ce_adv"]
        slopes[ratio] = gradients(term, model).abs().max()
        if ratio == 1:
            target = method._target(model, given)
            torch.testing.assert_close(term, -(target * target.log()).sum(dim=1).mean())
    assert slopes[1.0] < 1e-5 and slopes[0.4] > 100 * slopes[1.0]
    for ratio in (1.0, 0.4):
        start = Cosines((0.30, 0.25, 0.20), (0.30, 0.25, 0.20))
        method = replace(METHOD, scale_ratio=ratio)
        one = Batch(torch.zeros(1, 3, 2, 2), torch.tensor([2]), anchors=start.clean[None])
        method.losses(start, start, one, one.images)["soft_ce_adv"].backward()
        top, *others = start.adv.grad.tolist()
        assert top > 1 > 0 > min(others) if ratio < 1 else max(map(abs, (top, *others))) < 1e-4


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 16, 0, 24)


@pytest.fixture
def texts():
    return Texts(F.normalize(torch.randn(12, 48, generator=torch.Generator().manual_seed(4)), dim=1))


@pytest.fixture
def train(document, clip_model, texts, source, tmp_path):
    """Fine-tune a copy of the small CLIP by SGD; returns the weights and the curve."""
    import copy

    plain = {"epochs": 1, "batch_size": 8, "warmup_steps": 1, "save_every": 1, "optimizer": "sgd", "grad_clip": 0.0}
    recipe = replace(block(document, "train", FineTuning), **plain)

    def run(method, name, split=source, **changes):
        model = copy.deepcopy(clip_model)
        rows = finetune(method, model, texts, split, replace(recipe, **changes), 0, tmp_path / name)
        return model.visual.state_dict(), rows

    return run


def equal(one, other):
    return all(torch.equal(value, other[key]) for key, value in one.items())


def test_labels_change_no_bit_of_a_training(train, source):
    """Test 4: the switch that uses labels where the teacher errs is the only one that feels them."""
    mixed = replace(source, labels=source.labels[::-1].copy())
    assert equal(train(METHOD, "own")[0], train(METHOD, "mixed", mixed)[0])
    wrong = replace(METHOD, teacher="label_where_wrong")
    assert not equal(train(wrong, "wrong")[0], train(wrong, "wrong mixed", mixed)[0])


def test_a_training_resumes_and_folds_as_a_mean(train, tmp_path):
    """Test 5: a killed run goes on bit for bit; parts of a batch give the batch. Processes fold by the same rule."""
    assert METHOD.fold("soft_ce_adv") == "mean"
    whole, rows = train(METHOD, "whole")
    train(METHOD, "killed")
    assert (tmp_path / "killed").exists()
    again, same = train(METHOD, "killed")  # goes on from the checkpoint after the first of two steps
    assert equal(whole, again) and same == rows and len(rows) == 2
    parts, split_rows = train(METHOD, "parts", accumulate=2)
    for row, other in zip(rows, split_rows, strict=True):
        assert other == pytest.approx(row, rel=1e-3, abs=1e-5)
    assert (whole["proj"] - parts["proj"]).norm() < 1e-3 * whole["proj"].norm()


@pytest.mark.parametrize("teacher", ["clip", "label_where_wrong", "label"])
def test_the_teacher_is_the_frozen_model_the_label_where_it_errs_or_the_label(model, frozen, batch, teacher):
    method = replace(METHOD, teacher=teacher)
    guess = frozen(batch.images).argmax(dim=1)
    labels = torch.where(torch.arange(6) < 3, guess, (guess + 1) % 5)  # wrong on the last three
    given = with_anchors(method, frozen, Batch(batch.images, labels))
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02)  # the teacher is not the trained model
    soft = F.softmax(72 * frozen(batch.images) / frozen.logit_scale, dim=1)
    label = F.one_hot(labels, 5).float()
    expected = {"clip": soft, "label": label, "label_where_wrong": torch.cat([soft[:3], label[3:]])}[teacher]
    torch.testing.assert_close(method._target(model, given), expected)


def test_with_the_labels_as_teacher_agft_is_tecoa_at_its_scale(model, frozen, batch):
    method = replace(METHOD, teacher="label")
    given, adv = with_anchors(method, frozen, batch), (batch.images + 0.05).clamp(0, 1)
    scaled = F.cross_entropy(180 * model(adv) / model.logit_scale, batch.labels)
    torch.testing.assert_close(method.losses(model, frozen, given, adv)["soft_ce_adv"], scaled)


@pytest.mark.parametrize("key", ["logit_scale", "scale_ratio"])
def test_a_scale_of_zero_is_refused(key):
    """Quirk AG3: in the published code 0 stands for CLIP's 100."""
    numbers = {"logit_scale": 180, "scale_ratio": 0.4, "teacher": "clip"} | {key: 0}
    with pytest.raises(ParamError, match=f"methods.agft.{key} must be above 0, got 0"):
        build(AGFT, numbers, "methods.agft")


@pytest.mark.parametrize(
    "step, rate", [(0, 0.0), (500, 2e-4), (999, 3.996e-4), (1000, 3.99606e-4), (25025, 2e-4), (50049, 3.94e-13)]
)
def test_the_schedule_of_agft_is_the_test_vector(document, step, rate):
    """ImageNet: 50,050 steps, 1,000 of warm-up that is not put before the cosine."""
    recipe = replace(block(document, "train", FineTuning), lr=4e-4, warmup_steps=1000, warmup_prefix=False)
    assert learning_rate(step, 50_050, recipe) == pytest.approx(rate, rel=2e-3, abs=0)


def test_the_paper_scale_has_the_published_recipes():
    from tests.conftest import ROOT
    from zsr.params import component, read

    paper = read(ROOT / "studies/paper/params.yaml")
    ours, plain = (training_of(paper, name, FineTuning) for name in ("agft", "tecoa_180"))
    assert ours == plain and component(paper, "methods", "agft") == METHOD
    assert component(paper, "methods", "tecoa_180") == replace(METHOD, teacher="label")
    assert (ours.lr, ours.batch_size, ours.epochs, ours.optimizer, ours.weight_decay) == (4e-4, 256, 10, "sgd", 0)
    assert (ours.warmup_steps, ours.warmup_prefix, ours.betas[0], ours.grad_clip) == (1000, False, 0.9, 0)
    sim = training_of(paper, "sim_clip", FineTuning)
    assert (sim.lr, sim.batch_size, sim.optimizer, sim.weight_decay) == (1e-3, 64, "adamw", 1e-5)
    assert (sim.n_steps(100_000), sim.warmup_steps, sim.attack.n_iter) == (10_000, 1400, 10)


# Sim-CLIP


def test_sim_clip_turns_features_and_attacks_as_fare(model, frozen, batch):
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    fare, sim = FARE(features="raw"), FARE(features="raw", outer="cosine")
    given, adv = with_anchors(sim, frozen, batch), (batch.images + 0.05).clamp(0, 1)
    (term,) = sim.losses(model, frozen, given, adv).values()
    a, b = model.image_features(adv), frozen.image_features(batch.images)
    torch.testing.assert_close(term, 0.5 - 0.5 * F.cosine_similarity(a, b).mean())
    attacks = [method.inner_objective(model, given)(adv) for method in (fare, sim)]
    assert torch.equal(*attacks)
    torch.testing.assert_close(attacks[0], (a - b).square().sum(dim=1))
    longer = dataclasses.replace(given, anchors=3 * given.anchors)  # a cosine knows no length
    torch.testing.assert_close(term, sim.losses(model, frozen, longer, adv)["feature_turn"])


def test_fare_is_squared_unless_a_row_says_otherwise():
    assert FARE(features="raw") == FARE(features="raw", outer="squared")
