import pytest
import torch
from torch.nn import functional as F

from tests.defences.small_tower import drawn, noise_of
from zsr.defences import _views
from zsr.defences._base import straight_through


def of_crops(*draws: float, mirrored: bool = False) -> torch.Tensor:
    """Random numbers of one crop of one image, whose attempts all draw the same area and ratio; draws on [0, 1)."""
    share, ratio, top, left = draws
    numbers = [share] * _views.ATTEMPTS + [ratio] * _views.ATTEMPTS + [top, left, 0.2 if mirrored else 0.8]
    return 2 * torch.tensor(numbers).view(1, 1, -1) - 1


def test_a_crop_is_the_box_enlarged_as_interpolate_enlarges_it():
    images = drawn(1)
    crop = _views.crops(images, of_crops(0.5, 0.5, 0.6, 0.4), 0.5)[0, 0]  # area 48, ratio 1: a box of 7 x 7 pixels
    expected = F.interpolate(images[:, :, 1:8, 0:7], (8, 8), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(crop, expected)
    mirrored = _views.crops(images, of_crops(0.5, 0.5, 0.6, 0.4, mirrored=True), 0.5)[0, 0]
    torch.testing.assert_close(mirrored, expected.flip(-1))


def test_a_box_that_fits_at_no_attempt_is_the_whole_image():
    images = drawn(1)
    torch.testing.assert_close(_views.crops(images, of_crops(0.99, 0.99, 0.5, 0.5), 0.5)[0, 0], images[0])


def test_the_ratio_of_a_box_is_its_width_over_its_height():
    boxes = _views._boxes(of_crops(0.0, 0.999, 0.0, 0.0)[..., :-1].add(1).div(2), 64, 64, 0.5)  # area 2048, ratio 4/3
    assert [int(side) for side in boxes] == [0, 0, 39, 52]


def test_boxes_lie_in_the_image_and_have_the_areas_and_ratios_asked_for():
    draws = torch.rand(50, 40, _views.PER_CROP - 1)
    top, left, tall, wide = _views._boxes(draws, 64, 64, 0.5)
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= 64).all() and (left + wide <= 64).all()
    assert (tall * wide >= 0.48 * 64**2).all() and ((tall * wide < 0.55 * 64**2).float().mean() > 0.02)
    assert (wide / tall).min() > 0.73 and (wide / tall).max() < 1.37
    assert (top == 0).any() and (top + tall == 64).any()


def test_white_turns_white_in_coarse_greys_and_black_as_published():
    image = torch.tensor([31, 32, 225, 239, 240, 250.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6) / 255
    clipped = 255 * _views.coarse(image, 3, False, _views.unchanged)[0, :, 0, 0]
    assert clipped.tolist() == [[0, 32, 224, 224, 224, 224], [32, 32, 224, 224, 255, 255], [32, 32, 255, 255, 255, 255]]
    wrapped = 255 * _views.coarse(image, 3, True, _views.unchanged)[0, :, 0, 0]
    assert wrapped[1].tolist() == [32, 32, 224, 224, 0, 0] and wrapped[2].tolist() == [32, 32, 0, 0, 0, 0]


def test_whole_greys_survive_truncation_and_parts_of_a_grey_do_not():
    images, whole = drawn(), _views.whole_greys
    greys = (torch.arange(256) / 255).view(1, 1, 1, -1).expand(1, 3, 1, 256)
    for steps in range(1, 14):  # sums of rounded numbers, some of which lie below the whole grey level
        attacked = (greys - steps / 255).clamp(min=0) + 3 / 255
        torch.testing.assert_close(whole(attacked, _views.unchanged), (255 * attacked).round() / 255)
    torch.testing.assert_close(whole((images + 0.6 / 255).clamp(max=1), _views.unchanged), images)


def test_filters_are_median_mean_and_gaussian_of_the_neighbourhood():
    image = torch.zeros(1, 3, 5, 5)
    image[:, :, 2, 2] = image[:, :, 2, 1] = 0.9
    median, mean, bell = _views.filtered(image, 3, _views.unchanged)[0, :, 0]
    assert median.max() == 0 and mean[2, 2].item() == pytest.approx(0.2) and mean[2, 3].item() == pytest.approx(0.1)
    side = torch.exp(torch.tensor(-1 / (2 * 0.8**2)))  # sigma of OpenCV for 3 pixels
    peak = 0.9 * (1 + side) / (1 + 2 * side) ** 2
    torch.testing.assert_close(bell[2, 2], peak)
    constant = torch.full((1, 3, 5, 5), 0.3)
    torch.testing.assert_close(_views.filtered(constant, 5, _views.unchanged)[0], constant.expand(3, 3, 5, 5))


def test_jpeg_of_lower_quality_differs_more_and_flat_images_stay():
    images = drawn(12, 16)
    views = _views.jpeg(images, (10, 60, 95), _views.unchanged)
    errors = (views - images[:, None]).abs().mean(dim=(0, 2, 3, 4))
    assert errors[0] > errors[1] > errors[2] > 0
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    assert (255 * (_views.jpeg(flat, (50,), _views.unchanged) - flat)).abs().max() <= 1.001


def test_noise_has_the_standard_deviation_and_stays_in_range():
    images = torch.full((40, 3, 8, 8), 0.5)
    normal = noise_of(images).normal((6, 3, 8, 8), "x")
    views = _views.noisy(images, normal, 0.1, _views.unchanged)
    assert (views - 0.5).std().item() == pytest.approx(0.1, rel=0.02)
    ends = _views.noisy(torch.ones_like(images), normal, 0.1, _views.unchanged)
    assert ends.max() == 1 and (255 * views - (255 * views).round()).abs().max() < 1e-3


@pytest.mark.parametrize("view", ["coarse", "jpeg", "filtered", "whole_greys", "augmixed"])
def test_straight_through_keeps_the_values_and_gives_every_pixel_a_gradient(view):
    images = drawn().requires_grad_()
    uniform = noise_of(images).uniform((30, _views.PER_MIX), "mix")

    def views(through):
        if view == "augmixed":
            return _views.augmixed(images[:, None].expand(-1, 30, -1, -1, -1), uniform, through)
        arguments = {"coarse": (3, False), "jpeg": ((50, 75),), "filtered": (3,), "whole_greys": ()}[view]
        return getattr(_views, view)(images, *arguments, through)

    surrogate = views(straight_through)
    assert torch.equal(surrogate, views(_views.unchanged))
    (gradient,) = torch.autograd.grad(surrogate.sum(), images)
    assert (gradient.flatten(1) != 0).float().mean() > 0.99
    if view in ("coarse", "jpeg", "whole_greys"):
        torch.testing.assert_close(gradient, torch.full_like(gradient, surrogate[0].numel() / images[0].numel()))


@pytest.mark.parametrize("step", [_views._posterize, _views._equalize])
def test_coarse_steps_of_augmix_pass_the_gradient_of_the_identity_on(step):
    images = drawn(4, 32).requires_grad_()  # equalising leaves images of less than 256 pixels as they are
    values = step(images, torch.zeros(len(images)), straight_through)
    assert torch.equal(values, step(images, torch.zeros(len(images)), _views.unchanged))
    assert (torch.autograd.grad(values.sum(), images)[0] == 1).all() and not torch.allclose(values, images, atol=0.01)


def test_the_median_passes_the_gradient_of_the_identity_on():
    images = drawn().requires_grad_()
    median = _views.filtered(images, 3, straight_through)[:, 0]
    assert (torch.autograd.grad(median.sum(), images)[0] == 1).all()


def test_an_augmix_is_in_range_and_differs_from_view_to_view_but_not_much():
    images = drawn(16, 16)
    uniform = noise_of(images).uniform((20, _views.PER_MIX), "mix")
    views = _views.augmixed(images[:, None].expand(-1, 20, -1, -1, -1), uniform, _views.unchanged)
    assert views.min() >= 0 and views.max() <= 1 + 1e-6
    assert 0.005 < (views - images[:, None]).abs().mean() < 0.1
    assert not torch.equal(views[:, 0], views[:, 1])


def test_an_augmix_of_steps_that_do_nothing_is_the_view(monkeypatch):
    monkeypatch.setattr(_views, "AUGMENTATIONS", (lambda views, strengths, through: views,) * 9)
    images = drawn()
    uniform = noise_of(images).uniform((5, _views.PER_MIX), "mix")
    views = images[:, None].expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(_views.augmixed(views, uniform, _views.unchanged), views)  # also: rows keep their places


def test_chains_have_one_to_three_steps_of_which_all_augmentations_occur(monkeypatch):
    steps = [lambda views, strengths, through, n=n: views + 10.0**n for n in range(9)]
    monkeypatch.setattr(_views, "AUGMENTATIONS", tuple(steps))
    uniform = (torch.rand(500, 3, 2), torch.randint(1, 4, (500,)))
    counts = _views._chain(torch.zeros(500, 1, 1, 1, dtype=torch.double), *uniform, _views.unchanged).flatten().long()
    digits = torch.stack([counts // 10**n % 10 for n in range(9)], dim=1)
    assert torch.equal(digits.sum(dim=1), uniform[1]) and (digits.sum(dim=0) > 60).all()


def test_augmentations_move_and_change_pixels_as_their_names_say():
    image = torch.zeros(1, 3, 9, 9)
    image[:, :, 4, 4] = 1
    tenth, unchanged = torch.tensor([1 / 6]), _views.unchanged  # of a third of the side: half a pixel
    shifted = _views._translate_x(image, tenth, unchanged)[0, 0]
    torch.testing.assert_close(shifted[4, 3:5], torch.tensor([0.5, 0.5]), atol=1e-4, rtol=0)
    assert torch.equal(_views._translate_y(image, tenth, unchanged)[0, 0], shifted.T)
    full = torch.tensor([3.0])  # 90 degrees
    corner = torch.zeros(1, 3, 9, 9)
    corner[:, :, 0, 0] = 1
    turned = _views._rotate(corner, full, unchanged)[0, 0]
    assert turned[0, 8].item() == pytest.approx(1, abs=1e-4) or turned[8, 0].item() == pytest.approx(1, abs=1e-4)
    bright = torch.tensor([0.2, 0.95]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    torch.testing.assert_close(
        _views._solarize(bright, torch.tensor([-0.1]), unchanged)[0, 0, 0], torch.tensor([0.2, 0.05])
    )
    torch.testing.assert_close(_views._autocontrast(bright, full, unchanged)[0, 0, 0], torch.tensor([0.0, 1.0]))
