"""DM: its loss by hand, its limits, and the attack that needs a random start."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

from tests.methods.test_methods import disturb, gradients, moved, total
from zsr.attacks.batch import Drawn, Noise
from zsr.attacks.pgd import PGD
from zsr.methods._base import Batch
from zsr.methods.dm import DM
from zsr.methods.fare import FARE
from zsr.models.linear import small_resnet
from zsr.params import ParamError, build
from zsr.training.finetune import TrainingAttack

SELF = DM(anchor="self", beta_eff=3.9)
FROZEN = dataclasses.replace(SELF, anchor="frozen")
EPS = 4 / 255
ATTACK = TrainingAttack(
    eps=EPS,
    step_size=1.25 * EPS / 10,
    n_iter=10,
    random_start=True,
    precision="fp32",
    reduction="sum",
    init_sigma=5e-4,
    fixed_noise=False,
    gradient_leak=0,
)
NOISE = Noise(0, "test", range(6))


def given(method, frozen, batch):
    with torch.no_grad():
        return dataclasses.replace(batch, anchors=method.anchors(frozen, batch))


@pytest.fixture
def plain():
    return small_resnet(5, width=8)


@pytest.mark.parametrize("features", ["raw", "unit"])
@pytest.mark.parametrize("anchor", ["self", "frozen"])
def test_the_loss_is_the_formula(model, frozen, batch, anchor, features):
    disturb(model)
    method = dataclasses.replace(SELF, anchor=anchor, ce_weight=0.7, features=features)
    adv = moved(batch.images)
    terms = method.losses(model, frozen, given(method, frozen, batch), adv)
    one, other = model.image_features(adv), (model if anchor == "self" else frozen).image_features(batch.images)
    if features == "unit":
        one, other = one / one.norm(dim=1, keepdim=True), other / other.norm(dim=1, keepdim=True)
    torch.testing.assert_close(terms["ce_clean"], 0.7 * F.cross_entropy(model(batch.images), batch.labels))
    torch.testing.assert_close(terms["discrepancy"], 3.9 * F.mse_loss(one, other))
    assert list(terms) == ["ce_clean", "discrepancy"]


def test_the_published_beta_is_divided_by_the_batch_twice(model, frozen, batch):
    """beta 500 over a mean over B * D, over B again."""
    adv, n = moved(batch.images), len(batch.labels)
    published = 500 * F.mse_loss(model.image_features(adv), model.image_features(batch.images)) / n
    ours = dataclasses.replace(SELF, beta_eff=500 / n).losses(model, frozen, batch, adv)["discrepancy"]
    torch.testing.assert_close(ours, published)


@pytest.mark.parametrize("method", [SELF, FROZEN], ids=["self", "frozen"])
def test_d2_copies_in_the_batch_change_nothing(method, model, frozen, batch):
    disturb(model)
    adv = moved(batch.images)
    once = total(method.losses(model, frozen, given(method, frozen, batch), adv))
    double = Batch(torch.cat([batch.images] * 2), torch.cat([batch.labels] * 2))
    twice = total(method.losses(model, frozen, given(method, frozen, double), torch.cat([adv] * 2)))
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=1e-6)


def test_d2_holds_of_a_network_with_batchnorm_in_eval_mode(plain, batch):
    adv = moved(batch.images)
    double = Batch(torch.cat([batch.images] * 2), torch.cat([batch.labels] * 2))
    once, twice = (
        total(SELF.losses(plain, None, batch, adv)),
        total(SELF.losses(plain, None, double, torch.cat([adv] * 2))),
    )
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=1e-6)


def test_d3_without_the_discrepancy_a_step_is_one_of_fine_tuning(plain, batch):
    """Weights and BatchNorm's statistics, bit for bit."""
    states = []
    for step in ("dm", "fine-tuning"):
        model = copy.deepcopy(plain).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if step == "dm":
            loss = total(DM(anchor="self", beta_eff=0.0).losses(model, None, batch, moved(batch.images)))
        else:
            loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.backward()
        optimizer.step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert not torch.equal(states[0]["visual.bn1.running_mean"], plain.state_dict()["visual.bn1.running_mean"])


def test_with_the_frozen_anchor_and_no_label_it_is_fare(model, frozen, batch):
    disturb(model)
    fare, adv = FARE(features="raw"), moved(batch.images)
    method = DM(anchor="frozen", beta_eff=48.0, ce_weight=0.0)  # 48 features
    ours = total(method.losses(model, frozen, given(method, frozen, batch), adv))
    theirs = total(fare.losses(model, frozen, given(fare, frozen, batch), adv))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, model), gradients(theirs, model), rtol=1e-4, atol=1e-6)
    raised, fares = (m.inner_objective(model, given(m, frozen, batch))(adv) for m in (method, fare))
    torch.testing.assert_close(48 * raised, fares)


def test_both_sides_of_the_discrepancy_learn(model, frozen, batch):
    disturb(model)
    method, adv = dataclasses.replace(SELF, ce_weight=0.0), moved(batch.images)
    free = gradients(total(method.losses(model, frozen, batch, adv)), model)
    with torch.no_grad():
        held = model.image_features(batch.images)
    one_sided = dataclasses.replace(method, anchor="frozen")
    bound = gradients(total(one_sided.losses(model, frozen, dataclasses.replace(batch, anchors=held), adv)), model)
    assert (free - bound).norm() > 0.1 * free.norm()


