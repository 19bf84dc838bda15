import math

import pytest
import torch

from zsr.losses import cross_entropy, symmetric_contrastive


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
