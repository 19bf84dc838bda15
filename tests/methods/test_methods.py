import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ROOT
from zsr.methods._base import Batch
from zsr.models.attention import grad_cam, text_guided_attention
from zsr.params import component, read

METHODS = list(read(ROOT / "params.yaml")["methods"])
TRAINED = [name for name in METHODS if name != "clip"]


def moved(images):
    """Images moved a little, which stand in for adversarial ones."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    return (images + 0.03 * noise).clamp(0, 1)


def with_anchors(method, frozen, batch):
    """The batch with what the loop adds to it: non-class prompts, here drawn at random, and the anchors."""
    words = torch.randn(5, 48, generator=torch.Generator().manual_seed(6))
    non_class = F.normalize(words, dim=1)[batch.labels] if method.non_class_template else None
    batch = dataclasses.replace(batch, non_class=non_class)
    with torch.no_grad():
        return dataclasses.replace(batch, anchors=method.anchors(frozen, batch))


def losses(document, name, model, frozen, batch, **changes):
    """The terms of a method on the batch."""
    method = dataclasses.replace(component(document, "methods", name), **changes)
    adv = moved(batch.images) if method.attacked else None
    return method.losses(model, frozen, with_anchors(method, frozen, batch), adv)


def total(terms):
    return sum(terms.values())


def gradients(loss, model):
    parameters = list(model.visual.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found)])


def disturb(model):
    """Weights some way off the frozen model's."""
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


@pytest.mark.parametrize("name", TRAINED)
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


@pytest.mark.parametrize("name", TRAINED)
def test_images_of_a_batch_may_be_in_any_order(document, name, model, frozen, batch):
    disturb(model)
    turned = Batch(batch.images.flip(0), batch.labels.flip(0))
    method = component(document, "methods", name)
    adv = moved(batch.images)
    terms = method.losses(model, frozen, with_anchors(method, frozen, batch), adv)
    again = method.losses(model, frozen, with_anchors(method, frozen, turned), adv.flip(0))
    torch.testing.assert_close(total(terms), total(again), rtol=1e-4, atol=1e-5)


def test_clip_does_not_train(document):
    method = component(document, "methods", "clip")
    assert not method.trains and not method.attacked


def test_tecoa_is_the_cross_entropy_of_attacked_images(document, model, frozen, batch):
    terms = losses(document, "tecoa", model, frozen, batch)
    torch.testing.assert_close(total(terms), F.cross_entropy(model(moved(batch.images)), batch.labels))


@pytest.mark.parametrize(
    "name, off",
    [
        ("tga_zsr", {"lambda_ar": 0.0, "lambda_amc": 0.0}),
        ("comp_tga", {"lambda_ar": 0.0, "lambda_amc": 0.0}),
        ("vision_attention", {"lambda_ar": 0.0, "lambda_amc": 0.0, "map_gradient": "second_order"}),
        ("pmg_aft", {"lambda_general": 0.0, "lambda_clean": 0.0, "logit_scale": "learnt"}),
        ("embedding_anchor", {"lambda_adv": 0.0, "lambda_clean": 0.0}),
    ],
)
def test_without_its_pulls_a_method_is_tecoa(document, name, off, model, frozen, batch):
    plain = losses(document, "tecoa", model, frozen, batch)
    ours = losses(document, name, model, frozen, batch, **off)
    torch.testing.assert_close(total(ours), total(plain))
    torch.testing.assert_close(gradients(total(ours), model), gradients(total(plain), model))


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "fare"])
def test_the_training_attack_raises_cross_entropy(document, name, model, frozen, batch):
    """On unscaled cosines for PMG-AFT; the contrastive methods too (F3)."""
    method = component(document, "methods", name)
    logits = model(batch.images) / (model.logit_scale if name == "pmg_aft" else 1)
    raised = method.inner_objective(model, with_anchors(method, frozen, batch))(batch.images)
    torch.testing.assert_close(raised, F.cross_entropy(logits, batch.labels, reduction="none"))


# FT-Clean, FT-Adv


@pytest.mark.parametrize("duplicate_negatives", [True, False])
def test_ft_adv_on_clean_images_is_ft_clean(document, model, frozen, batch, duplicate_negatives):
    change = {"duplicate_negatives": duplicate_negatives}
    method = dataclasses.replace(component(document, "methods", "ft_adv"), **change)
    same = method.losses(model, frozen, batch, batch.images)
    torch.testing.assert_close(total(same), total(losses(document, "ft_clean", model, frozen, batch, **change)))


