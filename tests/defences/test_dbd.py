import math

import pytest
import torch
from torch.nn import functional as F

from tests.defences.small_tower import SmallTower, drawn, noise_of
from zsr.defences import _views
from zsr.defences._base import AS_IS, Tower
from zsr.defences.dbd import BELOW, BOOSTED, DBD, PLAIN, VIEWS, direction, surest
from zsr.params import ParamError

SMALL = DBD(kernel=3)


def at(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_direction_and_agreement_of_three_views_in_the_plane():
    feature, views = at(0), at(30, 40, 50)[None]
    shift, agreement = direction(feature, views)
    assert agreement.item() == pytest.approx(0.997366, abs=1e-6)
    for kappa, degrees in ((1, 40.0), (2.5, 76.0302)):
        x, y = (feature + kappa * shift)[0].tolist()
        assert math.degrees(math.atan2(y, x)) == pytest.approx(degrees, abs=1e-3)


class Plane:
    """A tower of features in the plane: the angle is the mean of the red pixels, in degrees; the blue ones blur it."""

    text_embeddings = at(0.0, 90.0, 180.0)
    logit_scale = torch.tensor(10.0)

    def image_features(self, images):
        angles = images[:, 0].mean(dim=(1, 2)).deg2rad()
        return 3 * torch.stack([angles.cos(), angles.sin()], dim=1)

    def classify(self, features):
        return self.logit_scale * F.normalize(features, dim=-1) @ self.text_embeddings.T


def with_views(monkeypatch, *degrees: float) -> torch.Tensor:
    """The logits' angles of DBD whose views have these angles."""
    views = torch.tensor(degrees, dtype=torch.float).view(1, -1, 1, 1, 1).expand(-1, -1, 3, 2, 2)
    monkeypatch.setattr(DBD, "views_of", lambda *args: views)
    return views[:, 0]


@pytest.mark.parametrize("threshold, degrees", [(0.8, 76.0302), (2, 40.0), (0.9974, 40.0), (-1, 76.0302)])
def test_kappa_is_larger_where_views_agree_on_the_direction(monkeypatch, threshold, degrees):
    images = with_views(monkeypatch, 0, 30, 40, 50)
    logits = DBD(threshold=threshold).logits(Tower(Plane()), images, noise_of(images), 0)
    torch.testing.assert_close(logits, Plane().classify(at(degrees)), atol=1e-4, rtol=0)


def test_views_that_equal_the_image_give_the_logits_of_the_model(monkeypatch):
    images = with_views(monkeypatch, *[20.0] * 32)
    model = Tower(Plane())
    assert DBD().statistics(model, images, noise_of(images), 0)["agreement"].item() == 0  # of zero vectors: no 0 / 0
    torch.testing.assert_close(DBD().logits(model, images, noise_of(images), 0), Plane().classify(at(20)))


def test_kappa_1_gives_the_mean_of_the_surest_features():
    images, model = drawn(), SmallTower()
    defence = DBD(kernel=3, threshold=2)
    views = defence.views_of(images, noise_of(images), 0, _views.unchanged)
    features = F.normalize(model.image_features(views.flatten(0, 1)), dim=1).view(len(images), 32, 8)
    logits = model.classify(features)
    entropies = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
    surest_16 = entropies[:, 1:].argsort(dim=1)[:, :16] + 1  # never the image itself
    mean = torch.stack([rows[chosen].mean(dim=0) for rows, chosen in zip(features, surest_16)])
    torch.testing.assert_close(
        defence.logits(Tower(model), images, noise_of(images), 0), model.classify(mean), atol=1e-4, rtol=1e-5
    )


def test_the_surest_views_are_those_of_lowest_entropy_and_of_equal_ones_the_first():
    sure, unsure = torch.tensor([9.0, 0, 0]), torch.tensor([1.0, 0, 0])
    logits = torch.stack([sure, unsure, unsure, sure + 1, unsure])[None]
    assert surest(logits, 3).tolist() == [[0, 3, 1]]
    assert surest(logits, 99).shape == (1, 5)


def test_there_are_31_views_in_order_and_the_first_is_the_image():
    images = drawn()
    views = SMALL.views_of(images, noise_of(images), 0, _views.unchanged)
    assert views.shape == (12, 32, 3, 8, 8) and VIEWS == 31 and torch.equal(views[:, 0], images)
    torch.testing.assert_close(views[:, 17:20], _views.coarse(images, 3, False, _views.unchanged))
    torch.testing.assert_close(views[:, 20:23], _views.jpeg(images, (50, 60, 75), _views.unchanged))
    torch.testing.assert_close(views[:, 29:], _views.filtered(images, 3, _views.unchanged))
    other = SMALL.views_of(images, noise_of(images), 1, _views.unchanged)
    changed = [i for i in range(32) if not torch.equal(views[:, i], other[:, i])]
    assert changed == [*range(1, 17), *range(23, 29)]  # crops and noise are drawn anew
    fewer = DBD(kernel=3, views=5).views_of(images, noise_of(images), 0, _views.unchanged)
    assert torch.equal(fewer, views[:, :6])


def test_switches_of_quirks_reach_the_views():
    images, through = (drawn() + 0.4 / 255).clamp(max=1), _views.unchanged
    white = torch.ones_like(images)
    black = DBD(kernel=3, overflow="published").views_of(white, noise_of(images), 0, through)[:, 18:20]
    assert black.max() == 0 and SMALL.views_of(white, noise_of(images), 0, through)[:, 18:20].min() == 1
    floored = DBD(kernel=3, quantise="floor").views_of(images, noise_of(images), 0, through)
    torch.testing.assert_close(floored[:, 0], drawn())
    assert torch.equal(SMALL.views_of(images, noise_of(images), 0, through)[:, 0], images)


def test_adaptive_attacks_force_either_kappa_and_push_the_agreement_below_the_threshold():
    images, model = drawn(), Tower(SmallTower())
    noise = noise_of(images)
    agreement = SMALL.statistics(model, images, noise, 3)["agreement"]
    defence = DBD(kernel=3, threshold=agreement.median().item())  # some images on either side
    attacks = {variant: defence.adaptive(model, images, noise, 3, variant) for variant in defence.variants}
    above = (agreement > defence.threshold)[:, None]
    assert above.any() and not above.all()
    mixed = torch.where(above, attacks[BOOSTED][0], attacks[PLAIN][0])
    torch.testing.assert_close(attacks[AS_IS][0], mixed)
    torch.testing.assert_close(attacks[AS_IS][0], defence.surrogate(model, images, noise, 3))
    assert not torch.allclose(attacks[BOOSTED][0], attacks[PLAIN][0])
    torch.testing.assert_close(attacks[BELOW][1], defence.threshold - agreement)
    assert [attacks[variant][1] for variant in (AS_IS, PLAIN, BOOSTED)] == [None] * 3


def test_every_adaptive_attack_has_the_gradient_of_its_surrogate():
    images, model = drawn().requires_grad_(), Tower(SmallTower())

    def gradient(forward, *variant):
        found = forward(model, images, noise_of(images), 3, *variant)
        return torch.autograd.grad((found[0] if variant else found)[:, 0].sum(), images)[0]

    for variant, threshold in ((AS_IS, SMALL.threshold), (PLAIN, 2), (BOOSTED, -1), (BELOW, SMALL.threshold)):
        surrogate = gradient(DBD(kernel=3, threshold=threshold).surrogate)
        torch.testing.assert_close(gradient(SMALL.adaptive, variant), surrogate)


def test_the_agreement_has_a_gradient_and_the_choice_of_views_has_none():
    images = drawn().requires_grad_()
    _, term = SMALL.adaptive(Tower(SmallTower()), images, noise_of(images), 0, BELOW)
    (gradient,) = torch.autograd.grad(term.sum(), images)
    assert (gradient.flatten(1).abs().max(dim=1)[0] > 0).all()


def test_a_filter_of_an_even_side_and_too_many_views_are_refused():
    with pytest.raises(ValueError, match="kernel: 4 is even"):
        DBD(kernel=4)
    with pytest.raises(ParamError, match="DBD.views"):
        DBD(views=32)
