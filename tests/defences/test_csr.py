import math

import pytest
import torch
from torch.nn import functional as F

from tests.defences.small_tower import SmallTower, drawn, noise_of
from zsr.defences._base import AS_IS, Tower
from zsr.defences.csr import CSR, GATE, GATE_WEIGHT

ALL = CSR(threshold=1.0, eps="40/255", step_size="20/255")  # corrects every image


def logits(defence: CSR, images: torch.Tensor) -> torch.Tensor:
    return defence.logits(Tower(SmallTower()), images, noise_of(images), 0)


def test_a_threshold_of_minus_1_and_no_step_give_the_model_bit_for_bit():
    images = drawn()
    assert torch.equal(logits(CSR(threshold=-1), images), SmallTower()(images))
    assert torch.equal(logits(CSR(threshold=1.0, n_iter=0), images), SmallTower()(images))
    assert not torch.equal(logits(ALL, images), SmallTower()(images))


def test_the_low_pass_damps_a_wave_by_the_gaussian_of_its_frequency():
    for cutoff, cycles in ((40 / 224, 3), (0.1, 5)):
        wave = torch.cos(2 * math.pi * cycles * torch.arange(32) / 32)
        for image in (0.5 + 0.4 * wave.expand(1, 3, 32, 32), 0.5 + 0.4 * wave[:, None].expand(1, 3, 32, 32)):
            factor = math.exp(-((cycles / 32) ** 2) / (2 * cutoff**2))
            torch.testing.assert_close(CSR(cutoff=cutoff).low_pass(image), 0.5 + factor * (image - 0.5))
    bright = CSR(cutoff=0.15).low_pass((torch.arange(32) < 16).float().expand(1, 3, 32, 32))
    assert bright.min() >= 0 and bright.max() <= 1


def test_the_default_cutoff_is_40_cycles_of_224_pixels():
    assert CSR().cutoff == pytest.approx(40 / 224)


def test_the_first_step_follows_the_feature_of_the_low_frequencies_alone():
    images, model = drawn(), SmallTower()
    defence = CSR(threshold=1.0, eps="40/255", step_size="2/255", n_iter=1)
    low = F.normalize(model.image_features(defence.low_pass(images)), dim=1)
    leaf = images.clone().requires_grad_()
    (F.normalize(model.image_features(leaf), dim=1) * low).sum().backward()
    step = (images + 2 / 255 * leaf.grad.sign()).clamp(0, 1) - images
    correction = defence.correction(Tower(model), images)
    moved = correction.flatten(1).abs().max(dim=1)[0] > 0  # one step may be too far, and then the image is best
    assert moved.sum() > 6 and ((correction - step)[moved].abs() < 1e-6).float().mean() > 0.97


def test_the_correction_is_the_best_of_all_points_and_stays_in_the_ball():
    images, model, tower = drawn(), SmallTower(), Tower(SmallTower())
    low = F.normalize(model.image_features(ALL.low_pass(images)), dim=1)
    own = F.normalize(model.image_features(images), dim=1)

    def score(correction):
        features = F.normalize(model.image_features(images + correction), dim=1)
        return ((low - own) * features).sum(dim=1)

    scores = [score(CSR(**vars(ALL) | {"n_iter": n}).correction(tower, images)) for n in range(6)]
    assert all((later >= earlier - 1e-6).all() for earlier, later in zip(scores, scores[1:]))
    assert (scores[1] > scores[0]).any() and (scores[2] > scores[1] + 1e-4).any()  # and the last point counts
    corrected = images + CSR(**vars(ALL) | {"n_iter": 20}).correction(tower, images)
    assert (corrected - images).abs().max() <= 40 / 255 + 1e-6 and corrected.min() >= 0 and corrected.max() <= 1


def test_only_images_below_the_threshold_are_corrected():
    images, tower = drawn(), Tower(SmallTower())
    stability = CSR().statistics(tower, images, noise_of(images), 0)["stability"]
    defence = CSR(**vars(ALL) | {"threshold": stability.median().item()})
    changed = defence.correction(tower, images).flatten(1).abs().sum(dim=1) > 0
    below = stability < defence.threshold
    assert torch.equal(changed, below) and 0 < below.sum() < len(images)
    assert torch.equal(logits(defence, images)[~below], SmallTower()(images)[~below])


def test_the_surrogate_takes_the_correction_for_a_constant():
    images, model = drawn().requires_grad_(), SmallTower()
    correction = ALL.correction(Tower(model), images)
    for pass_ in (ALL.surrogate, ALL.logits):
        (gradient,) = torch.autograd.grad(pass_(Tower(model), images, noise_of(images), 0)[:, 0].sum(), images)
        moved = (images + correction).detach().requires_grad_()
        (expected,) = torch.autograd.grad(model(moved)[:, 0].sum(), moved)
        torch.testing.assert_close(gradient, expected)


def test_the_attack_on_the_gate_raises_the_stability_of_images_below_the_threshold():
    images, tower = drawn().requires_grad_(), Tower(SmallTower())
    stability = CSR().stability(tower, images)
    defence = CSR(threshold=stability.median().item())
    plain, gated = (defence.adaptive(tower, images, noise_of(images), 0, name) for name in (AS_IS, GATE))
    assert torch.equal(plain[0], gated[0]) and plain[1] is None
    torch.testing.assert_close(gated[1], GATE_WEIGHT * (stability - defence.threshold).clamp(max=0))
    (gradient,) = torch.autograd.grad(gated[1].sum(), images)
    further = (images + 1e-3 * gradient.sign()).detach()
    below = stability < defence.threshold - 1e-3
    assert (CSR().stability(tower, further) > stability)[below].all() and below.any()


def test_the_tower_counts_the_passes_of_the_correction():
    images, tower = drawn(), Tower(SmallTower())
    logits_of = ALL.logits(tower, images, noise_of(images), 0)
    assert len(logits_of) == 12 and (tower.forwards, tower.gradients) == (4 * 12, 3 * 12)
