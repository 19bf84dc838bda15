"""What a training step is given, made ready before it begins: images, labels and the noise of its attack."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zsr.data.split import Split
from zsr.noise import Drawn, Noise
from zsr.training.batches import Part, batch_indices, parts_of
from zsr.training.loop import Recipe

FEEDERS = 8  # threads that work ahead of a GPU; random numbers for an image of 224 px take a millisecond of a CPU


@dataclass(frozen=True)
class StepImages:
    """What a part of a step is given.

    Attributes:
        images: (n, 3, H, W), in [0, 1]; until they are on the device, (n, H, W, 3) uint8.
        labels: numbers of the true classes, (n,).
        noise: of the attack.
    """

    images: Tensor
    labels: Tensor
    noise: Noise | Drawn


class Start(Protocol):
    """What is asked of a `zsr.training.finetune.TrainingAttack`: where its noise comes from."""

    @property
    def fixed_noise(self) -> bool:
        """Is the noise the same in every step, by the place in the batch?"""

    @property
    def random_start(self) -> bool:
        """Does it draw noise at all?"""

    @property
    def stream(self) -> str:
        """Which numbers it draws, of those that belong to an image."""


class Feed:
    """The samples of the source set on a device.

    ahead: how many parts of steps threads make ready before they are asked for, in the order in which
    `zsr.training.loop.fit` asks; none on a CPU, which has better things to do.
    """

    def __init__(
        self, source: Split, recipe: Recipe, attack: Start, seed: int, device: torch.device, ahead: int | None = None
    ) -> None:
        self.source, self.recipe, self.attack, self.seed, self.device = source, recipe, attack, seed, device
        self.ahead = (FEEDERS if device.type == "cuda" else 0) if ahead is None else ahead
        self._pixels, self._labels = torch.from_numpy(source.images), torch.from_numpy(source.labels)
        self._waiting: deque[tuple[int, Part, Future[StepImages]]] = deque()
        self._pool = ThreadPoolExecutor(self.ahead) if self.ahead else None
        self._coming: Iterator[tuple[int, Part]] | None = None

    def take(self, step: int, part: Part) -> StepImages:
        """What a part of a step is given."""
        if not self._pool:
            return self._on_device(self._read(step, part))
        self._coming = self._coming or self._from(step)
        while len(self._waiting) < self.ahead and (job := next(self._coming, None)):
            self._waiting.append((*job, self._pool.submit(self._read, *job)))
        its_step, its_part, future = self._waiting.popleft()
        assert its_step == step and torch.equal(its_part.samples, part.samples), "parts are asked for in order"
        return self._on_device(future.result())

    def pictures(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, H, W) in [0, 1] and labels (n,) on the device."""
        labels = self._labels[samples]
        fed = self._on_device(StepImages(self._pixels[samples], labels, Noise(self.seed, "", ())))
        return fed.images, fed.labels

    def _from(self, step: int) -> Iterator[tuple[int, Part]]:
        n, recipe = len(self.source.ids), self.recipe
        for later in range(step, recipe.n_steps(n)):
            batch = batch_indices(later, n, recipe.batch_size, self.seed)
            yield from ((later, part) for part in parts_of(batch, recipe.accumulate))

    def _read(self, step: int, part: Part) -> StepImages:
        ids = self.source.ids[part.samples.numpy()].tolist()  # a tensor of one index would give a number
        noise: Noise | Drawn = Noise(self.seed, f"train step {step}", ids)
        if self.attack.fixed_noise:
            noise = Noise(self.seed, "train", part.places.tolist())
        images = self._pixels[part.samples]
        if self._pool and self.attack.random_start:
            rows, columns, channels = images.shape[1:]
            noise = Drawn(noise.uniform((channels, rows, columns), self.attack.stream))
        return StepImages(images, self._labels[part.samples], noise)

    def _on_device(self, fed: StepImages) -> StepImages:
        images, labels = (self._sent(x) for x in (fed.images, fed.labels))
        noise = Drawn(self._sent(fed.noise.rows)) if isinstance(fed.noise, Drawn) else fed.noise
        return StepImages(images.permute(0, 3, 1, 2).float() / 255, labels, noise)

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor
