import dataclasses

import pyautoattack
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from tests.official import OfficialNoise, answers, differing, in_parts, small_cnn, target
from zsr.attacks.apgd import APGD
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.batch import Noise, cascade
from zsr.attacks.fab import FAB
from zsr.attacks.square import Square

NOISE = Noise(0, "test", range(16))
PAPER = AutoAttack(version="paper", eps=0.015, n_iter=10)
STANDARD = AutoAttack(version="standard", eps=0.01, n_iter=5, n_queries=50)


def official(ours: AutoAttack, attacks, model, images, labels):
    """The authors' driver, with their attacks made as short as ours; it seeds and orders them by itself."""
    version = "standard" if attacks is None else "custom"
    theirs = pyautoattack.AutoAttack(model, eps=ours.eps, seed=0, version=version, attacks=attacks, device="cpu")
    shared = {"eps": ours.eps, "device": "cpu"}
    theirs.apgd = APGDAttack(model, n_iter=ours.n_iter, **shared)
    theirs.apgd_targeted = APGDAttack_targeted(model, n_iter=ours.n_iter, **shared)
    theirs.fab.n_iter, theirs.square.n_queries = ours.n_iter, ours.n_queries
    return theirs.run_standard_evaluation(images, labels, batch_size=len(images))[0]


@pytest.mark.parametrize("ours, attacks", [(PAPER, ["apgd-ce", "apgd-dlr"]), (STANDARD, None)])
def test_images_are_the_authors_bit_by_bit(ours, attacks):
    model, images, labels, _ = target("cnn")
    expected = official(ours, attacks, model, images, labels)
    attack = dataclasses.replace(ours, early_drop=False)
    adv = attack(model, images, labels, OfficialNoise(0, len(images)))
    assert torch.equal(adv, expected)
    assert 0 < (answers(model, adv) == labels).sum() < 15


@pytest.mark.parametrize("n_classes", [2, 3, 4, 5, 9, 10, 11, 1000])
def test_the_list_run_is_known_for_any_number_of_classes(n_classes):
    standard = {
        2: ("apgd-ce", "fab-t", "square"),
        3: ("apgd-ce", "apgd-dlr", "fab-t x 2", "square"),
        4: ("apgd-ce", "apgd-t x 3", "fab-t x 3", "square"),
        5: ("apgd-ce", "apgd-t x 4", "fab-t x 4", "square"),
        9: ("apgd-ce", "apgd-t x 8", "fab-t x 8", "square"),
    }.get(n_classes, ("apgd-ce", "apgd-t x 9", "fab-t x 9", "square"))
    paper = ("apgd-ce",) if n_classes == 2 else ("apgd-ce", "apgd-dlr")
    assert (PAPER.attacks_run(n_classes), STANDARD.attacks_run(n_classes)) == (paper, standard)


@pytest.mark.parametrize("n_classes", [2, 3, 4, 1000])  # without DLR, without targets for it, few targets, enough
@pytest.mark.parametrize("attack", [PAPER, STANDARD])
def test_any_number_of_classes_runs(attack, n_classes):
    model, images = small_cnn(n_classes), target("cnn")[1]
    labels = answers(model, images)
    brief = dataclasses.replace(attack, eps=1e-4, n_iter=2, n_queries=3)  # so small a ball leaves images to all
    adv = brief(model, images, labels, NOISE)
    assert (answers(model, adv) == labels).any() and (adv - images).abs().max() <= 1e-4 + 1e-6


def test_the_rounds_run_are_the_ones_listed():
    model, images, labels, _ = target("cnn")
    passes = []

    def watched(x):
        passes.append(x.requires_grad)
        return model(x)

    rank = AutoAttack(version="standard", eps=1e-5, n_iter=2, n_queries=3, n_targets=2)
    rank(watched, images, labels, NOISE)
    ascent, boundary = [True] * 3, [True, False] * 2
    verdict, rival = [False], [False]
    expected = [False] + ascent + verdict + 2 * (rival + ascent + verdict) + 2 * (rival + boundary + verdict)
    assert passes == expected + [False] * (1 + 3) + verdict


@pytest.mark.parametrize("name, attack", [("cnn", PAPER), ("cnn", STANDARD), ("clip", PAPER)])
def test_neither_batches_nor_early_drop_change_a_verdict(name, attack):
    model, images, labels, _ = target(name, 4 if attack is STANDARD else 10)
    attack = dataclasses.replace(attack, eps=0.004) if name == "clip" else attack
    held = answers(model, dataclasses.replace(attack, early_drop=False)(model, images, labels, NOISE)) == labels
    whole, parts = attack(model, images, labels, NOISE), in_parts(attack, model, images, labels, NOISE)
    assert torch.equal(answers(model, whole) == labels, held) and torch.equal(answers(model, parts) == labels, held)
    assert differing(whole, parts) < 0.01 and 0 < held.sum() < 15


def test_what_a_member_fools_alone_the_list_fools_too():
    model, images, labels, _ = target("cnn", 4)
    shared = {"eps": STANDARD.eps, "n_iter": STANDARD.n_iter}
    members = [APGD(norm="linf", loss=loss, n_restarts=1, **shared) for loss in ("ce", "dlr_targeted")]
    members += [FAB(**shared), Square(eps=STANDARD.eps, n_queries=50)]
    alone = [answers(model, member(model, images, labels, NOISE)) == labels for member in members]
    together = answers(model, STANDARD(model, images, labels, NOISE)) == labels
    assert torch.equal(torch.stack(alone).all(dim=0), together)
    assert len({tuple(held.tolist()) for held in alone}) > 1


def test_an_image_stays_in_until_the_models_own_forward_confirms_a_success():
    model, images, labels, _ = target("cnn")
    seen = []

    def boast(_, images, labels, noise, batch_size):
        seen.append(images)
        return images

    def shift(_, images, labels, noise, batch_size):
        seen.append(images)
        return torch.where(torch.arange(len(images))[:, None, None, None] < 3, 1 - images, images)

    adv = cascade(model, images, labels, NOISE, 16, lambda n_classes: [boast, shift, boast])
    assert [len(x) for x in seen[:2]] == [15, 15] and 12 <= len(seen[2]) < 15
    changed = (adv != images).any((1, 2, 3))
    assert torch.equal(changed, (answers(model, adv) != labels) & (torch.arange(16) > 0))


def test_nobody_is_attacked_who_is_wrong_already():
    model, images, labels, _ = target("cnn")
    calls = []
    adv = STANDARD(lambda x: (calls.append(1), model(x))[1], images, (labels + 1) % 10, NOISE)
    assert len(calls) == 1 and (adv[1:] == images[1:]).all()


def test_the_protocol_names_every_number():
    for fact in ("AutoAttack paper", "apgd-ce, apgd-dlr", "l-inf", "eps 3.825/255", "10 iterations", "1 restart"):
        assert fact in PAPER.protocol()
    for fact in ("apgd-ce, apgd-t x 9, fab-t x 9, square", "50 queries", "fewer for few classes"):
        assert fact in STANDARD.protocol()
    assert "queries" not in PAPER.protocol()
