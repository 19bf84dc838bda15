"""CLIPure-Cos against its closed form, and the audit that must see through it."""

import pytest
import torch
from torch.nn import functional as F

from zsr.attacks.batch import Noise
from zsr.attacks.pgd import PGD
from zsr.defences._base import Tower
from zsr.defences.clipure_cos import CLIPureCos, angle
from zsr.evaluation.defended import Bench, Defending
from zsr.evaluation.evaluate import Evaluation

NOISE = Noise(0, "set", range(6))
TEXT = F.normalize(torch.randn(48, generator=torch.Generator().manual_seed(7)), dim=0)


def at_angles(*degrees: float) -> torch.Tensor:
    """Features of length 3 at the given angles from the text, each in its own plane."""
    theta = torch.deg2rad(torch.tensor(degrees))
    rest = torch.randn(len(degrees), 48, generator=torch.Generator().manual_seed(8))
    side = F.normalize(rest - (rest @ TEXT)[:, None] * TEXT, dim=1)
    return 3 * (torch.cos(theta)[:, None] * TEXT + torch.sin(theta)[:, None] * side)


@pytest.fixture
def tower(trained, batch):
    """A tower whose features have a cosine of at least .3 with the text, as CLIP's have."""
    with torch.no_grad():
        features = F.normalize(trained.image_features(batch.images), dim=1)
    return Tower(trained.eval(), neutral=features.mean(dim=0) + 1.5 * TEXT)


def test_without_iterations_the_logits_are_those_of_the_tower(tower, batch):
    assert torch.equal(CLIPureCos(n_iter=0).logits(tower, batch.images, NOISE, 0), tower(batch.images))


@pytest.mark.parametrize("n_iter", [2, 10])
def test_an_even_number_of_the_published_steps_is_the_identity(tower, batch, n_iter):
    with torch.no_grad():
        cosines = CLIPureCos().statistics(tower, batch.images, NOISE, 0)["cosine"]
        logits, plain = CLIPureCos(n_iter=n_iter).logits(tower, batch.images, NOISE, 0), tower(batch.images)
    assert cosines.min() > 1 / 30 and (logits - plain).abs().max() < 1e-3 * plain.abs().max()
    assert not torch.allclose(CLIPureCos(n_iter=n_iter - 1).logits(tower, batch.images, NOISE, 0), plain, rtol=0.1)


@pytest.mark.parametrize(
    ("start", "after"),
    [
        (75, {1: -13.0908, 2: 75, 9: -13.0908, 10: 75}),
        (30, {1: -58.0908, 2: 30, 9: -58.0908, 10: 30}),
        (100, {1: 11.9092, 2: -76.1817, 9: 11.9092, 10: -76.1817}),
    ],
)
def test_a_step_of_30_turns_by_88_degrees_to_the_other_side(start, after):
    features = at_angles(start)
    for n_iter, degrees in after.items():
        purified = CLIPureCos(n_iter=n_iter).purified(features, TEXT)
        assert torch.rad2deg(angle(purified, features, TEXT)).item() == pytest.approx(degrees, abs=2e-3)
        assert purified.norm().item() == pytest.approx(3, rel=1e-5)


def test_small_steps_lose_all_that_is_of_the_image(tower, batch):
    defence = CLIPureCos(n_iter=500, step_size=0.05)
    with torch.no_grad():
        logits = defence.logits(tower, batch.images, NOISE, 0)
        text = tower.model.classify(tower.neutral[None])
    assert (logits - text).abs().max() < 0.05 * logits.abs().max()  # a step has the length .05 up to the end
    assert F.cosine_similarity(defence.purified(at_angles(20, 60, 80), TEXT), TEXT[None]).min() > 0.998


def test_an_image_does_not_notice_the_others_but_for_the_norm_of_the_batch():
    features, rows = at_angles(75, 30, 60, 50), torch.tensor([2, 0, 3, 1])
    for norm, same in (("image", True), ("batch", False)):
        defence = CLIPureCos(n_iter=9, norm=norm)
        together = defence.purified(features, TEXT)
        assert torch.allclose(defence.purified(features[rows], TEXT), together[rows], atol=1e-4)
        assert torch.allclose(defence.purified(features[:1], TEXT), together[:1], atol=1e-4) is same


@pytest.mark.parametrize("n_iter", [9, 10])
@pytest.mark.parametrize("norm", ["image", "batch"])
def test_the_surrogate_has_the_values_and_a_gradient_by_differences(n_iter, norm):
    """In the closed form the steps turn the features by a constant angle."""
    features = at_angles(75, 30, 60, 50).double()
    defence, text = CLIPureCos(n_iter=n_iter, norm=norm), TEXT.double()
    tower = Tower(Features(), neutral=text)
    leaf = features.clone().requires_grad_()
    logits = defence.surrogate(tower, leaf, NOISE, 0)
    assert torch.allclose(logits, defence.logits(tower, features, NOISE, 0), atol=1e-10)
    if norm == "batch":  # the angle of a step depends on the other images
        return
    weights = torch.randn_like(logits)
    (gradient,) = torch.autograd.grad((weights * logits).sum(), leaf)
    for move in torch.randn(3, *features.shape, dtype=torch.float64):
        up, down = (defence.logits(tower, features + h * move, NOISE, 0) for h in (1e-5, -1e-5))
        assert ((up - down) * weights).sum() / 2e-5 == pytest.approx((gradient * move).sum().item(), rel=1e-3)


class Features:
    """A tower whose images are features."""

    def image_features(self, images):
        return images

    def classify(self, features):
        return 10 * F.normalize(features, dim=1)[:, :5]


def test_the_audit_marks_the_gradient_from_end_to_end(tower, batch):
    def gradient(model):
        leaf = batch.images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(leaf), batch.labels, reduction="sum"), leaf)[0].norm()

    plain = gradient(tower)
    assert gradient(lambda x: CLIPureCos().logits(tower, x, NOISE, 0)) < 1e-6 * plain
    assert gradient(lambda x: CLIPureCos().surrogate(tower, x, NOISE, 0)) == pytest.approx(plain.item(), rel=0.01)
    pgd = {"pgd": PGD(eps=1 / 255, n_iter=1)}
    found = {
        n_iter: Bench(
            CLIPureCos(n_iter=n_iter),
            tower,
            pgd,
            Defending(attacks=["pgd"]),
            Evaluation(seed=0, batch_size=6, save_every=1),
        ).gradient_marks(batch.images, batch.labels, NOISE)
        for n_iter in (0, 10)
    }
    assert found[0] == () and [mark.name for mark in found[10]] == ["zero_gradient"]
    assert "from end to end vanishes at 6 of 6 images" in found[10][0].reason