@pytest.mark.parametrize("name, x", [("ft_clean", lambda images: images), ("ft_adv", moved)])
def test_the_contrastive_loss_is_symmetric_between_images_and_their_prompts(document, name, x, model, frozen, batch):
    """Spec 3.2: S_ij = z(x_i) at the class of image j, both sides with the diagonal as targets."""
    pairs = model(x(batch.images))[:, batch.labels]
    sides = [F.cross_entropy(s, torch.arange(6)) for s in (pairs, pairs.T)]
    torch.testing.assert_close(total(losses(document, name, model, frozen, batch)), sum(sides) / 2)


@pytest.mark.parametrize("duplicate_negatives, floor", [(True, math.log(6)), (False, 0.0)])
def test_images_of_one_class_bound_the_contrastive_loss(document, model, frozen, batch, duplicate_negatives, floor):
    batch = Batch(batch.images[:1].expand(6, -1, -1, -1), torch.zeros_like(batch.labels))
    terms = losses(document, "ft_clean", model, frozen, batch, duplicate_negatives=duplicate_negatives)
    torch.testing.assert_close(total(terms), torch.tensor(floor))


# TGA-ZSR


@pytest.mark.parametrize("order", ["minmax_resize", "resize_minmax"])
@pytest.mark.parametrize("distance", ["l2", "rms", "l1", "cos"])
def test_at_the_start_the_constraint_of_tga_is_zero_with_zero_gradient(document, model, frozen, batch, order, distance):
    terms = losses(document, "tga_zsr", model, frozen, batch, order=order, distance=distance)
    assert terms["attention_constraint"].abs() < 1e-6 and terms["attention_refinement"] > 0
    slope = gradients(terms["attention_constraint"], model)
    assert slope.isfinite().all() and slope.abs().max() < 1e-4
    assert distance == "cos" or torch.equal(slope, torch.zeros_like(slope))


DISTANCES = {
    "l2": lambda a, b: (a - b).norm(dim=1),
    "rms": lambda a, b: (a - b).square().mean(dim=1).sqrt(),
    "l1": lambda a, b: (a - b).abs().mean(dim=1),
    "cos": lambda a, b: 1 - F.cosine_similarity(a, b, dim=1),
}


ORDERS, AXES = ["minmax_resize", "resize_minmax"], ["tokens", "features", "none"]
MAPS = [
    pytest.param(distance, order, axis, marks=[pytest.mark.slow] * ((i + j + k) % 2))  # half of them have every two
    for i, distance in enumerate(DISTANCES)
    for j, order in enumerate(ORDERS)
    for k, axis in enumerate(AXES)
]


@pytest.mark.parametrize("distance, order, norm_axis", MAPS)
def test_tga_is_the_formula_at_full_resolution(document, model, frozen, batch, norm_axis, order, distance):
    """The maps written out, at image size, in the order of spec 3.3 and in that of the paper's text."""
    disturb(model)
    text = model.text_embeddings[batch.labels]

    def stretched(maps):
        low, high = maps.amin(dim=(1, 2, 3), keepdim=True), maps.amax(dim=(1, 2, 3), keepdim=True)
        return (maps - low) / (high - low)

    def resized(maps):
        return F.interpolate(maps, (24, 24), mode="bilinear", align_corners=False)

    def map_of(m, x):
        tokens = m.tokens(x)
        if norm_axis != "none":
            tokens = tokens / tokens.norm(dim=("tokens", "features").index(norm_axis) + 1, keepdim=True)
        maps = (tokens[:, 1:] * text[:, None]).sum(dim=2).view(-1, 1, 6, 6)
        return (resized(stretched(maps)) if order == "minmax_resize" else stretched(resized(maps))).flatten(1)

    anchor = map_of(frozen, batch.images)
    adv = moved(batch.images)
    expected = {
        "ce_adv": F.cross_entropy(model(adv), batch.labels),
        "attention_refinement": 0.3 * DISTANCES[distance](map_of(model, adv), anchor).mean(),
        "attention_constraint": 0.7 * DISTANCES[distance](map_of(model, batch.images), anchor).mean(),
    }
    options = {"norm_axis": norm_axis, "order": order, "distance": distance}
    terms = losses(document, "tga_zsr", model, frozen, batch, lambda_ar=0.3, lambda_amc=0.7, **options)
    assert terms.keys() == expected.keys()
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])