def test_the_loss_teaches_the_tower_and_leaves_the_frozen_model(model, frozen, batch):
    total(FROZEN.losses(model, frozen, given(FROZEN, frozen, batch), moved(batch.images))).backward()
    assert sum(p.grad.abs().sum() for p in model.visual.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in frozen.parameters())


# the attack


def slope(model, method, batch, images):
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(method.inner_objective(model, batch)(leaf).sum(), leaf)[0]


def test_d1_at_the_image_there_is_no_gradient_and_after_noise_there_is(plain, model, batch):
    start = ATTACK.start(batch.images, NOISE)
    assert 0 < (start - batch.images).abs().max() < EPS
    for net in (plain, model):
        assert not slope(net, SELF, batch, batch.images).any()
        assert slope(net, SELF, batch, start).any()


def test_d1_the_attack_stays_in_the_ball_and_in_range(plain, batch):
    adv = ATTACK.maximise(SELF.inner_objective(plain, batch), batch.images, NOISE)
    assert (adv - batch.images).abs().max() <= EPS + 1e-7 and adv.min() >= 0 and adv.max() <= 1
    assert (adv - batch.images).abs().max() > 0.9 * EPS
    at_image = dataclasses.replace(ATTACK, random_start=False, init_sigma=0.0)
    assert torch.equal(at_image.maximise(SELF.inner_objective(plain, batch), batch.images, NOISE), batch.images)


def test_the_attack_raises_the_discrepancy_without_labels(plain, batch):
    objective = SELF.inner_objective(plain, batch)
    adv = ATTACK.maximise(objective, batch.images, NOISE)
    assert (objective(adv) > 20 * objective(ATTACK.start(batch.images, NOISE))).all()
    other = dataclasses.replace(batch, labels=batch.labels.flip(0))
    assert torch.equal(ATTACK.maximise(SELF.inner_objective(plain, other), batch.images, NOISE), adv)


def test_the_attack_reaches_the_parameters_by_no_gradient(plain, batch):
    ATTACK.maximise(SELF.inner_objective(plain, batch), batch.images, NOISE)
    assert all(p.grad is None for p in plain.parameters())


@pytest.mark.parametrize("method", [SELF, FROZEN], ids=["self", "frozen"])
def test_the_attack_raises_what_the_loss_weighs(method, model, frozen, batch):
    disturb(model)
    adv, ready = moved(batch.images), given(method, frozen, batch)
    raised = method.inner_objective(model, ready)(adv)
    assert raised.shape == (6,)
    torch.testing.assert_close(3.9 * raised.mean(), method.losses(model, frozen, ready, adv)["discrepancy"])


# the Gaussian start


def test_a_gaussian_start_has_its_standard_deviation():
    images = torch.full((6, 3, 64, 64), 0.5)
    offset = ATTACK.start(images, NOISE) - images
    assert offset.std().item() == pytest.approx(5e-4, rel=0.02) and abs(offset.mean()) < 1e-5
    assert offset.pow(4).mean() / offset.var() ** 2 == pytest.approx(3, rel=0.03)  # uniform: 1.8
    one, other = (offset.abs() < k * 5e-4 for k in (1, 2))
    assert (one.float().mean(), other.float().mean()) == (
        pytest.approx(0.6827, abs=0.01),
        pytest.approx(0.954, abs=0.01),
    )


def test_a_gaussian_start_is_cut_at_the_ball_even_where_it_would_be_infinite():
    images, rows = torch.full((1, 1, 1, 4), 0.5), torch.tensor([-1.0, -0.5, 0.0, 0.999999]).view(1, 1, 1, 4)
    wide = dataclasses.replace(ATTACK, init_sigma=0.5, clip_start=False)
    start = wide.start(images, Drawn(rows))
    assert start.isfinite().all() and start[0, 0, 0, 2] == 0.5
    torch.testing.assert_close(start[..., [0, 3]], torch.tensor([0.5 - EPS, 0.5 + EPS]).view(1, 1, 1, 2))


def test_without_a_sigma_the_start_is_the_uniform_one_as_before():
    images = torch.rand(6, 3, 8, 8)
    plain = dataclasses.replace(ATTACK, init_sigma=0.0, clip_start=False)
    assert torch.equal(plain.start(images, NOISE), images + EPS * NOISE.uniform((3, 8, 8), "pgd"))
    assert "random start" in plain.facts() and "Gaussian start of 0.1275/255" in ATTACK.facts()


def test_a_sigma_without_a_random_start_is_refused():
    numbers = {"eps": "4/255", "step_size": "1/255", "n_iter": 2, "random_start": False, "init_sigma": 5e-4}
    for schema, own in ((PGD, {}), (TrainingAttack, {"fixed_noise": False, "gradient_leak": 0})):
        block = numbers | own | {"precision": "fp32", "reduction": "sum"}
        with pytest.raises(ParamError, match="^attack: init_sigma: 0.0005 needs random_start: true$"):
            build(schema, block, "attack")


def test_params_name_the_method():
    assert build(DM, {"anchor": "self", "beta_eff": 3.9}, "methods.dm") == SELF
    with pytest.raises(ParamError, match="unknown key 'methods.dm.beta'"):
        build(DM, {"anchor": "self", "beta": 500}, "methods.dm")
    with pytest.raises(ParamError, match="methods.dm.anchor must be one of self, frozen, got 'own'"):
        build(DM, {"anchor": "own", "beta_eff": 3.9}, "methods.dm")
