"""A batch under attack: noise that belongs to an image, places that images leave once done, attacks in turn."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from zsr import files
from zsr.models.passes import Model, fooled, predict


@dataclass(frozen=True)
class Noise:
    """Draws for the images of one batch, keyed by (seed, scope, image id, stream).

    Attributes:
        seed: the seed of all draws.
        scope: the name of a set or of a step.
        ids: the numbers of the images in the set, (B,).
    """

    seed: int
    scope: str
    ids: Sequence[int]

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        """Uniform on [-1, 1), (B, *shape), from the CPU generator, which gives the same values on every machine."""
        return torch.stack([2 * torch.rand(tuple(shape), generator=self._generator(i, stream)) - 1 for i in self.ids])

    def normal(self, shape: Sequence[int], stream: str) -> Tensor:
        """Standard normal, (B, *shape)."""
        return torch.stack([torch.randn(tuple(shape), generator=self._generator(i, stream)) for i in self.ids])

    def take(self, rows: Tensor) -> "Noise":
        """The noise of some images of the batch. The draws of an image do not depend on the other images."""
        return replace(self, ids=[self.ids[row] for row in rows.tolist()])

    def _generator(self, image_id: int, stream: str) -> torch.Generator:
        key = files.digest(f"{self.seed}/{self.scope}/{int(image_id)}/{stream}")
        return torch.Generator().manual_seed(int(key[:8], 16))


@dataclass(frozen=True)
class Drawn:
    """Uniform noise of one stream that was drawn in advance.

    Attributes:
        rows: the noise of each image, (B, ...).
    """

    rows: Tensor

    def take(self, rows: Tensor) -> "Drawn":
        """The noise of some images of the batch."""
        return Drawn(self.rows[rows])

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        """The noise that was drawn, (B, *shape). The noise must have been drawn in that shape."""
        assert self.rows.shape[1:] == tuple(shape)
        return self.rows


def by_place(images: Tensor) -> Noise:
    """Draws by the place of an image in the batch, with seed 0, for callers without names of sets and images."""
    return Noise(0, "", range(len(images)))


class Round(Protocol):
    """An attack, or one restart or one target of an attack."""

    @property
    def name(self) -> str:
        """Name of the attack that the round belongs to."""

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images, (N, 3, H, W) in [0, 1] -> the same shape, in the ball."""


