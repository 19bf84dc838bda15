import pytest
import torch
from torch.nn import functional as F

from zsr.models.attention import map_distance, text_guided_attention


@pytest.mark.parametrize("grid, image_size", [((7, 7), (224, 224)), ((6, 6), (24, 24)), ((3, 5), (48, 40))])
def test_the_gram_matrix_norm_is_the_norm_at_full_resolution(grid, image_size):
    maps, others = torch.rand(2, 8, grid[0] * grid[1])
    resized = F.interpolate((maps - others).view(8, 1, *grid), image_size, mode="bilinear", align_corners=False)
    expected = resized.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(map_distance(maps, others, grid, image_size).double(), expected, rtol=1e-5, atol=0)


def test_equal_maps_have_distance_zero_and_a_finite_zero_gradient():
    maps = torch.rand(2, 49, requires_grad=True)
    distance = map_distance(maps, maps.detach(), (7, 7), (224, 224))
    distance.sum().backward()
    assert distance.tolist() == [0, 0] and torch.equal(maps.grad, torch.zeros_like(maps))


def test_a_map_runs_from_0_to_1_over_the_patches():
    maps = text_guided_attention(torch.randn(4, 37, 8), torch.randn(4, 8))
    assert maps.shape == (4, 36)
    torch.testing.assert_close(maps.amin(dim=1), torch.zeros(4))
    torch.testing.assert_close(maps.amax(dim=1), torch.ones(4))


def test_a_map_does_not_feel_the_scale_of_the_text_nor_of_a_channel():
    tokens, text = torch.randn(4, 37, 8), torch.randn(4, 8)
    maps = text_guided_attention(tokens, text)
    torch.testing.assert_close(text_guided_attention(tokens, 100 * text), maps)
    torch.testing.assert_close(text_guided_attention(tokens * torch.rand(8).add(0.5), text), maps)  # quirk G5


def test_the_class_token_counts_in_the_norm_but_is_not_in_the_map():
    tokens, text = torch.randn(1, 5, 2), torch.tensor([[1.0, 1.0]])
    louder = tokens.clone()
    louder[:, 0, 0] *= 50  # silences channel 0 for the patches
    expected = F.normalize(tokens, dim=1)[:, 1:, 1]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(text_guided_attention(louder, text), expected, atol=0.1, rtol=0)
    assert not torch.allclose(text_guided_attention(tokens, text), expected, atol=0.1)


def test_a_flat_map_is_finite_and_so_is_its_gradient():
    tokens = torch.ones(1, 5, 3, requires_grad=True)
    maps = text_guided_attention(tokens, torch.ones(1, 3))
    maps.sum().backward()
    assert maps.isfinite().all() and tokens.grad.isfinite().all()
