"""TWINS against its controls, each at a learning rate of its own: what twins/params.yaml may say.

At one rate a comparison says nothing: the loss of TWINS is a sum of two, so its steps are larger. Each candidate is
trained at every rate of one grid, and the rate is chosen on images held out of the training split.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsr.data.world import Data
from zsr.errors import ParamError
from zsr.evaluate import Evaluation
from zsr.finetune import FineTuning
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, Positive, build, component, read
from zsr.study import Launcher, Model, check_components

REFERENCES = ("clip", "start")  # the base model, and what candidates start from


@dataclass(frozen=True, kw_only=True)
class TwinsStudy:
    """Every key of twins/params.yaml. See `zsr.study.Study` for those of the same name."""

    name: str
    up: str
    threads: Count
    launcher: Launcher
    compute: Compute
    seeds: tuple[Natural, ...]  # of fine-tuning: the start and, from it, every candidate
    data: Data  # source: the target set, on which candidates are trained
    model: Model
    base_model: dict[str, Any]
    start_set: str  # on which the method `start` is trained
    candidates: tuple[str, ...]  # methods trained on the target, from the start
    lrs: tuple[Positive, ...]  # tried for each candidate
    shown_lr: Positive  # of lrs: of the curves of effective rates
    held_out: Count  # images of the target's training split, its last, on which rates are chosen
    chosen_by: str  # the attack under which they are
    train: FineTuning
    methods: dict[str, dict[str, Any]]
    evaluate: Evaluation
    attacks: dict[str, dict[str, Any]]

    def __post_init__(self):
        sets, trained = self.data.sets, [*REFERENCES, *self.candidates]
        known = {"start_set": sets, "chosen_by": self.attacks, "shown_lr": self.lrs}
        for key, choices in known.items():
            value = getattr(self, key)
            if value not in choices:
                raise ValueError(f"{key} must be one of {', '.join(map(str, choices))}, got {value}")
        if sorted(trained) != sorted(self.methods) or not self.candidates:
            listed = ", ".join(self.methods)
            raise ValueError(f"methods must be clip, start and candidates ({', '.join(self.candidates)}), got {listed}")
        if not sets[self.start_set].train:
            raise ValueError(f"start_set needs a training split: data.sets.{self.start_set}.train is 0")
        images = sets[self.data.source].train
        if self.held_out >= images:
            raise ValueError(
                f"held_out must be below data.sets.{self.data.source}.train, {images}, got {self.held_out}"
            )
        for key, values in {"seeds": self.seeds, "lrs": self.lrs}.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{key} must be at least one, none twice, got {list(values)}")


def check(path: Path) -> TwinsStudy:
    """The study that a params file describes. Raises ParamError with one line: file, key, value, choices."""
    document = read(path)
    try:
        study = build(TwinsStudy, document, "")
        check_components(document, study.model, study.data)
        for name in study.candidates:
            if "lr" in document["methods"][name].get("train", {}):
                raise ParamError(f"methods.{name}.train.lr: rates of candidates are in lrs, the same for all")
            if not component(document, "methods", name).trains:
                raise ParamError(f"candidates: '{name}' does not train")
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None
    return study
