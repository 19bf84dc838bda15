"""Does pre-training transfer non-robustness? Rows of fine-tuned and of standard models, and their differences.

"Pre-training also transfers non-robustness", AAAI 2023. A fine-tuned model has a higher clean accuracy, so the relative
drop under attack is compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

from zsr.params import StudyError

SATURATED = 2  # multiple of chance below which robust accuracies cannot be compared
COLLAPSED = 0.9  # share of ln C above which a cross-entropy is that of guessing
STANDARD = "scratch"  # the start of a row that names no start: a training without pre-training


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained model.

    Attributes:
        init: the start of the training: scratch, pretrained, robust.
        method: the block that holds the hyper-parameters.
        backbone: the arch of the tower.
        dataset: the set that the model is judged on.
        seed: the seed of the training.
        checkpoint: the best or the final checkpoint of the training.
    """

    init: str
    method: str
    backbone: str
    dataset: str
    seed: int
    checkpoint: Literal["best", "final"] = "final"


def start_and_method(row: Mapping[str, str]) -> tuple[str, str]:
    """The names of a row of `methods` in the tables: its start, and the block that holds its hyper-parameters."""
    return row.get("start", STANDARD), row["section"].rpartition(".")[2]


def drop_rate(clean: float, robust: float) -> float:
    """(clean - robust) / clean of two accuracies in [0, 1]: 0 where nothing is lost, 1 where all is lost.

    robust: the share of images that are right without and with the attack, so never above clean. Raises StudyError
    where robust is above clean, where an accuracy is not in [0, 1], and where clean is 0.
    """
    if not 0 <= robust <= clean <= 1:
        raise StudyError(f"accuracies must be 0 <= robust <= clean <= 1, got robust {robust:g} and clean {clean:g}")
    if clean == 0:
        raise StudyError("a drop rate needs a clean accuracy above 0, got 0")
    return (clean - robust) / clean


def saturated(robust: Sequence[float], classes: int) -> bool:
    """Are all robust accuracies below twice chance? Then their drop rates cannot be compared."""
    return all(accuracy < SATURATED / classes for accuracy in robust)


def row(run: Run, clean: float, robust: Mapping[str, float], n: int) -> dict:
    """The row of a run: accuracy, robust accuracy and drop rate at every eps, on n images. eps: text such as "1/255".

    The drop rate of a model that is never right is nan.
    """
    numbers = {"n": n, "clean": clean}
    for eps, accuracy in robust.items():
        numbers |= {f"robust@{eps}": accuracy, f"DR@{eps}": drop_rate(clean, accuracy) if clean else math.nan}
    return asdict(run) | numbers


def difference(fine_tuned: Sequence[Mapping], standard: Sequence[Mapping], eps: str, classes: int) -> dict:
    """How much more fine-tuned models lose than standard models at an eps: means over seeds, matched by seed.

    saturated: the drop rates cannot be compared. agree: number of seeds in which the fine-tuned model loses more.
    Raises StudyError where the two do not have the same seeds.
    """
    pairs = {r["seed"]: [r] for r in fine_tuned}
    if sorted(pairs) != sorted(r["seed"] for r in standard) or len(pairs) != len(fine_tuned):
        raise StudyError("fine-tuned and standard runs must have the same seeds, each once")
    for r in standard:
        pairs[r["seed"]].append(r)
    drops = [tuned_row[f"DR@{eps}"] - standard_row[f"DR@{eps}"] for tuned_row, standard_row in pairs.values()]
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

    reference: the variance of a model that has learnt. cross_entropy: the mean on training images; guessing gives ln C.
    """
    return feature_variance < 0.1 * reference and cross_entropy > COLLAPSED * math.log(classes)
