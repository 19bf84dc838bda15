"""CKA and CCA: one for the same features, blind to what they should be blind to, about nothing for noise."""

import math

import pytest
import torch
from torch import nn

from zsr.measures.similarity import compare, layer_features, linear_cka, mean_cca, stages
from zsr.models.clip import Classifier
from zsr.models.linear import resnet, small_resnet
from zsr.params import StudyError

BOTH = pytest.mark.parametrize("measure", [linear_cka, mean_cca])


def features(n=200, d=6):
    """Correlated columns of different sizes."""
    return torch.randn(n, d) @ torch.randn(d, d) + 3


def rotation(d=6):
    return torch.linalg.qr(torch.randn(d, d))[0]


@BOTH
def test_s1_features_are_like_themselves_however_turned_scaled_and_shifted(measure):
    x = features()
    for other in (x, x @ rotation(), 7 * x - 2):
        assert measure(x, other) == pytest.approx(1, abs=1e-4)


def test_s1_cca_is_blind_to_any_invertible_map_and_cka_is_not():
    x, y = features(), features()
    stretched = x @ torch.randn(6, 6) @ torch.diag(torch.tensor([1e-2, 1, 1, 1, 1, 30.0]))
    assert mean_cca(x, stretched) == pytest.approx(1, abs=1e-4) and linear_cka(x, stretched) < 0.95
    mixed = x + y
    assert mean_cca(mixed, stretched) == pytest.approx(mean_cca(mixed, x), abs=1e-4)


@BOTH
def test_s1_independent_noise_is_not_alike(measure):
    assert measure(torch.randn(4000, 5), torch.randn(4000, 7)) < 0.1


@BOTH
def test_a_measure_is_symmetric_and_between_none_and_one(measure):
    x, y = features(), features(d=4)
    y = y + x[:, :4]
    assert measure(x, y) == pytest.approx(measure(y, x), abs=1e-9)
    assert 0.1 < measure(x, y) < 1


def test_cka_of_known_covariances_is_its_closed_form():
    """Two of three orthonormal directions shared, with sizes a and b: sum a^2 b^2 over the norms."""
    u = torch.linalg.qr(torch.randn(100, 5).double() - 0)[0]
    u = torch.linalg.qr(u - u.mean(dim=0))[0]
    a, b = torch.tensor([1.0, 2, 3]).double(), torch.tensor([2.0, 1, 5]).double()
    x, y = u[:, [0, 1, 2]] * a, u[:, [0, 1, 3]] * b
    top = (a[:2] * b[:2]).square().sum()
    expected = top / ((a**4).sum().sqrt() * (b**4).sum().sqrt())
    assert linear_cka(x, y) == pytest.approx(expected.item(), abs=1e-6)


def test_cca_of_known_correlations_is_the_mean_of_those_that_reach_98_percent():
    u = torch.randn(300, 8).double()
    u = torch.linalg.qr(u - u.mean(dim=0))[0]
    rho = torch.tensor([0.9, 0.8, 0.3, 0.01]).double()
    y = u[:, :4] * rho + u[:, 4:] * (1 - rho**2).sqrt()
    assert mean_cca(u[:, :4], y) == pytest.approx((0.9 + 0.8 + 0.3) / 3, abs=1e-6)  # 2.0 of 2.01 is 99.5 %
    y = u[:, :4] * rho.sqrt() + u[:, 4:] * (1 - rho).sqrt()
    assert mean_cca(u[:, :4], y) == pytest.approx(rho.sqrt().mean().item(), abs=1e-6)  # 0.1 of 2.49 is 4 %


def test_dead_features_do_not_disturb_cca():
    x, dead = features(40), torch.zeros(40, 5)
    assert mean_cca(torch.cat([dead, x], dim=1), torch.cat([x, dead, x[:, :1]], dim=1)) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(StudyError, match="CCA of 6 and 4 features needs more images than that, got 6"):
        mean_cca(features(6), features(6, 4))
    with pytest.raises(StudyError, match="features of 5 and of 6 images"):
        linear_cka(torch.randn(5, 2), torch.randn(6, 2))
    for measure in (linear_cka, mean_cca):
        with pytest.raises(StudyError, match="the same for every image"):
            measure(torch.randn(50, 2), torch.ones(50, 2))


# features of layers


@pytest.mark.parametrize("pool_type", ["avg", "tok"])
def test_the_layers_of_a_vit_are_its_blocks(clip_model, text_embeddings, pool_type):
    clip_model.visual.pool_type = pool_type
    model = Classifier(clip_model, text_embeddings)
    images = torch.rand(5, 3, 24, 24)
    found = layer_features(model, images, batch_size=2)
    blocks = clip_model.visual.transformer.resblocks
    assert list(found) == [f"block{i + 1}" for i in range(len(blocks))] + ["features"]
    with torch.no_grad():
        tokens = clip_model.visual._embeds((images - model.mean) / model.std)
        for i, block in enumerate(blocks):
            tokens = block(tokens)
            torch.testing.assert_close(found[f"block{i + 1}"], tokens.mean(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["features"], model.image_features(images))


def tiny_clip_resnet():
    from open_clip.modified_resnet import ModifiedResNet

    class Clip(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = ModifiedResNet((1, 1, 1, 1), output_dim=48, heads=4, image_size=64, width=8)
            self.visual.image_mean, self.visual.image_std = (0.5,) * 3, (0.25,) * 3
            self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))

    return Clip()


def test_the_layers_of_resnets_are_their_stages(text_embeddings):
    widths = {"layer1": 32, "layer2": 64, "layer3": 128, "layer4": 256, "features": 48}
    found = layer_features(Classifier(tiny_clip_resnet(), text_embeddings), torch.rand(3, 3, 64, 64))
    assert {name: rows.shape[1] for name, rows in found.items()} == widths
    found = layer_features(resnet("resnet18", side=32), torch.rand(3, 3, 16, 16))
    assert [rows.shape[1] for rows in found.values()] == [64, 128, 256, 512, 512]
    torch.testing.assert_close(found["layer4"], found["features"])
    assert list(layer_features(small_resnet(5, 4), torch.rand(3, 3, 8, 8))) == [
        "layer1",
        "layer2",
        "layer3",
        "features",
    ]


def test_looking_leaves_no_hook_no_mode_and_no_statistics_behind():
    model = small_resnet(5, 4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_features(model, torch.rand(6, 3, 8, 8), batch_size=4)
    assert model.training and model.visual.bn1.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_hooks_go_where_a_forward_fails():
    model = small_resnet(5, 4)
    with pytest.raises(RuntimeError):
        layer_features(model, torch.rand(6, 1, 8, 8, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_do_not_matter_and_layers_are_compared_by_name():
    model, images = small_resnet(5, 4), torch.rand(30, 3, 8, 8)
    one, other = layer_features(model, images, 7), layer_features(model, images)
    for measure in (linear_cka, mean_cca):
        values = compare(measure, one, other | {"more": images})
        assert list(values) == ["layer1", "layer2", "layer3", "features"]
        assert list(values.values()) == pytest.approx([1] * 4, abs=1e-4)
    assert list(compare(linear_cka, {"features": one["features"], "block1": images}, other)) == ["features"]


def test_a_tower_without_layers_is_refused():
    with pytest.raises(StudyError, match="Linear has no residual blocks and no stages"):
        stages(nn.Linear(2, 2))
