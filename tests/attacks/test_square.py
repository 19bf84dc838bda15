import pytest
import torch

from tests.official import OfficialNoise, answers, differing, in_parts, linear, official, target
from zsr.attacks.batch import Noise
from zsr.attacks.square import Square, Squares, side
from zsr.models.passes import margin

NOISE = Noise(0, "test", range(16))


CASES = [(name, n, seed) for name, n in (("cnn", 20), ("cnn", 100), ("cnn", 700), ("clip", 60)) for seed in range(3)]
EVERY_DAY = {("cnn", 20, 0), ("cnn", 100, 1), ("clip", 60, 2)}  # the sides of later squares: the next test


@pytest.mark.parametrize(
    "name, n_queries, seed", [pytest.param(*case, marks=[pytest.mark.slow] * (case not in EVERY_DAY)) for case in CASES]
)
def test_images_are_the_authors_bit_by_bit(name, n_queries, seed):
    model, images, labels, eps = target(name)
    expected = official("square", model, images, labels, eps=2 * eps, seed=seed, n_queries=n_queries)
    adv = Square(eps=2 * eps, n_queries=n_queries)(model, images, labels, OfficialNoise(seed, len(images)))
    assert torch.equal(adv, expected)
    assert 0 < (answers(model, adv) == labels).sum() < len(labels) - 1


def test_squares_shrink_as_the_paper_says():
    queries = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001]
    assert [side(query, 224, 224, 0.8) for query in queries] == [200, 200, 142, 100, 71, 50, 35, 25, 18]
    assert side(9000, 8, 8, 0.8) == 1 and side(0, 4, 100, 1.0) == 4


def test_every_query_moves_one_square_of_each_image_to_the_faces_of_the_ball():
    images, eps, seen = 0.5 + torch.zeros(8, 3, 8, 8), 0.1, []
    labels = torch.zeros(8, dtype=torch.long)

    def stubborn(x):  # the clean image is as bad as any other: nothing is accepted
        seen.append(x)
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)

    Square(eps=eps, n_queries=30)(stubborn, images, labels, NOISE.take(torch.arange(8)))
    stripes, queries = seen[1], seen[2:-1]
    assert len(queries) == 30 and torch.equal(stripes[:, :, :1].expand_as(stripes), stripes)
    torch.testing.assert_close((stripes - images).abs(), torch.full_like(images, eps))
    corners = set()
    for query, x in enumerate(queries):
        torch.testing.assert_close((x - images).abs(), torch.full_like(images, eps))
        for changed in (x != stripes).any(dim=1):
            if changed.any():  # a square can push pixels to where they are
                rows, columns = (changed.any(dim=d).nonzero().flatten() for d in (1, 0))
                assert max(rows.max() - rows.min(), columns.max() - columns.min()) < side(query, 8, 8, 0.8)
                corners.add((query, rows.min().item(), columns.min().item()))
    assert len(corners) > 90  # every image has a place of its own


def test_the_margin_never_grows_and_no_gradient_is_asked_for():
    weights, images = torch.randn(5, 48), torch.rand(16, 3, 4, 4)
    model = linear(weights, torch.zeros(5))
    labels, best = answers(model, images), []

    def watched(x):
        assert not x.requires_grad and not torch.is_grad_enabled()
        best.append(margin(model(x), labels).min().item() if len(x) == 16 else None)
        return model(x)

    adv = Square(eps=0.001, n_queries=50)(watched, images, labels, NOISE)
    assert len(best) == 1 + 1 + 50 + 1
    assert (answers(model, adv) == labels).sum() >= 14  # so small a ball

    def final(n_queries):
        return margin(model(Squares(eps=0.001, n_queries=n_queries, p_init=0.8)(model, images, labels, NOISE)), labels)

    longer = torch.stack([final(n) for n in (1, 10, 50, 200)])
    assert (longer.diff(dim=0) <= 0).all() and (longer[-1] < longer[0]).all()


def test_it_fools_what_has_no_gradient():
    model, images, labels, _ = target("cnn")
    quantised = lambda x: model((x * 64).round() / 64)  # noqa: E731
    labels = answers(quantised, images)
    adv = Square(eps=0.06, n_queries=200)(quantised, images, labels, NOISE)
    assert (answers(quantised, adv) != labels).sum() >= 4


def test_images_stay_in_the_ball_among_pixels_and_come_back_where_they_hold():
    model, images, labels, _ = target("cnn")
    edge = images.round()
    labels = answers(model, edge)
    adv = Square(eps=0.05, n_queries=100)(model, edge, labels, NOISE)
    held = answers(model, adv) == labels
    assert (adv - edge).abs().max() <= 0.05 + 1e-6 and adv.min() >= 0 and adv.max() <= 1
    assert torch.equal(adv[held], edge[held]) and 0 < held.sum() < 16


def test_batches_change_no_verdict():
    model, images, labels, _ = target("cnn")
    attack = Square(eps=0.03, n_queries=100)
    whole, parts = attack(model, images, labels, NOISE), in_parts(attack, model, images, labels, NOISE)
    held = answers(model, whole) == labels
    assert torch.equal(answers(model, parts) == labels, held) and 0 < held.sum() < 15
    assert differing(whole, parts) < 0.01


def test_the_protocol_names_every_number():
    attack = Square(eps=8 / 255, n_queries=300)
    for fact in ("Square", "l-inf", "eps 8/255", "300 queries", "p 0.8", "1 restart", "margin"):
        assert fact in attack.protocol()
    assert attack.attacks_run(2) == ("square",)
