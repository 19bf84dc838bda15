import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ROOT
from zsr.attention import text_guided_attention
from zsr.methods._base import Batch
from zsr.params import component, read

METHODS = list(read(ROOT / "params.yaml")["methods"])


def losses(document, name, model, frozen, batch, **changes):
    """The terms of a method on the batch; its images moved a little stand in for adversarial ones."""
    method = dataclasses.replace(component(document, "methods", name), **changes)
    with torch.no_grad():
        batch = Batch(batch.images, batch.labels, method.anchors(frozen, batch.images, batch.labels))
    adv = (batch.images + 0.03 * torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(5))).clamp(
        0, 1
    )
    return method.losses(model, frozen, batch, adv if method.attacked else None)


def total(terms):
    return sum(terms.values())


def gradients(loss, model):
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(loss, list(model.visual.parameters()), allow_unused=True)
            if g is not None
        ]
    )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "clip"])
def test_the_loss_teaches_the_tower_and_nothing_else(document, name, model, frozen, batch):
    terms = losses(document, name, model, frozen, batch)
    assert all(term.isfinite() and term.ndim == 0 for term in terms.values())
    total(terms).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.visual.parameters()
        if p is not model.visual.class_embedding
    )
    assert all(p.grad is None for p in frozen.parameters())
    assert model.logit_scale.grad is None and model.text_embeddings.grad is None


def test_clip_does_not_train(document):
    method = component(document, "methods", "clip")
    assert not method.trains and not method.attacked


def test_tecoa_is_the_cross_entropy_of_attacked_images(document, model, frozen, batch):
    terms = losses(document, "tecoa", model, frozen, batch)
    adv = (batch.images + 0.03 * torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(5))).clamp(
        0, 1
    )
    torch.testing.assert_close(total(terms), F.cross_entropy(model(adv), batch.labels))


@pytest.mark.parametrize(
    "name, off",
    [
        ("tga_zsr", {"lambda_ar": 0.0, "lambda_amc": 0.0}),
        ("embedding_anchor", {"lambda_adv": 0.0, "lambda_clean": 0.0}),
    ],
)
def test_without_its_pulls_a_method_is_tecoa(document, name, off, model, frozen, batch):
    plain = losses(document, "tecoa", model, frozen, batch)
    ours = losses(document, name, model, frozen, batch, **off)
    torch.testing.assert_close(total(ours), total(plain))
    torch.testing.assert_close(gradients(total(ours), model), gradients(total(plain), model))


def test_ft_adv_on_clean_images_is_ft_clean(document, model, frozen, batch):
    method = component(document, "methods", "ft_adv")
    same = method.losses(model, frozen, batch, batch.images)
    torch.testing.assert_close(total(same), total(losses(document, "ft_clean", model, frozen, batch)))


def test_contrastive_fine_tuning_cannot_fall_below_the_duplicates_in_the_batch(document, model, frozen, batch):
    labels = torch.zeros_like(batch.labels)
    batch = Batch(batch.images[:1].expand(6, -1, -1, -1), labels, None)
    torch.testing.assert_close(total(losses(document, "ft_clean", model, frozen, batch)), torch.tensor(math.log(6)))


def test_at_the_start_the_constraint_of_tga_is_zero_with_zero_gradient(document, model, frozen, batch):
    terms = losses(document, "tga_zsr", model, frozen, batch)
    assert terms["attention_constraint"] == 0 and terms["attention_refinement"] > 0
    slope = gradients(terms["attention_constraint"], model)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_tga_is_the_published_formula_at_full_resolution(document, model, frozen, batch):
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02 * torch.randn_like(p))
    adv = (batch.images + 0.03 * torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(5))).clamp(
        0, 1
    )
    text = model.text_embeddings[batch.labels]

    def resized(m, x):
        maps = text_guided_attention(m.tokens(x), text).view(-1, 1, *m.grid)
        return F.interpolate(maps, (24, 24), mode="bilinear", align_corners=False).flatten(1)

    anchor = resized(frozen, batch.images)
    expected = {
        "ce_adv": F.cross_entropy(model(adv), batch.labels),
        "attention_refinement": 0.3 * (resized(model, adv) - anchor).norm(dim=1).mean(),
        "attention_constraint": 0.7 * (resized(model, batch.images) - anchor).norm(dim=1).mean(),
    }
    terms = losses(document, "tga_zsr", model, frozen, batch, lambda_ar=0.3, lambda_amc=0.7)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])


def test_the_control_pulls_raw_features_and_knows_no_text(document, model, frozen, batch):
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02 * torch.randn_like(p))
    terms = losses(document, "embedding_anchor", model, frozen, batch, lambda_clean=2.0)
    moved = (model.image_features(batch.images) - frozen.image_features(batch.images)).norm(dim=1).mean()
    torch.testing.assert_close(terms["anchor_clean"], 2 * moved)
    frozen.text_embeddings = frozen.text_embeddings.flip(0)
    again = losses(document, "embedding_anchor", model, frozen, batch, lambda_clean=2.0)
    assert torch.equal(again["anchor_adv"], terms["anchor_adv"])
