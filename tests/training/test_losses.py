import math

import pytest
import torch

from zsr.models.passes import cross_entropy, dlr, dlr_targeted, margin, symmetric_contrastive


def test_cross_entropy_of_equal_logits_is_log_of_the_number_of_classes():
    scores = cross_entropy(torch.zeros(3, 7), torch.tensor([0, 3, 6]))
    torch.testing.assert_close(scores, torch.full((3,), math.log(7)))


def test_contrastive_loss_is_the_same_seen_from_texts():
    logits, labels = torch.randn(4, 6), torch.tensor([2, 0, 5, 1])
    pairs = logits[:, labels]
    swapped = symmetric_contrastive(pairs.T, torch.arange(4))
    torch.testing.assert_close(symmetric_contrastive(logits, labels), swapped)


def test_contrastive_loss_vanishes_for_perfect_pairs_of_different_classes():
    assert symmetric_contrastive(100 * torch.eye(5), torch.arange(5)).max() < 1e-6


@pytest.mark.parametrize("copies", [2, 3])
def test_a_class_that_comes_m_times_costs_at_least_log_m(copies):
    labels = torch.arange(4).repeat(copies)
    logits = 100 * torch.eye(4)[labels]  # every image perfectly classified
    torch.testing.assert_close(symmetric_contrastive(logits, labels).mean(), torch.tensor(math.log(copies)))


def test_margin_is_the_lead_over_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [-5.0, -5.0, -9.0]])
    torch.testing.assert_close(margin(logits, torch.tensor([0, 1, 2])), torch.tensor([1.0, -2.0, -4.0]))


def test_dlr_ratios_by_hand():
    logits, labels = torch.tensor([[6.0, 1.0, 4.0, 2.0], [6.0, 1.0, 4.0, 2.0]]), torch.tensor([0, 3])
    torch.testing.assert_close(dlr(logits, labels), torch.tensor([-2 / 4, 4 / 4]))
    aimed = dlr_targeted(logits, labels, torch.tensor([3, 0]))
    torch.testing.assert_close(aimed, torch.tensor([-4 / 4.5, 4 / 4.5]))  # over 6 - (2 + 1) / 2


def test_dlr_ignores_shift_and_scale_of_logits_and_cross_entropy_does_not():
    logits, labels, targets = torch.randn(8, 6), torch.arange(8) % 6, (torch.arange(8) + 1) % 6
    moved = 0.01 * logits + 3
    torch.testing.assert_close(dlr(moved, labels), dlr(logits, labels), rtol=1e-3, atol=1e-4)
    aimed = dlr_targeted(logits, labels, targets)
    torch.testing.assert_close(dlr_targeted(moved, labels, targets), aimed, rtol=1e-3, atol=1e-4)
    assert (cross_entropy(moved, labels) - cross_entropy(logits, labels)).abs().max() > 0.1


def test_dlr_is_finite_where_all_logits_tie():
    tied = torch.zeros(2, 4, requires_grad=True)
    scores = dlr(tied, torch.tensor([0, 1])) + dlr_targeted(tied, torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert scores.isfinite().all() and torch.autograd.grad(scores.sum(), tied)[0].isfinite().all()
