"""What must be true of every defence, found by module name as params.yaml finds defences."""

from dataclasses import fields
from pkgutil import iter_modules

import pytest
import torch

import zsr.defences
from zsr.attacks.batch import Noise
from zsr.defences._base import ATTACK_DRAWS, Tower
from zsr.evaluation.defended import Bench, Defending
from zsr.evaluation.evaluate import Evaluation
from zsr.evaluation.sentinels import check_inner_gradient
from zsr.params import module_of

# Module -> the numbers with which the defence is the identity. A defence that has no such numbers is no defence here.
IDENTITY = {
    "clipure_cos": {"n_iter": 0},
    "random_noise": {"eps": 0},
    "ttc": {"eps": 0},
    "dbd": {"views": 0},
    "reliability_tte": {"views": 0},
    "csr": {"n_iter": 0},
}
MODULES = [module.name for module in iter_modules(zsr.defences.__path__) if not module.name.startswith("_")]
NUMBERS = {
    "ttc": {"tau": 1},
    "csr": {"threshold": 1},
}  # with which the defence does something on a tower of random weights
every_defence = pytest.mark.parametrize("name", MODULES)


def defence_of(name, **numbers):
    return module_of("zsr.defences", name, "module").DEFENCE(**NUMBERS.get(name, {}) | numbers)


@pytest.fixture
def tower(trained, split):
    images, _, _ = split.tensors(range(5))
    with torch.no_grad():
        features = torch.nn.functional.normalize(trained.image_features(images), dim=1)
    away = torch.nn.functional.normalize(torch.randn(48), dim=0)
    return Tower(trained.eval().requires_grad_(False), neutral=features.mean(dim=0) + 1.5 * away)


@pytest.fixture
def images(split):
    return split.tensors(range(5))[0]


NOISE = Noise(0, "shapes", list(range(5)))


def test_every_defence_has_an_identity():
    assert set(IDENTITY) == set(MODULES)


@every_defence
def test_the_identity_gives_the_logits_of_the_tower_bit_for_bit(name, tower, images):
    with torch.no_grad():
        assert torch.equal(defence_of(name, **IDENTITY[name]).logits(tower, images, NOISE, 0), tower(images))


@every_defence
def test_the_surrogate_has_the_values_of_the_logits(name, tower, images):
    defence = defence_of(name)
    for draw in (0, ATTACK_DRAWS):
        leaf = images.clone().requires_grad_()
        logits, surrogate = (f(tower, leaf, NOISE, draw) for f in (defence.logits, defence.surrogate))
        assert (logits - surrogate).abs().max() <= 1e-6 * logits.abs().max()
        assert torch.autograd.grad(surrogate.sum(), leaf)[0].flatten(1).norm(dim=1).min() > 0


@every_defence
def test_every_adaptive_attack_has_the_values_of_the_logits_or_a_term(name, tower, images):
    """A variant may change the logits only where a switch is forced; then it has no term."""
    defence = defence_of(name)
    for variant in defence.variants:
        logits, term = defence.adaptive(tower, images.clone().requires_grad_(), NOISE, 0, variant)
        assert logits.shape == (5, 12) and (term is None or term.shape == (5,))


@every_defence
def test_logits_do_not_depend_on_the_other_images(name, tower, images):
    defence = defence_of(name)
    with torch.no_grad():
        together = defence.logits(tower, images, NOISE, 3)
        for rows in ([0], [4, 2, 3]):
            alone = defence.logits(tower, images[rows], NOISE.take(torch.tensor(rows)), 3)
            assert torch.allclose(alone, together[rows], atol=2e-4 * together.abs().max().item()), rows


@every_defence
def test_draws_differ_where_a_defence_is_random_and_only_there(name, tower, images):
    defence = defence_of(name)
    with torch.no_grad():
        one, same, other = (defence.logits(tower, images, NOISE, draw) for draw in (0, 0, 1))
    assert torch.equal(one, same) and torch.equal(one, other) is defence.deterministic


@every_defence
def test_the_violated_conditions_are_those_that_can_be_measured(name, tower, images, split):
    """RobustBench asks for useful gradients, a deterministic forward, and no loop of optimisation in the forward."""
    defence, labels = defence_of(name), split.tensors(range(5))[1]
    bench = Bench(defence, tower, {}, Defending(attacks=["pgd"]), Evaluation(seed=0, batch_size=5, save_every=1))
    marked = {mark.name for mark in bench.gradient_marks(images, labels, NOISE)}
    assert marked == ({"zero_gradient"} if "useful_gradients" in defence.violates else set())
    assert ("deterministic" in defence.violates) is not defence.deterministic
    inner = check_inner_gradient(lambda x: defence.logits(tower, x, NOISE, 0), images, labels)
    assert inner is None or "no_inner_loop" in defence.violates


@every_defence
def test_the_facts_of_a_protocol_name_every_number(name):
    defence = defence_of(name)
    assert all(field in defence.protocol() for field in (field.name for field in fields(defence)))
