"""The toy of the transfer study, trained: a robust or a standard start, and what it leaves in the fine-tuned model.

It checks the measures, not the paper: the cue is planted. Minutes of a core; `python -m pytest -m slow` runs it.
"""

import copy
from functools import cache
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from zsr.attacks.pgd import PGD
from zsr.data.sources import make
from zsr.losses import cross_entropy
from zsr.measures.similarity import layer_features, linear_cka
from zsr.measures.universal import UniversalAttack, damage, random_signs
from zsr.methods._base import Batch
from zsr.methods.dm import DM
from zsr.methods.tecoa import TeCoA
from zsr.models.linear import small_resnet
from zsr.noise import Noise
from zsr.reports.transfer import collapsed, drop_rate
from zsr.training.finetune import TrainingAttack

pytestmark = pytest.mark.slow

SEEDS = range(4)
TOO_MUCH = 1560.0  # beta_eff at which features collapse
EPS = 15 / 255  # as strong as the cue
ATTACK = {"eps": EPS, "random_start": True, "precision": "fp32", "reduction": "sum"}
PGD10 = PGD(step_size=EPS / 4, n_iter=10, **ATTACK)
TRAINING = {"fixed_noise": False, "gradient_leak": 0.0}
PGD5 = TrainingAttack(step_size=EPS / 2.5, n_iter=5, **ATTACK, **TRAINING)
DM10 = TrainingAttack(step_size=1.25 * EPS / 10, n_iter=10, init_sigma=5e-4, **ATTACK, **TRAINING)
FINE_TUNING = DM(anchor="self", beta_eff=0.0)


def train(model, method, attack, split, seed, epochs, lr):
    """SGD with momentum 0.9 and half a cosine; batches of 50; the attack sees the model in eval mode."""
    images, labels, ids = split.tensors(range(len(split.ids)))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    torch.manual_seed(seed)
    for epoch in range(epochs):
        for rows in torch.randperm(len(ids)).split(50):
            batch, adv = Batch(images[rows], labels[rows]), None
            if attack:
                noise = Noise(seed, f"epoch {epoch}", [ids[row] for row in rows.tolist()])
                adv = attack.maximise(method.inner_objective(model.eval(), batch), batch.images, noise)
            optimizer.zero_grad()
            sum(method.losses(model.train(), None, batch, adv).values()).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def accuracies(model, split):
    images, labels, ids = split.tensors(range(len(split.ids)))
    adv = PGD10(model, images, labels, Noise(0, "evaluation", ids))
    with torch.no_grad():
        right, robust = ((model(x).argmax(dim=1) == labels) for x in (images, adv))
    return right.float().mean().item(), (right & robust).float().mean().item()


@cache
def world(seed):
    """The sets of a seed and its pre-trained models, standard and robust."""
    source = make("planted_source", "train", 448, seed, 8)
    target, test = make("planted_target", "train", 200, seed, 8), make("planted_target", "test", 448, seed, 8)
    torch.manual_seed(seed)
    fresh = small_resnet(5)
    standard = train(copy.deepcopy(fresh), FINE_TUNING, None, source, seed, 30, 0.05)
    robust = train(copy.deepcopy(fresh), TeCoA(), PGD5, source, seed, 30, 0.05)
    return SimpleNamespace(target=target, test=test, fresh=fresh, standard=standard, robust=robust)


@cache
def fine_tuned(seed, init, beta_eff=0.0):
    """A model trained on the target from one of the starts of `world`, with a new head."""
    model = copy.deepcopy(getattr(world(seed), init))
    torch.manual_seed(100 + seed)
    model.new_head(5)
    attack = DM10 if beta_eff else None
    return train(model, DM(anchor="self", beta_eff=beta_eff), attack, world(seed).target, seed, 30, 0.02)


def measured(seed, init):
    """clean, robust, drop, and what ties the model to the standard pre-trained one."""
    here, model = world(seed), fine_tuned(seed, init)
    images, labels, _ = here.test.tensors(range(448))
    clean, robust = accuracies(model, here.test)
    delta = UniversalAttack(eps=1.5 * EPS, step_size=EPS / 10, epochs=5, batch_size=50).perturbation(
        here.standard, images, seed
    )
    cka = linear_cka(*(layer_features(m, images)["features"] for m in (model, here.standard)))
    return {
        "clean": clean,
        "robust": robust,
        "drop": drop_rate(clean, robust),
        "universal": damage(model, images, labels, delta)["perturbed"],
        "control": damage(model, images, labels, random_signs(delta, seed))["perturbed"],
        "cka": cka,
    }


def mean(init, key):
    return fmean(measured(seed, init)[key] for seed in SEEDS)


def spread(model, split):
    """Variance of features over images, mean over features; and the cross-entropy."""
    images, labels, _ = split.tensors(range(len(split.ids)))
    with torch.no_grad():
        features = model.features(images)
        return features.var(dim=0).mean().item(), cross_entropy(model.classify(features), labels).mean().item()


def test_w2_a_pre_trained_start_brings_its_non_robust_cue_along():
    """Less robust and more like the pre-trained model than one that starts from scratch, though no less accurate."""
    assert mean("standard", "robust") < mean("fresh", "robust") - 0.02
    assert mean("standard", "drop") > mean("fresh", "drop")
    assert mean("standard", "cka") > mean("fresh", "cka")
    assert mean("standard", "clean") > mean("fresh", "clean") - 0.01


def test_w2_a_robust_start_leaves_the_cue_behind():
    assert mean("robust", "robust") >= mean("standard", "robust")


def test_w2_what_fools_the_pre_trained_model_fools_the_fine_tuned_one_and_random_signs_do_not():
    assert mean("standard", "universal") < mean("fresh", "universal")
    assert mean("standard", "control") > mean("standard", "universal") + 0.05


def test_w3_discrepancy_mitigation_makes_a_standard_start_robust():
    plain, mitigated = (accuracies(fine_tuned(0, "standard", beta), world(0).test) for beta in (0.0, 1.6))
    assert mitigated[1] >= plain[1] + 0.15
    assert mitigated[0] >= plain[0] - 0.05


def test_w3_too_much_of_it_makes_features_collapse():
    reference, _ = spread(fine_tuned(0, "standard"), world(0).target)
    assert not collapsed(*asked(1.6, reference))
    assert collapsed(*asked(TOO_MUCH, reference))


def asked(beta_eff, reference):
    """What `collapsed` is asked about a model of that weight."""
    variance, loss = spread(fine_tuned(0, "standard", beta_eff), world(0).target)
    return variance, reference, loss, 5