def test_the_published_defaults_of_tga_are_those_of_the_code(document):
    method = component(document, "methods", "tga_zsr")
    assert (method.lambda_ar, method.lambda_amc) == (0.08, 0.05)
    assert (method.norm_axis, method.order, method.distance) == ("tokens", "minmax_resize", "l2")


def test_the_rms_distance_knows_no_image_size(document, model, frozen, batch):
    """17.92 and 11.2 on RMS are 0.08 and 0.05 on the norm of 224 x 224 values; here they are 24 x 24."""
    disturb(model)
    rms = losses(document, "tga_zsr", model, frozen, batch, distance="rms", lambda_ar=17.92, lambda_amc=11.2)
    l2 = losses(document, "tga_zsr", model, frozen, batch, lambda_ar=0.08 * 224 / 24, lambda_amc=0.05 * 224 / 24)
    torch.testing.assert_close(total(rms), total(l2))


def test_maps_do_not_depend_on_the_length_of_the_text(model, batch):
    tokens, text = model.tokens(batch.images), model.text_embeddings[batch.labels]
    torch.testing.assert_close(text_guided_attention(tokens, text), text_guided_attention(tokens, 100 * text))


# Comp-TGA


def test_where_both_prompts_agree_the_complementary_map_is_at_most_a_quarter(document, model, batch):
    method = component(document, "methods", "comp_tga")
    text = model.text_embeddings[batch.labels]
    same = dataclasses.replace(batch, non_class=text)
    maps = method._maps(method._similarities(model, model.tokens(batch.images), same), model)
    attention = text_guided_attention(model.tokens(batch.images), text).view(-1, 1, 6, 6)
    a = F.interpolate(attention, (24, 24), mode="bilinear", align_corners=False).flatten(1)
    torch.testing.assert_close(maps, a * (1 - a))
    assert 0 <= maps.min() and 0.2 < maps.max() <= 0.25
    whole = dataclasses.replace(method, renormalize=True)
    again = whole._maps(whole._similarities(model, model.tokens(batch.images), same), model)
    assert torch.equal(again.amax(dim=1), torch.ones(6)) and torch.equal(again.amin(dim=1), torch.zeros(6))


def test_comp_tga_is_the_formula_at_full_resolution(document, model, frozen, batch):
    disturb(model)
    method = component(document, "methods", "comp_tga")
    given = with_anchors(method, frozen, batch)

    def map_of(m, x):
        drawn = []
        for text in (m.text_embeddings[batch.labels], given.non_class):
            maps = text_guided_attention(m.tokens(x), text).view(-1, 1, 6, 6)
            drawn.append(F.interpolate(maps, (24, 24), mode="bilinear", align_corners=False).flatten(1))
        return drawn[0] * (1 - drawn[1])

    anchor, adv = map_of(frozen, batch.images), moved(batch.images)
    terms = method.losses(model, frozen, given, adv)
    torch.testing.assert_close(terms["attention_refinement"], 0.1 * (map_of(model, adv) - anchor).norm(dim=1).mean())
    expected = 0.07 * (map_of(model, batch.images) - anchor).norm(dim=1).mean()
    torch.testing.assert_close(terms["attention_constraint"], expected)


def test_at_the_start_the_constraint_of_comp_tga_has_zero_gradient(document, model, frozen, batch):
    terms = losses(document, "comp_tga", model, frozen, batch)
    slope = gradients(terms["attention_constraint"], model)
    assert terms["attention_constraint"] == 0 and torch.equal(slope, torch.zeros_like(slope))


# Vision-based attention


def test_published_visual_attention_trains_as_without_attention(document, model, frozen, batch):
    disturb(model)
    terms = losses(document, "vision_attention", model, frozen, batch)
    plain = losses(document, "tecoa", model, frozen, batch)
    assert terms["attention_refinement"] > 0 and terms["attention_constraint"] > 0  # logged, without a gradient
    assert torch.equal(gradients(total(terms), model), gradients(total(plain), model))


