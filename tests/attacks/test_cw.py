import dataclasses

import torch

from tests.official import answers, differing, in_parts, target
from zsr.attacks.batch import Noise
from zsr.attacks.cw import CW
from zsr.models.passes import margin

CW20 = CW(eps=0.015, step_size=0.004, n_iter=20, kappa=50.0, precision="fp32", reduction="sum", success="last")
NOISE = Noise(0, "test", range(16))


def test_cw_is_ascent_of_minus_the_margin_by_signs():
    model, images, labels, eps = target("cnn")
    delta = (eps * NOISE.uniform((3, 8, 8), "cw")).maximum(-images).minimum(1 - images)
    for _ in range(20):  # the published loop, with a one-hot mask for the label
        delta = delta.detach().requires_grad_()
        logits, own = model(images + delta), torch.nn.functional.one_hot(labels, 10)
        others = (logits - 1e4 * own).max(dim=1)[0]
        loss = -((logits * own).sum(dim=1) - others + 50).clamp(min=0).sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta + 0.004 * gradient.sign()).clamp(-eps, eps).maximum(-images).minimum(1 - images)
    adv = CW20(model, images, labels, NOISE)
    assert ((adv - images - delta).abs() > 1e-5).float().mean() < 0.002  # rounding can turn the sign of a tiny gradient
    assert torch.equal(answers(model, adv), answers(model, images + delta))


def test_cw_lowers_the_margin_of_right_images_and_of_wrong_ones():
    model, images, labels, _ = target("cnn")
    model.zero_grad()  # the oracle of other tests leaves gradients in the shared model
    adv = CW20(model, images, labels, NOISE)
    assert (margin(model(adv), labels) < margin(model(images), labels)).all()
    assert (adv - images).abs().max() <= CW20.eps + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    assert not adv.requires_grad and all(p.grad is None for p in model.parameters())


def test_an_image_that_leads_by_kappa_moves_no_further():
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    images, labels = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([0])
    attack = CW(eps=0.4, step_size=0.05, n_iter=20, random_start=False, kappa=0.25, success="last")
    x = attack(lambda x: x.flatten(1) @ weights.T, images, labels, NOISE.take(torch.tensor([0])))
    torch.testing.assert_close(x.flatten(), torch.tensor([0.35, 0.65]))  # the first of its steps that leads by 0.25
    further = dataclasses.replace(attack, kappa=50.0)
    x = further(lambda x: x.flatten(1) @ weights.T, images, labels, NOISE.take(torch.tensor([0])))
    torch.testing.assert_close(x.flatten(), torch.tensor([0.1, 0.9]))


def test_batches_change_no_verdict():
    model, images, labels, _ = target("cnn")
    whole, parts = CW20(model, images, labels, NOISE), in_parts(CW20, model, images, labels, NOISE)
    held = answers(model, whole) == labels
    assert torch.equal(answers(model, parts) == labels, held) and 0 < held.sum() < len(labels)
    assert differing(whole, parts) < 0.01


def test_the_protocol_names_every_number():
    for fact in ("CW", "l-inf", "eps 3.825/255", "step 1.02/255", "20 iterations", "kappa 50", "random start", "last"):
        assert fact in CW20.protocol()
