import dataclasses
import itertools

import pytest
import torch

from tests.official import OfficialNoise, answers, differing, in_parts, linear, official, target
from zsr.attacks.apgd import APGD, Controller, periods
from zsr.attacks.batch import Noise, shrunk
from zsr.params import ParamError, build

LOSSES = ["ce", "dlr", "dlr_targeted"]
NOISE = Noise(0, "test", range(16))


def apgd(loss="ce", **changes) -> APGD:
    return APGD(**{"norm": "linf", "eps": 0.015, "loss": loss, "n_iter": 20, "n_restarts": 1} | changes)


# The authors' code


def agrees(name: str, loss: str, n_iter: int, seed: int, norm="linf", eps=None, **settings):
    model, images, labels, own_eps = target(name)
    eps = eps or own_eps
    theirs = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "n_iter": n_iter, **settings}
    expected = official(loss, model, images, labels, eps=eps, seed=seed, **theirs)
    ours = apgd(loss, norm=norm, eps=eps, n_iter=n_iter, early_drop=False, **settings)
    adv = ours(model, images, labels, OfficialNoise(seed, len(images)))
    assert torch.equal(adv, expected)
    assert 0 < (answers(model, adv) == labels).sum() < len(labels) - 1  # some hold out, some do not
    assert torch.equal(adv[0], images[0])  # wrong by itself


EVERY_DAY = {  # every loss, every number of iterations, every seed and both models once
    ("cnn", "ce", 20, 0),
    ("cnn", "ce", 100, 1),
    ("cnn", "dlr", 10, 2),
    ("cnn", "dlr", 20, 1),
    ("cnn", "dlr_targeted", 10, 0),
    ("clip", "ce", 10, 0),
}
GRID = [
    pytest.param(*case, marks=[] if case in EVERY_DAY else [pytest.mark.slow])
    for case in itertools.product(["cnn", "clip"], LOSSES, [10, 20, 100], range(3))
]


@pytest.mark.parametrize("name, loss, n_iter, seed", GRID)
def test_images_are_the_authors_bit_by_bit(name, loss, n_iter, seed):
    agrees(name, loss, n_iter, seed)


@pytest.mark.parametrize("loss", ["ce", "dlr", pytest.param("dlr_targeted", marks=pytest.mark.slow)])
def test_images_are_the_authors_bit_by_bit_in_l2(loss):
    agrees("cnn", loss, 20, 0, norm="l2", eps=0.1)


def test_restarts_are_the_authors_bit_by_bit():
    agrees("cnn", "ce", 10, 0, n_restarts=3)


# The step size


def test_checks_come_at_the_iterations_of_the_paper():
    assert periods(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert periods(10) == {2: 2, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1}
    assert periods(1) == {1: 1}


@pytest.mark.parametrize(
    "start, losses, halved",
    [
        (0.0, [[1, 2, 3, 4]], [False]),  # four rises of four
        (0.0, [[1, 2, 2, 3]], [True]),  # three are not more than three quarters
        (5.0, [[1, 2, 3, 4]], [False]),  # the first rise is counted from 0, and no new best is no matter yet
        (-5.0, [[-4, -3, -2, -1]], [True]),  # so a negative first loss is no rise
        (9.0, [[1, 2, 3, 4], [5, 6, 7, 8]], [False, True]),  # no new best since the check before
        (9.0, [[1, 2, 3, 4], [5, 6, 7, 8], [8.1, 8.2, 8.3, 8.4]], [False, True, False]),  # but not twice running
        (0.0, [[1, 2, 3, 9], [5, 6, 7, 8]], [False, True]),  # from 9 to 5 is no rise
        (0.0, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]], [False, False, True]),
    ],
)
def test_every_branch_of_the_step_size(start, losses, halved):
    control, step, best = Controller.begin(2.0, torch.tensor([start])), 2.0, start
    for part, cut in zip(losses, halved):
        for loss in part:
            assert control.observe(torch.tensor([float(loss)])).item() is (loss > best)
            best = max(best, loss)
        assert control.check(torch.tensor([4])).item() is cut
        step = step / 2 if cut else step
        assert control.step.item() == step