class Rows(Protocol):
    """A dataclass whose fields are tensors (R, ...), one row for each image, or such dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


State = TypeVar("State", bound=Rows)


# Attacks one after another


def cascade(
    model: Model,
    images: Tensor,
    labels: Tensor,
    noise: Noise | None,
    batch_size: int | None,
    rounds: Callable[[int], Iterable[Round]],
) -> Tensor:
    """Run rounds one after another, each on the images that no round before it has fooled.

    After each round a forward of the model decides which images are successes. An image stays in the cascade where this
    forward does not confirm a success.

    Args:
        model: pixels to logits.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        noise: the noise of the N images; None: `by_place`.
        batch_size: images in one pass of the model; None: all images.
        rounds: number of classes -> the rounds.

    Returns:
        Adversarial images, (N, 3, H, W) in [0, 1]. Images without a success and misclassified images are unchanged.
    """
    noise, logits = noise or by_place(images), predict(model, images, batch_size)
    adv, robust = images.clone(), logits.argmax(dim=1) == labels
    for attack in rounds(logits.shape[1]):
        rows = robust.nonzero().squeeze(1)
        if not len(rows):
            break
        candidates = attack(model, images[rows], labels[rows], noise.take(rows), batch_size)
        hit = fooled(predict(model, candidates, batch_size), labels[rows])
        adv[rows[hit]] = candidates[hit]
        robust = robust.index_fill(0, rows[hit], False)
    return adv


def target_ranks(n_classes: int, n_targets: int) -> range:
    """Ranks of the target classes among the wrong classes; 1 is the likeliest."""
    return range(1, min(n_targets, n_classes - 1) + 1)


def names_of(rounds: Iterable[Round]) -> tuple[str, ...]:
    """Names of the attacks of the rounds, in order, with the number of rounds, such as 'apgd-t x 9'."""
    names = [attack.name for attack in rounds]
    return tuple(f"{name} x {names.count(name)}" if names.count(name) > 1 else name for name in dict.fromkeys(names))


class Places(Generic[State]):
    """A batch of `size` places for images 0 ... n - 1. Where an image leaves a place, the next image begins there.

        places = Places(n, size, device, begin)
        while places.occupied:
            ...  # one pass of the model, which changes places.state
            places.release(done)

    The state may also hold images that are done. The batch keeps its size while images wait; then it shrinks.
    """

    def __init__(self, n: int, size: int | None, device: torch.device, begin: Callable[[Tensor], State]) -> None:
        """size: None means n. begin: row numbers of images, (K,) -> their state before the first pass."""
        self._rows, self._begin = torch.arange(n, device=device), begin
        self._begun = min(size or n, n)
        self.state = begin(self._rows[: self._begun])
        self._occupied = torch.ones(self._begun, dtype=torch.bool, device=device)

    @property
    def occupied(self) -> bool:
        """Is any image not done yet?"""
        return bool(self._occupied.any())

    def release(self, done: Tensor) -> None:
        """Release the images in the places where done, (R,) bool, and begin the next images there."""
        n = len(self._rows)
        self._occupied = self._occupied & ~done
        free = (~self._occupied).nonzero().squeeze(1)[: n - self._begun]
        if len(free):
            put(self.state, free, self._begin(self._rows[self._begun : self._begun + len(free)]))
            self._occupied[free] = True
            self._begun += len(free)
        if self._begun == n:
            rows = shrunk(self._occupied)
            if len(rows) < len(self._occupied):
                self.state, self._occupied = take(self.state, rows), self._occupied[rows]


def shrunk(occupied: Tensor) -> Tensor:
    """Numbers of the occupied places, (R,) bool, and of a few more that fill up a batch size, in order.

    Batch sizes are 1, 2, 3, 4, 6, 8, 12, 16, 24, ... So there are few shapes and few kernels, and at most a third of
    the rows are idle.
    """
    n = int(occupied.sum())
    grain = 2 ** max(n.bit_length() - 2, 0)
    size = min(-(-n // grain) * grain, len(occupied))
    return occupied.int().argsort(descending=True, stable=True)[:size].sort()[0]


def wide(per_image: Tensor) -> Tensor:
    """Reshape a tensor so that it broadcasts over images, (R,) -> (R, 1, 1, 1)."""
    return per_image[:, None, None, None]


def chosen(where: Tensor, some: State, others: State) -> State:
    """The state whose row comes from `some` where `where`, (R,) bool, is true, else from `others`."""
    return _mapped(lambda x, y: torch.where(where.view(-1, *[1] * (x.ndim - 1)), x, y), some, others)


def take(state: State, rows: Tensor) -> State:
    """The state of some rows."""
    return _mapped(lambda all_rows: all_rows[rows], state)


def _mapped(function: Callable[..., Tensor], *states: State) -> State:
    """Apply a function to the tensors of equal fields of the states; the results are the fields of a new state."""
    values = {field.name: [getattr(state, field.name) for state in states] for field in fields(states[0])}
    mapped = {
        name: function(*tensors) if isinstance(tensors[0], Tensor) else _mapped(function, *tensors)
        for name, tensors in values.items()
    }
    return replace(states[0], **mapped)


def put(state: State, rows: Tensor, update: State) -> None:
    """Write the state `update` of K images into the K rows `rows` of `state`."""
    for field in fields(state):
        current, replacement = getattr(state, field.name), getattr(update, field.name)
        if isinstance(current, Tensor):
            setattr(
                state, field.name, current.index_put((rows,), replacement)
            )  # a copy: another field may share the tensor
        else:
            put(current, rows, replacement)
