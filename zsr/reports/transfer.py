"""Does pre-training transfer non-robustness? Rows of fine-tuned and of standard models, and what their difference says.

"Pre-training also transfers non-robustness", AAAI 2023. A fine-tuned model is right more often to begin with, so what
is compared is the relative drop under attack.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

from zsr.errors import StudyError

SATURATED = 2  # times chance, below which robust accuracies tell nothing
COLLAPSED = 0.9  # of ln C, above which a cross-entropy is that of guessing
STANDARD = "scratch"  # the start of a row that names none: it owes nothing to pre-training


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained model.

    Attributes:
        init: the start that it was trained from: scratch, pretrained, robust.
        method: the block that holds its numbers.
        backbone: the arch of its tower.
        dataset: the set that it is judged on.
        seed: of its training.
        checkpoint: which of the training's it is.
    """

    init: str
    method: str
    backbone: str
    dataset: str
    seed: int
    checkpoint: Literal["best", "final"] = "final"


def start_and_method(row: Mapping[str, str]) -> tuple[str, str]:
    """What a row of `methods` is called in the tables: where it starts, and the block that holds its numbers."""
    return row.get("start", STANDARD), row["section"].rpartition(".")[2]


def drop_rate(clean: float, robust: float) -> float:
    """(clean - robust) / clean of two accuracies in [0, 1]: 0, nothing lost, to 1, all lost.

    robust: the share of images that are right without and with the attack, so never above clean. Raises StudyError
    where it is, where an accuracy is no share, and where clean is 0, of which nothing can be lost.
    """
    if not 0 <= robust <= clean <= 1:
        raise StudyError(f"accuracies must be 0 <= robust <= clean <= 1, got robust {robust:g} and clean {clean:g}")
    if clean == 0:
        raise StudyError("a drop rate needs a clean accuracy above 0, got 0")
    return (clean - robust) / clean


def saturated(robust: Sequence[float], classes: int) -> bool:
    """Are all of some robust accuracies below twice chance, so that their drop rates cannot be told apart?"""
    return all(accuracy < SATURATED / classes for accuracy in robust)


def row(run: Run, clean: float, robust: Mapping[str, float], n: int) -> dict:
    """What one run leaves: accuracy, robust accuracy and drop rate at every eps, on n images. eps: text as "1/255".

    A model that is never right has no drop rate: nan.
    """
    found = {"n": n, "clean": clean}
    for eps, accuracy in robust.items():
        found |= {f"robust@{eps}": accuracy, f"DR@{eps}": drop_rate(clean, accuracy) if clean else math.nan}
    return asdict(run) | found


def difference(fine_tuned: Sequence[Mapping], standard: Sequence[Mapping], eps: str, classes: int) -> dict:
    """How much more fine-tuned models lose than standard ones at an eps: means over seeds, matched by seed.

    saturated: nothing can be said. agree: seeds in which the fine-tuned model loses more. Raises StudyError where the
    two do not have the same seeds.
    """
    pairs = {r["seed"]: [r] for r in fine_tuned}
    if sorted(pairs) != sorted(r["seed"] for r in standard) or len(pairs) != len(fine_tuned):
        raise StudyError("fine-tuned and standard runs must have the same seeds, each once")
    for r in standard:
        pairs[r["seed"]].append(r)
    drops = [one[f"DR@{eps}"] - other[f"DR@{eps}"] for one, other in pairs.values()]
    means = [fmean(r[f"robust@{eps}"] for r in rows) for rows in (fine_tuned, standard)]
    return {
        "eps": eps,
        "seeds": len(pairs),
        "drop_rate": fmean(drops),
        "robust": means[0] - means[1],
        "agree": sum(drop > 0 for drop in drops),
        "saturated": saturated(means, classes),
    }


def collapsed(feature_variance: float, reference: float, cross_entropy: float, classes: int) -> bool:
    """Have features become a constant? Then their variance over images is gone, and the model guesses.

    reference: the variance of a model that learnt. cross_entropy: mean on training images; of guessing it is ln C.
    """
    return feature_variance < 0.1 * reference and cross_entropy > COLLAPSED * math.log(classes)
