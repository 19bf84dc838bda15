"""TTC and random noise on a linear tower, whose gradients are known. The numbers are those of the specification."""

from dataclasses import replace

import pytest
import torch

from tests.defences.linear_tower import LinearTower
from zsr.attacks.batch import Noise
from zsr.defences._base import Tower
from zsr.defences.random_noise import RandomNoise
from zsr.defences.ttc import GATE, GATE_WEIGHT, TTC

FOR_ALL = 1e9  # a threshold above every r: every image is moved
NOISE = Noise(0, "set", [3, 1, 4, 15, 9])


@pytest.fixture
def images():
    return torch.rand(5, 3, 4, 4)  # some pixels are nearer to 0 or 1 than the noise


@pytest.fixture
def tower():
    return Tower(LinearTower())


def moved(defence, tower, images, draw=0):
    """The images that the defence passes to the tower."""
    defence.logits(tower, images, NOISE, draw)
    return tower.model.seen


def noisy(images, name, draw=0, eps=4 / 255):
    return (images + eps * NOISE.uniform((3, 4, 4), f"{name}/{draw}")).clamp(0, 1)


def test_without_eps_the_logits_are_those_of_the_tower(tower, images):
    for defence in (TTC(eps=0, tau=FOR_ALL), RandomNoise(eps=0)):
        assert torch.equal(defence.logits(tower, images, NOISE, 0), tower(images))


@pytest.mark.parametrize("defence", [TTC(n_iter=0, tau=FOR_ALL), TTC(tau=0), RandomNoise()], ids=["N", "tau", "noise"])
@pytest.mark.parametrize("draw", [0, 1])
def test_without_steps_and_above_the_threshold_there_is_noise_alone(tower, images, defence, draw):
    assert torch.allclose(moved(defence, tower, images, draw), noisy(images, defence.name, draw), atol=1e-7)


def test_stable_images_stay_as_they_are_where_they_get_nothing(tower, images):
    assert torch.equal(moved(TTC(tau=0, stable="none"), tower, images), images)


def test_below_the_threshold_every_image_is_moved(tower, images):
    deltas, r = TTC().counterattack(tower, images, NOISE, 0)
    weights = TTC(tau=FOR_ALL).weights(r)
    assert torch.allclose(weights, torch.tensor([0.015876, 0.117310, 0.866814]).expand(5, 3), atol=1e-6)
    expected = images + torch.einsum("bk,bkchw->bchw", weights, deltas)
    assert torch.allclose(moved(TTC(tau=FOR_ALL), tower, images), expected, atol=1e-7)
    some = TTC(tau=float(r.median()))  # r = tau is stable, quirk C2
    assert (some.weights(r)[:, 0] == 1).tolist() == (r >= r.median()).tolist()


def test_the_weights_are_those_of_the_last_iterate_for_a_large_beta_and_equal_for_none(tower, images):
    deltas, _ = TTC().counterattack(tower, images, NOISE, 0)
    last, mean = (moved(TTC(tau=FOR_ALL, beta=beta), tower, images) for beta in (50, 0))
    assert torch.allclose(last, images + deltas[:, -1], atol=1e-7)
    assert torch.allclose(mean, images + deltas.mean(dim=1), atol=1e-7)


def test_a_step_goes_along_the_sign_of_the_gradient(tower, images):
    """For features A x the squared distance has the gradient 2 A' A delta."""
    deltas, r = TTC(n_iter=1, step_size=1 / 255).counterattack(tower, images, NOISE, 0)
    matrix, first = tower.model.matrix, deltas[:, 0].flatten(1)
    step = 1 / 255 * (2 * first @ matrix @ matrix.T).sign()
    expected = ((first + step).clamp(-4 / 255, 4 / 255) + images.flatten(1)).clamp(0, 1)
    assert torch.allclose(images.flatten(1) + deltas[:, 1].flatten(1), expected, atol=1e-6)
    assert torch.allclose(r, (first @ matrix).norm(dim=1) / (images.flatten(1) @ matrix).norm(dim=1), rtol=1e-3)


def test_moves_stay_in_the_ball_and_images_in_the_range_of_pixels(tower, images):
    defence = TTC(n_iter=6, step_size=3 / 255, eps=5 / 255)
    deltas, r = defence.counterattack(tower, images, NOISE, 0)
    assert deltas.abs().max() <= 5 / 255 + 1e-7 and deltas.shape == (5, 7, 3, 4, 4)
    pixels = images[:, None] + deltas
    assert pixels.min() >= 0 and pixels.max() <= 1
    for stable in (replace(defence, tau=0), replace(defence, tau=FOR_ALL)):
        assert torch.allclose(stable.weights(r).sum(dim=1), torch.ones(5))


def test_r_is_that_of_the_original_clip_and_the_steps_are_those_of_the_tower(tower, images):
    origin = LinearTower()
    origin.matrix = 1 + 0.1 * origin.matrix
    fine_tuned = Tower(tower.model, origin)
    deltas, r = TTC().counterattack(fine_tuned, images, NOISE, 0)
    plain, other = (TTC().counterattack(Tower(one), images, NOISE, 0) for one in (tower.model, origin))
    assert torch.equal(deltas, plain[0]) and torch.allclose(r, other[1]) and not torch.allclose(r, plain[1])
    assert torch.equal(TTC().statistics(fine_tuned, images, NOISE, 0)["r"], r)


class Curved(LinearTower):
    """A tower whose gradient differs from image to image."""

    def image_features(self, images):
        return super().image_features(images).sin()


@pytest.mark.parametrize(
    "defence", [TTC(eps=20 / 255, step_size=9 / 255, tau=FOR_ALL), RandomNoise(eps=20 / 255)], ids=lambda d: d.name
)
def test_the_surrogate_has_the_gradient_of_the_tower_where_the_defence_has_put_the_image(images, defence):
    """BPDA: the move is a constant. Noise that leaves the range of pixels is cut off, and so is its gradient."""
    tower, leaf, weights = Tower(Curved()), images.clone().requires_grad_(), torch.randn(5, 4)

    def gradient(forward, pixels):
        return torch.autograd.grad((weights * forward(pixels)).sum(), pixels)[0]

    found = gradient(lambda x: defence.surrogate(tower, x, NOISE, 3), leaf)
    moved = tower.model.seen.clone().requires_grad_()
    cut = (moved == 0) | (moved == 1) if defence.name == "random_noise" else torch.zeros_like(moved, dtype=torch.bool)
    expected = torch.where(cut, 0, gradient(tower.model, moved))
    torch.testing.assert_close(found, expected)
    plain = gradient(tower.model, images.clone().requires_grad_())
    assert (plain - expected)[~cut].abs().mean() > 0.1 * expected.abs().mean()  # elsewhere the gradient is another one
    attacked = gradient(lambda x: defence.adaptive(tower, x, NOISE, 3, "as_is")[0], leaf)
    torch.testing.assert_close(attacked, expected)


def test_the_gate_of_an_image_does_not_notice_the_other_images(tower, images):
    _, r = TTC().counterattack(tower, images, NOISE, 0)
    defence, rows = TTC(tau=float(r.median())), torch.tensor([4, 1, 2])
    together = moved(defence, tower, images)
    defence.logits(tower, images[rows], NOISE.take(rows), 0)
    assert torch.allclose(tower.model.seen, together[rows], atol=1e-6)
    assert len({round(float(weights[0]), 3) for weights in defence.weights(r)}) == 2  # both branches occur


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_the_passes_are_counted(tower, images, fine_tuned):
    """N + 2 passes: features of the image, one pass for each step, the logits; with an original CLIP two for r."""
    counted = Tower(tower.model, LinearTower() if fine_tuned else None)
    with torch.no_grad():
        TTC().logits(counted, images, NOISE, 0)
    assert (counted.forwards, counted.gradients) == (5 * (4 if fine_tuned else 2), 5 * 2)


def test_the_attack_on_the_gate_raises_r_up_to_the_threshold(tower, images):
    """The term is GATE_WEIGHT min(r - tau, 0), differentiated through the features; the noise is a constant."""
    defence, (_, r) = TTC(tau=0.2), TTC().counterattack(tower, images, NOISE, 0)
    defence = replace(defence, tau=float(r.median()))
    leaf = images.clone().requires_grad_()
    logits, term = defence.adaptive(tower, leaf, NOISE, 0, GATE)
    assert torch.allclose(term, GATE_WEIGHT * (r - r.median()).clamp(max=0), atol=1e-6)
    assert torch.equal(logits, defence.logits(tower, images, NOISE, 0))
    gradient = torch.autograd.grad(term.sum(), leaf)[0].flatten(1)
    matrix, first = tower.model.matrix, TTC().counterattack(tower, images, NOISE, 0)[0][:, 0].flatten(1)
    features = images.flatten(1) @ matrix
    change = (first @ matrix).norm(dim=1, keepdim=True)  # of the features, a constant for a linear tower
    by_hand = -GATE_WEIGHT * change * (features @ matrix.T) / features.norm(dim=1, keepdim=True) ** 3
    open_gate = (r < r.median())[:, None]
    assert torch.allclose(gradient, torch.where(open_gate, by_hand, 0), rtol=1e-3, atol=1e-6)
    assert defence.adaptive(tower, leaf, NOISE, 0, "as_is")[1] is None
