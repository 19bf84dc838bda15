import torch
from torch.nn import functional as F

from tests.defences.small_tower import SmallTower, drawn, noise_of
from zsr.defences import _views
from zsr.defences._base import Tower
from zsr.defences.reliability_tte import ReliabilityTTE


def test_weights_are_the_softmax_of_the_mean_cosine_with_the_nearest_others():
    features = F.normalize(torch.randn(2, 6, 5), dim=-1)
    defence = ReliabilityTTE(views=5, neighbours=2, temperature=0.5)
    for row, weights in zip(features, defence.weights(features)):
        reliabilities = []
        for i in range(6):
            others = sorted((float(row[i] @ row[j]) for j in range(6) if j != i), reverse=True)
            reliabilities.append(sum(others[:2]) / 2)
        torch.testing.assert_close(weights, (torch.tensor(reliabilities) / 0.5).softmax(dim=0))


def test_a_view_that_resembles_none_has_no_weight():
    features = F.normalize(torch.tensor([[[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [-1.0, 0.0]]]), dim=-1)
    weights = ReliabilityTTE(neighbours=2).weights(features)
    assert weights[0, 3] < 1e-6 and abs(weights.sum() - 1) < 1e-6 and weights[0, 1] > weights[0, 0] > 0.2


def test_equal_views_give_the_logits_of_the_model(monkeypatch):
    images, model = drawn(), SmallTower()
    monkeypatch.setattr(ReliabilityTTE, "views_of", lambda self, images, *_: torch.stack([images] * 9, dim=1))
    for exclude in ("self", "published"):
        logits = ReliabilityTTE(exclude=exclude).logits(Tower(model), images, noise_of(images), 0)
        torch.testing.assert_close(logits, model(images), atol=1e-4, rtol=1e-5)


def test_the_published_exclusion_also_drops_views_that_equal_another():
    features = torch.tensor([[[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]])  # cosines of exactly 1 and 1/2
    own = ReliabilityTTE(neighbours=2, temperature=1.0).weights(features)
    published = ReliabilityTTE(neighbours=2, temperature=1.0, exclude="published").weights(features)
    torch.testing.assert_close(own, torch.tensor([[0.75, 0.75, 0.5]]).softmax(dim=1))
    torch.testing.assert_close(published, torch.tensor([[0.25, 0.25, 0.5]]).softmax(dim=1))


def test_logits_are_the_weighted_mean_of_the_logits_of_all_views():
    images, model = drawn(), SmallTower()
    defence = ReliabilityTTE(views=7, neighbours=3)
    views = defence.views_of(images, noise_of(images), 2, _views.unchanged)
    assert views.shape[1] == 8 and torch.equal(views[:, 0], images)
    features = model.image_features(views.flatten(0, 1)).view(12, 8, 8)
    weights = defence.weights(F.normalize(features, dim=-1))
    expected = sum(weights[:, i, None] * model.classify(features[:, i]) for i in range(8))
    torch.testing.assert_close(
        defence.logits(Tower(model), images, noise_of(images), 2), expected, atol=1e-4, rtol=1e-5
    )


def test_augmix_changes_crops():
    images = drawn()
    with_mix, without = (
        ReliabilityTTE(views=7, augmix=augmix).views_of(images, noise_of(images), 0, _views.unchanged)
        for augmix in (True, False)
    )
    assert 0 < (with_mix - without).abs().mean() < 0.1
