"""The complete examples of docs/using.md, as they stand."""

import re
from typing import Any

import numpy as np
import torch

from tests.checkout import ROOT
from zsr.params import build


def example(heading: str) -> dict[str, Any]:
    """What the first Python code below a heading defines."""
    section = (ROOT / "docs/using.md").read_text().split(f"\n## {heading}\n")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {"__name__": heading}
    exec(code[1], names)
    return names


def test_the_example_of_an_attack_is_one_step_along_the_sign_whatever_the_batch():
    attack = build(example("Adding an attack")["ATTACK"], {"eps": 0.1}, "attack")
    images = torch.tensor([0.5, 0.95, 0.05]).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    labels = torch.tensor([0, 0, 1])

    def model(pixels):  # brighter images are of class 0, so the attack darkens class 0 and brightens class 1
        total = pixels.sum(dim=(1, 2, 3))
        return torch.stack([total, -total], dim=1) / 10

    for size in (None, 1, 2):
        adv = attack(model, images, labels, batch_size=size)
        torch.testing.assert_close(adv[:, 0, 0, 0], torch.tensor([0.4, 0.85, 0.15]))
    assert attack.protocol() == "l-inf, eps 25.5/255, one step"


def test_the_example_of_a_set_has_red_and_blue_images():
    split = example("Adding a set")["make"]("test", 6, 0, 32)
    red, blue = split.images[:, :, :, 0].mean(axis=(1, 2)), split.images[:, :, :, 2].mean(axis=(1, 2))
    assert split.labels.tolist() == (blue > red + 50).astype(int).tolist() == [0, 1, 0, 1, 0, 1]
    assert split.classnames == ("red", "blue") and split.labels.dtype == np.int64
