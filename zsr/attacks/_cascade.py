"""Attacks one after another, each on the images that none before it has fooled."""

from collections.abc import Callable, Iterable

from torch import Tensor

from zsr.attacks._noise import Noise
from zsr.attacks._passes import Model, fooled, predict

Round = Callable[[Model, Tensor, Tensor, Noise, int | None], Tensor]  # an attack, or one restart or target of it


def cascade(
    model: Model,
    images: Tensor,
    labels: Tensor,
    noise: Noise,
    batch_size: int | None,
    rounds: Callable[[int], Iterable[Round]],
) -> Tensor:
    """Adversarial images, (N, 3, H, W) in [0, 1]. An image that is never fooled, or wrong by itself, comes back as is.

    batch_size: of the model's passes; None: all images. rounds: from the number of classes. After each, the model's
    own forward says who is fooled: where it does not confirm a success, the image stays in.
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