class Script(torch.nn.Module):
    """Plays logits in turn whatever it is shown, (calls, B, C), with a slope that changes too; keeps what it saw."""

    def __init__(self, logits: torch.Tensor, slopes: torch.Tensor):
        super().__init__()
        self.logits, self.slopes, self.seen = logits, slopes, []

    def forward(self, images):
        logits = self.logits[min(len(self.seen), len(self.logits) - 1)]
        if not images.requires_grad:
            return logits
        slope = (images * self.slopes[len(self.seen)]).sum((1, 2, 3), keepdim=True).flatten(1)
        self.seen.append(images.detach().clone())
        return logits + (slope - slope.detach()) * torch.tensor([-1.0, 1, 0, 0])


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_iterates_follow_the_authors_through_scripted_losses(loss, monkeypatch):
    n, n_iter = 48, 100
    rise = torch.linspace(-0.3, 0.15, n) + 0.2 * torch.randn(n_iter + 2, n)
    rise[:, ::2] = torch.where(torch.rand(n_iter + 2, n // 2) < 0.1, -2.0, 0.1)  # teeth: it rises to no new best
    lead = 9 - rise.cumsum(dim=0).clamp(max=8)  # the label is first and never fooled
    logits = torch.stack([lead, torch.zeros_like(lead), -torch.ones_like(lead), -2 - torch.rand_like(lead)], dim=2)
    slopes = torch.randn(n_iter + 1, n, 1, 3, 3)
    images, labels = torch.rand(n, 1, 3, 3), torch.zeros(n, dtype=torch.long)
    theirs, ours = Script(logits, slopes), Script(logits, slopes)
    official(loss, theirs, images, labels, eps=0.1, seed=0, n_iter=n_iter)
    branches, check = set(), Controller.check

    def spied(self, period):
        rare, stuck = self.rises <= 0.75 * period, ~self.halved & (self.checked >= self.best)
        branches.update(zip(rare[period > 0].tolist(), stuck[period > 0].tolist()))
        return check(self, period)

    monkeypatch.setattr(Controller, "check", spied)
    apgd(loss, eps=0.1, n_iter=n_iter)(ours, images, labels, OfficialNoise(0, n))
    assert len(ours.seen) == len(theirs.seen) == n_iter + 1
    for i, (a, b) in enumerate(zip(ours.seen, theirs.seen)):
        assert torch.equal(a, b), f"iterate {i}"
    assert branches == {(False, False), (False, True), (True, False), (True, True)}


# What holds without the authors' code


@pytest.mark.parametrize("norm, eps", [("linf", 0.02), ("l2", 0.1)])
def test_verdicts_on_a_linear_classifier_are_exact(norm, eps):
    weights, images = torch.randn(2, 48), 0.3 + 0.4 * torch.rand(16, 3, 4, 4)
    slope = weights[0] - weights[1]
    bias = torch.tensor([-(images.flatten(1) @ slope).median(), 0.0])
    model = linear(weights, bias)
    logits = model(images)
    distance = (logits[:, 0] - logits[:, 1]).abs() / slope.norm(p=1 if norm == "linf" else 2)
    eps = distance.sort()[0][7:9].mean().item()  # eight are nearer to the boundary
    adv = apgd(norm=norm, eps=eps, n_iter=30)(model, images, logits.argmax(dim=1), NOISE)
    assert torch.equal(answers(model, adv) == logits.argmax(dim=1), distance > eps)


@pytest.mark.parametrize("early_drop", [True, False])
@pytest.mark.parametrize("norm, eps", [("linf", 0.03), ("l2", 0.2)])
def test_images_stay_in_the_ball_and_parameters_stay_alone(norm, eps, early_drop):
    model, images, labels, _ = target("cnn")
    edge = images.round()  # where the range of pixels binds
    edge_labels = answers(model, edge)
    adv = apgd(norm=norm, eps=eps, early_drop=early_drop)(model, edge, edge_labels, NOISE)
    delta = (adv - edge).flatten(1)
    assert (delta.norm(p=torch.inf if norm == "linf" else 2, dim=1) <= eps + 1e-6).all()
    assert adv.min() >= 0 and adv.max() <= 1 and not adv.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert (answers(model, adv) != edge_labels).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_neither_batches_nor_early_drop_change_a_verdict(loss):
    model, images, labels, _ = target("cnn", 4 if loss == "dlr_targeted" else 10)  # so towards each of three classes
    full = apgd(loss, n_iter=10, early_drop=False)
    held = answers(model, full(model, images, labels, NOISE)) == labels
    for attack in (full, apgd(loss, n_iter=10)):
        whole, parts = attack(model, images, labels, NOISE), in_parts(attack, model, images, labels, NOISE)
        assert torch.equal(answers(model, whole) == labels, held)
        assert torch.equal(answers(model, parts) == labels, held)
        assert differing(whole, parts) < 0.01
    assert 0 < held.sum() < len(labels) - 1


def test_an_image_that_waits_in_its_place_is_not_attacked_further():
    model, images, labels, _ = target("cnn")
    attack, rows = apgd(early_drop=False, eps=0.03, n_iter=7), torch.arange(1, 12)  # 11 images in 6 places: one is idle
    whole, placed = (attack(model, images[rows], labels[rows], NOISE.take(rows), size) for size in (None, 6))
    assert answers(model, whole[5:6]) != labels[6]  # fooled, so that a further iterate would take its place
    assert all(differing(a, b) < 0.05 for a, b in zip(whole, placed))


def test_an_image_costs_no_pass_once_it_is_fooled():
    model, images, labels, _ = target("cnn")
    passes = []

    def counted(x):
        passes.append(len(x) if x.requires_grad else 0)
        return model(x)

    adv = apgd(early_drop=False)(counted, images, labels, NOISE)
    assert sum(passes) == 15 * 21  # the first image is wrong by itself
    held = int((answers(model, adv) == labels).sum())
    passes.clear()
    apgd()(counted, images, labels, NOISE)
    assert held * 21 <= sum(passes) <= held * 21 * 4 / 3 + 5 * (15 - held)
    assert set(passes) <= {0, 15, 12, 8, 6, 4, 3, 2, 1}


def test_a_batch_shrinks_to_few_sizes_that_hold_whoever_is_active():
    sizes = set()
    for n in range(41):
        active = torch.randperm(40) < n
        rows = shrunk(active)
        assert set(active.nonzero().flatten().tolist()) <= set(rows.tolist())
        assert torch.equal(rows, rows.sort()[0]) and n <= len(rows) < max(1.5 * n, 1)
        sizes.add(len(rows))
    assert sizes == {0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40}


def test_images_that_no_iterate_fools_come_back_as_they_were():
    model, images, labels, _ = target("cnn")
    adv = apgd()(model, images, labels, NOISE)
    held = answers(model, adv) == labels
    assert torch.equal(adv[held], images[held]) and not torch.equal(adv[~held], images[~held])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_fool_nobody(bad):
    model, images, labels, _ = target("cnn")

    def broken(x):  # answers clean images alone
        known = (x[:, None] == images).flatten(2).all(dim=2).any(dim=1)
        return torch.where(known[:, None], model(x), bad)

    assert torch.equal(apgd()(broken, images, labels, NOISE), images)


def test_verdicts_are_fp32_where_gradients_are_not():
    model, images, labels, _ = target("cnn")
    dtypes = {True: set(), False: set()}

    def watched(x):
        logits = model(x)
        dtypes[x.requires_grad].add(logits.dtype)
        return logits

    with torch.autocast("cpu", torch.bfloat16):
        apgd()(watched, images, labels, NOISE)
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}


@pytest.mark.parametrize(
    "loss, n_classes, run",
    [
        ("ce", 2, ("apgd-ce",)),
        ("dlr", 2, ("apgd-ce",)),
        ("dlr", 3, ("apgd-dlr",)),
        ("dlr_targeted", 2, ("apgd-ce",)),
        ("dlr_targeted", 3, ("apgd-dlr",)),
        ("dlr_targeted", 4, ("apgd-t x 3",)),
        ("dlr_targeted", 10, ("apgd-t x 9",)),
        ("dlr_targeted", 1000, ("apgd-t x 9",)),
    ],
)
def test_few_classes_simplify_the_loss(loss, n_classes, run):
    assert apgd(loss).attacks_run(n_classes) == run


def test_restarts_differ_and_targets_too():
    model, images, labels, _ = target("cnn")
    starts = []

    def watched(x):
        starts.extend([tuple(x[0].flatten().tolist())] if x.requires_grad else [])
        return model(x)

    attack = apgd("dlr_targeted", n_iter=1, n_restarts=2, eps=1e-4)
    attack(watched, images[1:], labels[1:], NOISE.take(torch.arange(1, 16)))
    assert len(starts) == 36 and len(set(starts[::2])) == 18


def test_the_protocol_names_every_number():
    for fact in ("APGD", "l-inf, eps 3.825/255", "20 iterations", "2 restarts", "any iterate", "summed cross-entropy"):
        assert fact in apgd(n_restarts=2).protocol()
    assert "l2, eps 0.5" in apgd(norm="l2", eps=0.5).protocol()
    assert "DLR towards 9 classes" in apgd("dlr_targeted").protocol()


def test_a_ball_larger_than_the_range_of_pixels_is_a_mistake_in_l_inf_alone():
    block = dataclasses.asdict(apgd()) | {"eps": 2}
    assert build(APGD, block | {"norm": "l2"}, "attacks.apgd").eps == 2
    with pytest.raises(ParamError, match="attacks.apgd: eps must be at most 1 in l-inf.* got 2"):
        build(APGD, block, "attacks.apgd")
