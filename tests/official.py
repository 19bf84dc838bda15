"""The authors' code as an oracle: models both can attack, and noise in the order in which it draws."""

import copy
import functools

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from tests.small_clip import small_clip

N_CLASSES = 10


class OfficialNoise:
    """Draws as the authors' code does: one generator for the batch, seeded anew by every attack.

    Square draws its queries once for all images. Stands in for zsr.attacks.batch.Noise.
    """

    def __init__(self, seed: int, n: int):
        self.seed, self.n, self.shared = seed, n, {"attack": None, "generator": None}

    def uniform(self, shape, stream: str) -> Tensor:
        n = 1 if stream == "square/queries" else self.n
        return (2 * torch.rand((n, *shape), generator=self._generator(stream)) - 1).expand(self.n, *shape)

    def normal(self, shape, stream: str) -> Tensor:
        return torch.randn((self.n, *shape), generator=self._generator(stream))

    def take(self, rows: Tensor) -> "OfficialNoise":
        taken = copy.copy(self)  # the generator goes on
        taken.n = len(rows)
        return taken

    def _generator(self, stream: str) -> torch.Generator:
        attack = stream.split("/")[0]
        if self.shared["attack"] != attack:
            self.shared |= {"attack": attack, "generator": torch.Generator().manual_seed(self.seed)}
        return self.shared["generator"]


def official(attack: str, model, images: Tensor, labels: Tensor, *, eps: float, seed: int, **settings) -> Tensor:
    """Images that the authors' attack returns, or the clean ones."""
    make = {
        "ce": functools.partial(APGDAttack, loss="ce"),
        "dlr": functools.partial(APGDAttack, loss="dlr"),
        "dlr_targeted": functools.partial(APGDAttack_targeted, n_target_classes=N_CLASSES - 1),
        "fab": functools.partial(FABAttack_PT, targeted=True, n_target_classes=N_CLASSES - 1),
        "square": functools.partial(SquareAttack, resc_schedule=False),
    }[attack]
    adv = make(model, eps=eps, seed=seed, device="cpu", **settings).perturb(images, labels)
    model.zero_grad()  # theirs fills the .grad of parameters
    return adv


def small_cnn(n_classes: int = N_CLASSES) -> nn.Module:
    """A CNN for 3 x 8 x 8 images with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.GELU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(144, n_classes)).eval()


def clip_of_random_prompts(n_classes: int = N_CLASSES) -> nn.Module:
    """A small CLIP as a classifier of 24 x 24 images, with random weights and prompts."""
    from zsr.models.clip import Classifier

    with torch.random.fork_rng():
        model = small_clip()
        texts = nn.functional.normalize(torch.randn(n_classes, 48), dim=1)
    return Classifier(model, texts).eval().requires_grad_(False)


MODELS = {  # name -> maker, image size, eps at which about half of the images hold out
    "cnn": (small_cnn, 8, 0.015),
    "clip": (clip_of_random_prompts, 24, 0.004),
}


@functools.cache
def target(name: str, n_classes: int = N_CLASSES) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A model, images (16, 3, H, W), labels (16,), the first of which is wrong, and an eps."""
    make, size, eps = MODELS[name]
    model, n = make(n_classes), 16
    images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(7))
    labels = answers(model, images)
    labels[0] = (labels[0] + 1) % n_classes
    return model, images, labels, eps


@torch.no_grad()
def answers(model, images: Tensor) -> Tensor:
    return model(images).argmax(dim=1)


def linear(weights: Tensor, bias: Tensor):
    """A classifier with logits W x + b: (C, d), (C,)."""
    return lambda images: images.flatten(1) @ weights.T + bias


def in_parts(attack, model, images: Tensor, labels: Tensor, noise) -> Tensor:
    """What an attack returns when the batch comes in another order and in three unequal parts."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(11))
    parts = [
        attack(model, images[rows], labels[rows], noise.take(rows)) for rows in order.split([1, 5, len(order) - 6])
    ]
    return torch.cat(parts)[order.argsort()]


def differing(some: Tensor, others: Tensor) -> float:
    """The share of pixels that differ by more than rounding: it may turn the sign of a tiny gradient."""
    return ((some - others).abs() > 1e-4).float().mean().item()