@pytest.mark.parametrize("target", ["label", "predicted"])
def test_grad_cam_is_the_formula_by_hand(document, model, batch, target):
    method = dataclasses.replace(component(document, "methods", "vision_attention"), target=target)
    labels = 1 + batch.labels % 2  # of five classes two are in the batch
    maps = method._maps(model, batch.images, dataclasses.replace(batch, labels=labels), differentiable=False)
    *first, last = model.visual.transformer.resblocks
    x = model.visual._embeds((batch.images - model.mean) / model.std)
    for block in first:
        x = block(x)
    k = last.ln_1(x).detach().requires_grad_()
    x = x + last.attn(k, k, k, need_weights=False)[0]
    x = model.visual.ln_post(x + last.mlp(last.ln_2(x)))
    logits = model.classify(x[:, 1:].mean(dim=1) @ model.visual.proj)
    chosen = 1 + logits[:, 1:3].argmax(dim=1)
    assert not torch.equal(chosen, logits.argmax(dim=1)) and not torch.equal(chosen, labels)
    column = labels if target == "label" else chosen
    (slope,) = torch.autograd.grad(logits.gather(1, column[:, None]).sum(), k)
    cam = F.relu((slope[:, 1:].mean(dim=1, keepdim=True) * k[:, 1:]).sum(dim=2)).view(-1, 1, 6, 6)
    drawn = F.interpolate(cam, (24, 24), mode="bilinear", align_corners=False).flatten(1)
    low, high = drawn.amin(dim=1, keepdim=True), drawn.amax(dim=1, keepdim=True)
    torch.testing.assert_close(maps, (drawn - low) / (high - low), rtol=1e-4, atol=1e-4)
    assert not maps.requires_grad


def test_the_second_order_gradient_is_that_of_finite_differences(document, model, frozen, batch):
    model.double(), frozen.double()
    disturb(model)
    batch = Batch(batch.images.double(), batch.labels)
    options = {"map_gradient": "second_order", "target": "label", "lambda_ar": 1.0, "lambda_amc": 1.0}

    def pulls():
        terms = losses(document, "vision_attention", model, frozen, batch, **options)
        return terms["attention_refinement"] + terms["attention_constraint"]

    parameters = list(model.visual.parameters())
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parameters)]
    slope = gradients(pulls(), model) @ torch.cat([d.flatten().double() for d in directions])
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(step * d)
        values.append(pulls().item())
    assert abs(slope) > 1e-3 and (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-4)


def test_grad_cam_leaves_no_hook_and_no_gradient_behind(model, batch):
    grad_cam(model, batch.images, lambda features: features.sum(dim=1))
    assert not model.visual.transformer.resblocks[-1].ln_1._forward_hooks
    assert all(p.grad is None for p in model.parameters())


def test_at_the_start_the_constraint_of_visual_attention_is_zero(document, model, frozen, batch):
    terms = losses(document, "vision_attention", model, frozen, batch, map_gradient="second_order")
    slope = gradients(terms["attention_constraint"], model)
    assert terms["attention_constraint"] < 1e-4 and slope.isfinite().all()


# PMG-AFT


def aligned(model, images, n_classes):
    """The first class prompt is the image's own feature, all others its opposite: the most cosines can tell."""
    feature = F.normalize(model.image_features(images), dim=1).detach()
    model.text_embeddings = torch.cat([feature] + [-feature] * (n_classes - 1))


@pytest.mark.parametrize("n_classes", [2, 5, 200])
def test_unscaled_cosines_bound_the_cross_entropy_of_pmg(document, model, frozen, batch, n_classes):
    one = Batch(batch.images[:1], torch.tensor([0]))
    aligned(model, moved(one.images), n_classes)
    frozen.text_embeddings = model.text_embeddings
    bound = math.log(1 + (n_classes - 1) * math.exp(-2))
    ce = losses(document, "pmg_aft", model, frozen, one)["ce_adv"]
    assert ce.item() == pytest.approx(bound, abs=1e-4) and (n_classes != 200 or 3.3 < bound < 3.35)
    learnt = losses(document, "pmg_aft", model, frozen, one, logit_scale="learnt")["ce_adv"]
    scale = model.logit_scale.item()
    assert learnt.item() == pytest.approx(math.log(1 + (n_classes - 1) * math.exp(-2 * scale)), abs=1e-4)


