import dataclasses

import pytest
import torch

from tests.official import OfficialNoise, answers, differing, in_parts, linear, official, target
from zsr.attacks.batch import Noise
from zsr.attacks.fab import FAB, Boundary, _Run, step_to_plane

NOISE = Noise(0, "test", range(16))


SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in [("cnn", 20), ("cnn", 100), ("clip", 10), ("clip", 20)]]


@pytest.mark.parametrize("name, n_iter", [("cnn", 10), *SLOW])
def test_verdicts_are_the_authors_and_images_up_to_the_projection(name, n_iter):
    model, images, labels, eps = target(name)
    expected = official("fab", model, images, labels, eps=eps, seed=0, n_iter=n_iter)
    attack = FAB(eps=eps, n_iter=n_iter, early_drop=False)
    adv = attack(model, images, labels, OfficialNoise(0, len(images)))
    held = answers(model, expected) == labels
    assert torch.equal(answers(model, adv) == labels, held) and 0 < held.sum() < len(labels) - 1
    torch.testing.assert_close(adv, expected, atol=1e-4, rtol=0)
    fast = dataclasses.replace(attack, early_drop=True)(model, images, labels, OfficialNoise(0, len(images)))
    assert torch.equal(answers(model, fast) == labels, held)


def reach_by_bisection(weights, room, gap):
    """In double precision, the smallest step that closes the gap of one image, or infinity."""
    if (weights * room).sum() <= gap:
        return torch.inf
    low, high = 0.0, room.max().item()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (weights * room.clamp(max=middle)).sum() > gap else (middle, high)
    return high


def test_the_step_to_a_plane_is_the_smallest_there_is():
    points = torch.rand(64, 300).round(decimals=1)  # with pixels at the faces, and rooms that tie
    normals = torch.randn(64, 300) * (torch.rand(64, 300) < 0.7)
    gaps = torch.randn(64) * torch.logspace(-4, 2.5, 64)
    steps = step_to_plane(points, normals, gaps)
    assert (points + steps).min() >= -1e-6 and (points + steps).max() <= 1 + 1e-6
    assert (steps[normals == 0] == 0).all()
    reachable = 0
    for point, normal, gap, step in zip(points.double(), normals.double(), gaps.double(), steps.double()):
        down = normal.sign() * gap.sign()  # the way in which a coordinate shrinks the gap, negated
        room = torch.where(down > 0, point, 1 - point)
        reach = reach_by_bisection(normal.abs(), room, gap.abs())
        expected = -down * room.clamp(max=reach)
        torch.testing.assert_close(step, expected, atol=2e-6, rtol=2e-5)
        if reach < torch.inf:
            reachable += 1
            assert abs((normal * step).sum() + gap) <= 1e-5 * max(1, gap.abs())
    assert 0 < reachable < 64


def test_the_step_is_none_on_the_plane_finite_without_a_slope_and_ends_on_nan():
    points, gaps = torch.rand(5, 10), torch.tensor([0.0, 1.0, 0.0, torch.nan, 3.0])
    normals = torch.stack([torch.ones(10), *torch.zeros(2, 10), torch.full((10,), torch.nan), torch.ones(10)])
    steps = step_to_plane(points, normals, gaps)
    assert (steps[:3] == 0).all()
    torch.testing.assert_close(steps[4].sum(), -gaps[4])  # others in the batch do not matter


