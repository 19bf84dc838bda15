"""What attacks share: places of a batch that images leave once they are done, and attacks one after another."""

from collections.abc import Callable, Iterable
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from zsr.models.passes import Model, fooled, predict
from zsr.noise import Noise


class Round(Protocol):
    """An attack, or one restart or target of it."""

    @property
    def name(self) -> str:
        """The attack that it belongs to."""

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images, (N, 3, H, W) in [0, 1] -> the same shape, in the ball."""


class Rows(Protocol):
    """A dataclass of tensors (R, ...), one row for each image, or of such dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


State = TypeVar("State", bound=Rows)


# Attacks one after another


def cascade(
    model: Model,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    batch_size: int | None,
    rounds: Callable[[int], Iterable[Round]],
) -> Tensor:
    """Run rounds one after another, each on the images that no round before it has fooled.

    After each round the model's own forward says who is fooled. An image stays in where the forward does not confirm a
    success.

    Args:
        model: pixels to logits.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        noise: of the N images.
        batch_size: of the model's passes; None: all images.
        rounds: from the number of classes to the rounds.

    Returns:
        Adversarial images, (N, 3, H, W) in [0, 1]. An image that is never fooled, or wrong by itself, is unchanged.
    """
    logits = predict(model, images, batch_size)
    adv, robust = images.clone(), logits.argmax(dim=1) == labels
    for attack in rounds(logits.shape[1]):
        rows = robust.nonzero().squeeze(1)
        if not len(rows):
            break
        tried = attack(model, images[rows], labels[rows], noise.take(rows), batch_size)
        hit = fooled(predict(model, tried, batch_size), labels[rows])
        adv[rows[hit]] = tried[hit]
        robust = robust.index_fill(0, rows[hit], False)
    return adv


def target_ranks(n_classes: int, n_targets: int) -> range:
    """Ranks of the wrong classes to aim at, from the likeliest."""
    return range(1, min(n_targets, n_classes - 1) + 1)


def names_of(rounds: Iterable[Round]) -> tuple[str, ...]:
    """The attacks that the rounds belong to, in order, each with the number of its rounds, as 'apgd-t x 9'."""
    names = [attack.name for attack in rounds]
    return tuple(f"{name} x {names.count(name)}" if names.count(name) > 1 else name for name in dict.fromkeys(names))


class Places(Generic[State]):
    """A batch of `size` places through which images 0 ... n - 1 pass: where one leaves, the next one begins.

        places = Places(n, size, device, begin)
        while places.occupied:
            ...  # one pass of the model, which changes places.state
            places.release(done)

    The state may also hold images that are done. The shape of the batch stays while images wait; then it shrinks.
    """

    def __init__(self, n: int, size: int | None, device: torch.device, begin: Callable[[Tensor], State]) -> None:
        """size: None stands for n. begin: numbers of images, (K,) -> their state before the first pass."""
        self._rows, self._begin = torch.arange(n, device=device), begin
        self._begun = min(size or n, n)
        self.state = begin(self._rows[: self._begun])
        self._occupied = torch.ones(self._begun, dtype=torch.bool, device=device)

    @property
    def occupied(self) -> bool:
        """Is any image still under way?"""
        return bool(self._occupied.any())

    def release(self, done: Tensor) -> None:
        """Let the images in some places go, (R,) bool, and the next ones begin there."""
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
    """The occupied places, (R,) bool, and a few that fill them up to a size of batch, as places in order.

    Sizes are 1, 2, 3, 4, 6, 8, 12, 16, 24, ...: few shapes, hence few kernels, at most a third of the rows idle.
    """
    n = int(occupied.sum())
    grain = 2 ** max(n.bit_length() - 2, 0)
    size = min(-(-n // grain) * grain, len(occupied))
    return occupied.int().argsort(descending=True, stable=True)[:size].sort()[0]


def wide(per_image: Tensor) -> Tensor:
    """(R,) -> (R, 1, 1, 1)."""
    return per_image[:, None, None, None]


def chosen(where: Tensor, some: State, others: State) -> State:
    """Of every row, (R,) bool, the state in `some` where true, else in `others`."""
    return _mapped(lambda one, other: torch.where(where.view(-1, *[1] * (one.ndim - 1)), one, other), some, others)


def take(state: State, rows: Tensor) -> State:
    """The state of some rows."""
    return _mapped(lambda all_rows: all_rows[rows], state)


def _mapped(of: Callable[..., Tensor], *states: State) -> State:
    """The state whose every tensor is a function of the tensors that the given states have in its place."""
    parts = {field.name: [getattr(state, field.name) for state in states] for field in fields(states[0])}
    new = {name: of(*part) if isinstance(part[0], Tensor) else _mapped(of, *part) for name, part in parts.items()}
    return replace(states[0], **new)


def put(state: State, rows: Tensor, new: State) -> None:
    """Write the state `new` of K images into K rows."""
    for field in fields(state):
        old, other = getattr(state, field.name), getattr(new, field.name)
        if isinstance(old, Tensor):
            setattr(state, field.name, old.index_put((rows,), other))  # a copy: old may be shared with another field
        else:
            put(old, rows, other)
