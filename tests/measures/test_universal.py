"""A universal perturbation: in its ball, stronger than its control, seen by models that share what it uses."""

import copy

import pytest
import torch
from torch import nn

from zsr.measures.universal import UniversalAttack, damage, random_signs
from zsr.models.linear import PlainClassifier, small_resnet

ATTACK = UniversalAttack(eps=8 / 255, step_size=2 / 255, epochs=3, batch_size=10)


@pytest.fixture
def net():
    return small_resnet(5, width=8)  # of 4 oneDNN writes beside its memory in backward passes with AVX2


@pytest.fixture
def images():
    return 0.1 + 0.8 * torch.rand(25, 3, 8, 8)


def shift(net, images, delta):
    with torch.no_grad():
        return (net.features((images + delta).clamp(0, 1)) - net.features(images)).square().mean()


def test_one_perturbation_in_the_ball_the_same_for_a_seed(net, images):
    delta = ATTACK.perturbation(net, images, seed=0)
    assert delta.shape == (3, 8, 8) and delta.abs().max() <= ATTACK.eps and delta.abs().mean() > 0.5 * ATTACK.eps
    assert torch.equal(delta, ATTACK.perturbation(net, images, seed=0))
    assert not torch.equal(delta, ATTACK.perturbation(net, images, seed=1))


def test_it_moves_features_more_than_any_of_its_controls(net, images):
    delta = ATTACK.perturbation(net, images, seed=0)
    controls = [shift(net, images, random_signs(delta, seed)) for seed in range(20)]
    assert shift(net, images, delta) > 2 * max(controls)


def test_the_control_has_the_size_at_every_pixel(net, images):
    delta = ATTACK.perturbation(net, images, seed=0)
    control = random_signs(delta, 3)
    assert torch.equal(control.abs(), delta.abs()) and control.norm() == delta.norm()
    assert torch.equal(control, random_signs(delta, 3)) and not torch.equal(control, random_signs(delta, 4))
    assert abs((control.sign() * delta.sign()).mean()) < 0.3


def linear(direction):
    """A tower of one feature, the product of an image with a direction; class 1 where it is positive."""

    class Product(nn.Module):
        def forward(self, x):
            return (x * direction).sum(dim=(1, 2, 3))[:, None]

    head = nn.Linear(1, 2)
    head.weight.data, head.bias.data = torch.tensor([[-1.0], [1.0]]), torch.zeros(2)
    return PlainClassifier(Product(), head, ((0.5,) * 3, (1.0,) * 3))


def test_of_a_linear_model_it_is_the_signs_of_its_direction(images):
    direction = torch.randn(3, 8, 8)
    delta = UniversalAttack(eps=0.05, step_size=0.01, epochs=30, batch_size=25).perturbation(
        linear(direction), images, 0
    )
    assert delta.abs().allclose(torch.tensor(0.05))
    assert abs((delta.sign() * direction.sign()).mean()) == 1


def test_the_damage_is_that_of_counting():
    direction = torch.zeros(3, 2, 2)
    direction[0, 0, 0] = 1.0
    images = torch.full((4, 3, 2, 2), 0.5)
    images[:, 0, 0, 0] += torch.tensor([-0.3, -0.05, 0.05, 0.3])
    labels = torch.tensor([0, 1, 1, 1])
    found = damage(linear(direction), images, labels, 0.1 * direction)
    assert found == {"clean": 0.75, "perturbed": 1.0, "drop": -0.25, "fooled": 0.25}
    found = damage(linear(direction), images, labels, -0.1 * direction)
    assert found == {"clean": 0.75, "perturbed": 0.5, "drop": 0.25, "fooled": 0.25}
    nothing = damage(linear(direction), images, labels, 0 * direction)
    assert nothing["drop"] == nothing["fooled"] == 0


def test_perturbed_pixels_stay_in_range():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append((x.min().item(), x.max().item()))
            return x.flatten(1)[:, :4]

    net = PlainClassifier(Watching(), nn.Linear(4, 2), ((0.0,) * 3, (1.0,) * 3))
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    delta = ATTACK.perturbation(net, images, seed=0)
    damage(net, images, torch.tensor([0, 1]), delta)
    assert all(0 <= low and high <= 1 for low, high in seen)


def test_the_model_is_left_as_it_was(net, images):
    net.train()
    before = copy.deepcopy(net.state_dict())
    damage(net, images, torch.zeros(25, dtype=torch.long), ATTACK.perturbation(net, images, seed=0))
    assert net.training and net.visual.bn1.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
