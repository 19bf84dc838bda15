"""Which rounds an attack consists of for a number of classes: few classes leave fewer."""

from collections.abc import Iterable

from zsr.attacks._apgd import Ascent
from zsr.attacks._cascade import Round
from zsr.attacks._fab import Boundary


def ascents(loss: str, n_classes: int, n_restarts: int, n_targets: int, **settings) -> list[Ascent]:
    """APGD's rounds. Targeted DLR needs four classes and DLR three: where they lack, the next simpler loss is used."""
    loss = "dlr" if loss == "dlr_targeted" and n_classes < 4 else loss
    loss = "ce" if loss == "dlr" and n_classes < 3 else loss
    ranks = targets(n_classes, n_targets) if loss == "dlr_targeted" else [0]
    return [Ascent(loss=loss, rank=rank, restart=n, **settings) for rank in ranks for n in range(n_restarts)]


def boundaries(n_classes: int, n_targets: int, **settings) -> list[Boundary]:
    """FAB's rounds."""
    return [Boundary(rank=rank, **settings) for rank in targets(n_classes, n_targets)]


def targets(n_classes: int, n_targets: int) -> range:
    """Ranks of the wrong classes to aim at, from the likeliest."""
    return range(1, min(n_targets, n_classes - 1) + 1)


def listed(rounds: Iterable[Round]) -> tuple[str, ...]:
    """The attacks that the rounds belong to, in order, each with the number of its rounds, as 'apgd-t x 9'."""
    names = [attack.name for attack in rounds]
    return tuple(f"{name} x {names.count(name)}" if names.count(name) > 1 else name for name in dict.fromkeys(names))
