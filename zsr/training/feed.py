"""The feed prepares the input of training steps ahead of time: images, labels and the noise of the attack."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zsr.attacks.batch import Drawn, Noise
from zsr.data.prepared import Split
from zsr.training.batches import Part, batch_indices, parts_of
from zsr.training.loop import Recipe

FEEDERS = 8  # threads that work ahead of a GPU; the random numbers of a 224-px image take a CPU 1 ms


@dataclass(frozen=True)
class StepImages:
    """The input of one part of a step.

    Attributes:
        images: (n, 3, H, W) in [0, 1]; before the transfer to the device (n, H, W, 3) uint8.
        labels: numbers of the true classes, (n,).
        noise: the noise of the attack.
    """

    images: Tensor
    labels: Tensor
    noise: Noise | Drawn


class Start(Protocol):
    """The part of `zsr.training.finetune.TrainingAttack` that says which noise the attack draws."""

    @property
    def fixed_noise(self) -> bool:
        """Does the noise depend on the place in the batch alone, so that it is equal in every step?"""

    @property
    def random_start(self) -> bool:
        """Does the attack draw noise?"""

    @property
    def stream(self) -> str:
        """Name of the attack's random numbers."""


class Feed:
    """The samples of the source set on a device.

    ahead: number of parts that threads prepare in advance, in the order in which `zsr.training.loop.fit` takes them.
    By default it is FEEDERS on a GPU and 0 on a CPU, which the training itself keeps busy.
    """

    def __init__(
        self, source: Split, recipe: Recipe, attack: Start, seed: int, device: torch.device, ahead: int | None = None
    ) -> None:
        self.source, self.recipe, self.attack, self.seed, self.device = source, recipe, attack, seed, device
        self.ahead = (FEEDERS if device.type == "cuda" else 0) if ahead is None else ahead
        self._labels = torch.from_numpy(source.labels)
        self._waiting: deque[tuple[int, Part, Future[StepImages]]] = deque()
        self._pool = ThreadPoolExecutor(self.ahead) if self.ahead else None
        self._upcoming: Iterator[tuple[int, Part]] | None = None

    def take(self, step: int, part: Part) -> StepImages:
        """The input of one part of a step, on the device."""
        if not self._pool:
            return self._on_device(self._read(step, part))
        self._upcoming = self._upcoming or self._parts_from(step)
        while len(self._waiting) < self.ahead and (job := next(self._upcoming, None)):
            self._waiting.append((*job, self._pool.submit(self._read, *job)))
        queued_step, queued_part, future = self._waiting.popleft()
        assert queued_step == step and torch.equal(queued_part.samples, part.samples), "parts are asked for in order"
        return self._on_device(future.result())

    def pictures(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, H, W) in [0, 1] and labels (n,) on the device."""
        labels = self._labels[samples]
        step_images = self._on_device(StepImages(self._pixels(samples), labels, Noise(self.seed, "", ())))
        return step_images.images, step_images.labels

    def _parts_from(self, step: int) -> Iterator[tuple[int, Part]]:
        n, recipe = len(self.source.ids), self.recipe
        for next_step in range(step, recipe.n_steps(n)):
            batch = batch_indices(next_step, n, recipe.batch_size, self.seed)
            yield from ((next_step, part) for part in parts_of(batch, recipe.accumulate))

    def _read(self, step: int, part: Part) -> StepImages:
        ids = self.source.ids[part.samples.numpy()].tolist()  # indexing by a one-element tensor would give a scalar
        noise: Noise | Drawn = Noise(self.seed, f"train step {step}", ids)
        if self.attack.fixed_noise:
            noise = Noise(self.seed, "train", part.places.tolist())
        images = self._pixels(part.samples)
        if self._pool and self.attack.random_start:
            rows, columns, channels = images.shape[1:]
            noise = Drawn(noise.uniform((channels, rows, columns), self.attack.stream))
        return StepImages(images, self._labels[part.samples], noise)

    def _pixels(self, samples: Tensor) -> Tensor:
        return torch.from_numpy(self.source.images[samples.numpy()])

    def _on_device(self, step_images: StepImages) -> StepImages:
        images, labels = (self._to_device(x) for x in (step_images.images, step_images.labels))
        noise = (
            Drawn(self._to_device(step_images.noise.rows))
            if isinstance(step_images.noise, Drawn)
            else step_images.noise
        )
        return StepImages(images.permute(0, 3, 1, 2).float() / 255, labels, noise)

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor
