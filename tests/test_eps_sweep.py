import dataclasses

import pytest
import torch

from zsr.attacks._noise import Noise
from zsr.attacks.pgd import PGD
from zsr.eps_sweep import EpsSweep, sweep
from zsr.errors import ParamError
from zsr.params import build

ATTACK = PGD(eps=4 / 255, step_size=1 / 255, n_iter=8, random_start=True, precision="fp32", reduction="sum")


class Thresholds(torch.nn.Module):
    """Class 0 while an image's mean is below 0.5: the image at distance d falls at eps = d exactly."""

    def forward(self, images):
        above = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-above, above], dim=1)


def test_an_image_falls_where_the_ball_reaches_the_boundary():
    distances = torch.tensor([0.01, 0.03, 0.05, 0.2, -0.1])  # the last is wrong by itself
    images = (0.5 - distances).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    labels = torch.zeros(5, dtype=torch.int64)
    counts = sweep(Thresholds(), ATTACK, images, labels, Noise(0, "s", range(5)), [0.02, 0.04, 0.06, 0.5])
    assert counts == {0.0: 4, 0.02: 3, 0.04: 2, 0.06: 1, 0.5: 0}


def test_an_image_that_fell_is_not_attacked_again():
    sizes = []

    class Spy(Thresholds):
        def forward(self, images):
            sizes.append(len(images))
            return super().forward(images)

    images = torch.full((4, 3, 4, 4), 0.49)
    sweep(Spy(), ATTACK, images, torch.zeros(4, dtype=torch.int64), Noise(0, "s", range(4)), [0.02, 0.04])
    assert len(sizes) == 1 + 8 + 1  # once clean, one attack, one verdict; nothing is left for the second eps


def test_the_step_keeps_its_proportion_and_the_noise_its_image(model, batch):
    alone = sweep(model, ATTACK, batch.images[3:4], batch.labels[3:4], Noise(0, "s", [3]), [1 / 255, 8 / 255])
    whole = [
        sweep(model, ATTACK, batch.images[i : i + 1], batch.labels[i : i + 1], Noise(0, "s", [i]), [1 / 255, 8 / 255])
        for i in range(6)
    ]
    together = sweep(model, ATTACK, batch.images, batch.labels, Noise(0, "s", range(6)), [1 / 255, 8 / 255])
    assert whole[3] == alone and together == {eps: sum(counts[eps] for counts in whole) for eps in together}


def test_eps_must_grow():
    with pytest.raises(ParamError, match="eps_sweep: eps must be at least one number, each larger"):
        build(EpsSweep, {"attack": "pgd", "eps": ["2/255", "1/255"], "images": 3}, "eps_sweep")
    assert dataclasses.asdict(build(EpsSweep, {"attack": "pgd", "eps": ["1/255"], "images": 3}, "k"))["images"] == 3