@pytest.mark.parametrize("reduction, times", [("sum", 2), ("batchmean", 1)])
def test_copies_in_the_batch_double_a_summed_divergence(document, model, frozen, batch, reduction, times):
    disturb(model)
    method = dataclasses.replace(component(document, "methods", "pmg_aft"), kl_reduction=reduction)
    adv = moved(batch.images)
    once = method.losses(model, frozen, batch, adv)
    double = Batch(torch.cat([batch.images] * 2), torch.cat([batch.labels] * 2))
    twice = method.losses(model, frozen, double, torch.cat([adv] * 2))
    torch.testing.assert_close(twice["ce_adv"], once["ce_adv"])
    for name in ("kl_general", "kl_clean"):
        torch.testing.assert_close(twice[name], times * once[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["target_first", "adversarial_first"])
def test_the_divergences_of_pmg_are_the_formula(document, model, frozen, batch, direction):
    """Targets: the frozen model on the attacked image, the trained one on the clean image."""
    disturb(model)
    adv = moved(batch.images)
    p, general, clean = (
        F.softmax(m(x) / m.logit_scale, dim=1) for m, x in ((model, adv), (frozen, adv), (model, batch.images))
    )

    def divergence(target):
        first, second = (target, p) if direction == "target_first" else (p, target)
        return (first * (first / second).log()).sum()

    terms = losses(document, "pmg_aft", model, frozen, batch, kl_direction=direction, lambda_clean=3.0)
    torch.testing.assert_close(terms["kl_general"], divergence(general), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(terms["kl_clean"], 3 * divergence(clean), rtol=1e-3, atol=1e-6)


def test_a_detached_clean_branch_changes_the_gradient_alone(document, model, frozen, batch):
    disturb(model)
    free = losses(document, "pmg_aft", model, frozen, batch)["kl_clean"]
    held = losses(document, "pmg_aft", model, frozen, batch, detach_clean=True)["kl_clean"]
    torch.testing.assert_close(free, held)
    a, b = gradients(free, model), gradients(held, model)
    assert b.abs().max() > 0 and (a - b).norm() > 0.1 * a.norm()


def test_at_the_start_the_frozen_model_holds_nothing_back(document, model, frozen, batch):
    term = losses(document, "pmg_aft", model, frozen, batch)["kl_general"]
    assert term.abs() < 1e-5 and gradients(term, model).abs().max() < 1e-4


# FARE


def test_fare_is_the_squared_distance_of_raw_features(document, model, frozen, batch):
    disturb(model)
    terms = losses(document, "fare", model, frozen, batch)
    shift = model.image_features(moved(batch.images)) - frozen.image_features(batch.images)
    torch.testing.assert_close(total(terms), shift.square().sum() / 6)
    unit = losses(document, "fare", model, frozen, batch, features="unit")
    a, b = model.image_features(moved(batch.images)), frozen.image_features(batch.images)
    torch.testing.assert_close(total(unit), 2 - 2 * F.cosine_similarity(a, b).mean())


def test_fare_attacks_what_it_minimises(document, model, frozen, batch):
    method = component(document, "methods", "fare")
    given, adv = with_anchors(method, frozen, batch), moved(batch.images)
    raised = method.inner_objective(model, given)(adv)
    assert raised.shape == (6,)
    torch.testing.assert_close(raised.mean(), total(method.losses(model, frozen, given, adv)))


@pytest.mark.parametrize("name, term", [("fare", "feature_shift"), ("embedding_anchor", "anchor_adv")])
def test_methods_without_text_know_no_text(document, name, term, model, frozen, batch):
    disturb(model)
    terms = losses(document, name, model, frozen, batch)
    model.text_embeddings = model.text_embeddings.flip(0)
    assert torch.equal(losses(document, name, model, frozen, batch)[term], terms[term])


def test_the_control_pulls_raw_features(document, model, frozen, batch):
    disturb(model)
    terms = losses(document, "embedding_anchor", model, frozen, batch, lambda_clean=2.0)
    shift = (model.image_features(batch.images) - frozen.image_features(batch.images)).norm(dim=1).mean()
    torch.testing.assert_close(terms["anchor_clean"], 2 * shift)
    attacked = model.image_features(moved(batch.images)) - frozen.image_features(batch.images)
    torch.testing.assert_close(terms["anchor_adv"], attacked.norm(dim=1).mean())