def test_a_step_is_mixed_from_the_nearest_points_of_the_iterate_and_of_the_image():
    model = linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.8]))  # the boundary is x = 0.8
    image, x = torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.9])  # 0.3 and 0.2 away: 0.1 < 0.2 / (0.2 + 0.3)
    state = (
        torch.tensor([0]),
        image.view(1, 1, 1, 2),
        torch.tensor([[0, 1]]),
        x.view(1, 1, 1, 2),
        torch.tensor([1.0]),
        torch.tensor([0]),
    )
    moved = Boundary(eps=0.1, n_iter=1, early_drop=False, rank=1)._step(model, _Run(*state))
    expected = 0.9 * (x + torch.tensor([1.05 * 0.2, 0.0])) + 0.1 * (image + torch.tensor([1.05 * 0.3, 0.0]))
    torch.testing.assert_close(moved.flatten(), expected)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_on_a_linear_classifier_the_nearest_point_of_the_boundary_is_found(n_classes):
    weights, images = torch.randn(n_classes, 48), 0.3 + 0.4 * torch.rand(16, 3, 4, 4)
    model = linear(weights, -weights.sum(dim=1) / 2)
    logits, labels = model(images), answers(model, images)
    leads = logits.gather(1, labels[:, None]) - logits
    distances = leads / (weights[labels][:, None] - weights).abs().sum(dim=2)  # no pixel comes near 0 or 1
    distance = distances.nan_to_num(nan=torch.inf).amin(dim=1)
    assert 0 < distance.min() and distance.max() < 0.2
    ranked = distance.sort()[0].tolist()
    first = max([5, 6, 7, 9, 11], key=lambda i: ranked[i] / ranked[i - 1])  # that holds; their number is no batch size
    eps = (ranked[first] + ranked[first - 1]) / 2
    adv = FAB(eps=eps, n_iter=20)(model, images, labels, NOISE)
    assert torch.equal(answers(model, adv) == labels, distance > eps)
    quick = FAB(eps=eps, n_iter=4)
    alone = torch.cat([quick(model, *one, NOISE) for one in zip(images[:, None], labels[:, None])])
    together = quick(model, images, labels, NOISE)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)  # also of images that only fill up the batch
    if n_classes == 2:
        found = (FAB(eps=0.3, n_iter=20, early_drop=False)(model, images, labels, NOISE) - images).abs().amax((1, 2, 3))
        assert (found >= 0.999 * distance).all() and (found <= 1.01 * distance).all()


def test_images_stay_in_the_ball_among_pixels_and_come_back_where_they_hold():
    model, images, _, _ = target("cnn")
    edge = images.round()
    labels = answers(model, edge)
    adv = FAB(eps=0.02, n_iter=10)(model, edge, labels, NOISE)
    held = answers(model, adv) == labels
    assert (adv - edge).abs().max() <= 0.02 + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    assert torch.equal(adv[held], edge[held]) and 0 < held.sum() < 16
    assert not adv.requires_grad and all(p.grad is None for p in model.parameters())


def test_batches_change_no_verdict():
    model, images, labels, eps = target("cnn", 4)
    attack = FAB(eps=eps, n_iter=10)
    whole, parts = attack(model, images, labels, NOISE), in_parts(attack, model, images, labels, NOISE)
    held = answers(model, whole) == labels
    assert torch.equal(answers(model, parts) == labels, held) and 0 < held.sum() < 15
    assert differing(whole, parts) < 0.01


def test_nothing_is_random():
    model, images, labels, eps = target("cnn")
    attack = FAB(eps=eps, n_iter=3)
    assert torch.equal(attack(model, images, labels, NOISE), attack(model, images, labels, Noise(1, "else", range(16))))


def test_an_image_costs_no_pass_once_it_is_fooled():
    model, images, labels, eps = target("cnn")

    def cost(attack):
        rows = []
        attack(lambda x: (rows.append(len(x)), model(x))[1], images, labels, NOISE)
        return sum(rows)

    attack = FAB(eps=eps, n_iter=10, n_targets=3)
    assert cost(attack) < 0.9 * cost(dataclasses.replace(attack, early_drop=False))


def test_a_gradient_that_is_not_a_number_fools_nobody():
    model, images, labels, eps = target("cnn")
    broken = lambda x: model(x) + (x * torch.nan if x.requires_grad else x * 0).sum()  # noqa: E731
    assert torch.equal(FAB(eps=eps, n_iter=3)(broken, images, labels, NOISE), images)


def test_few_classes_leave_few_targets_and_the_protocol_names_every_number():
    attack = FAB(eps=8 / 255, n_iter=30)
    run = [attack.attacks_run(n) for n in (2, 3, 9, 10, 1000)]
    assert run == [("fab-t",), ("fab-t x 2",), ("fab-t x 8",), ("fab-t x 9",), ("fab-t x 9",)]
    for fact in ("FAB", "l-inf", "eps 8/255", "30 iterations", "9 likeliest wrong classes", "1 restart"):
        assert fact in attack.protocol()


def test_an_image_that_waits_in_its_place_is_not_attacked_further():
    model, images, labels, _ = target("cnn")
    attack, rows = FAB(eps=0.3, n_iter=1, n_targets=1, early_drop=False), torch.arange(1, 12)  # 11 images in 6 places
    whole, placed = (attack(model, images[rows], labels[rows], NOISE.take(rows), size) for size in (None, 6))
    assert (whole != images[rows]).any()  # found; the next iteration would find nearer points
    assert all(differing(a, b) < 0.05 for a, b in zip(whole, placed))
