"""Blocks of the params of the transfer study, transfer/params.yaml; `zsr.transfer_check` puts them together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zsr.data.world import PromptSet, Resolution, SetSize
from zsr.params import Count, Natural, PixelRange, block, build, nearest, over

STANDARD = "scratch"  # the start that owes nothing to pre-training
PLAIN = "ft"  # the method that others are compared with


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The data sets. How they are read is told in `zsr.data.world.Data`."""

    seed: Natural
    image_size: Count
    attack_resolution: Resolution
    prompt_set: PromptSet
    complete: bool
    source: str  # what starts are trained on
    target: str  # what runs are trained and judged on
    sets: dict[str, SetSize]

    def __post_init__(self):
        for key, name in {"source": self.source, "target": self.target}.items():
            if name not in self.sets:
                close = nearest(name, self.sets)
                raise ValueError(f"{key} must name one of sets ({', '.join(self.sets)}), got '{name}'{close}")
            if not self.sets[name].train:
                raise ValueError(f"the {key} '{name}' needs a training split: sets.{name}.train is 0")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights from which runs are trained: random ones or those of a file, trained on the source set by a method."""

    method: str
    code: str  # where its loss is, below zsr
    train: dict[str, Any] = field(default_factory=dict)  # what differs from `train`; epochs: 0 leaves them as they are
    file: str = ""
    sha256: str = ""  # of the file; "": it is not compared


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A start trained on the target set by a method."""

    start: str
    method: str
    code: str  # where its loss is, below zsr: methods/<module>.py; of a method over another all, methods


@dataclass(frozen=True, kw_only=True)
class Grid:
    attack: str  # of attacks; its step keeps its proportion to eps
    eps: tuple[PixelRange, ...]

    def __post_init__(self):
        if not self.eps or list(self.eps) != sorted(set(self.eps)):
            raise ValueError(f"eps must be at least one number, each larger than the one before, got {list(self.eps)}")

    def attacks(self, attack: Any) -> dict[str, Any]:
        """The attack at every eps, by eps in 1/255 as text: "7.5". attack: a dataclass with eps and step_size."""
        step = attack.step_size / attack.eps
        return {name: replace(attack, eps=eps, step_size=step * eps) for name, eps in self.named().items()}

    def named(self) -> dict[str, float]:
        """Every eps by its text."""
        return {f"{255 * eps:g}": eps for eps in self.eps}


def recipe_of(document: Mapping, start: str, schema: Any) -> Any:
    """How a start is trained on the source set: `train`, the method's changes to it, over these the start's own."""
    wanted = block(document, f"starts.{start}", Start)
    of_method = block(document, f"methods.{wanted.method}", dict[str, Any]).get("train", {})
    changes = over(build(dict[str, Any], of_method, f"methods.{wanted.method}.train"), wanted.train)
    return build(schema, over(block(document, "train", dict[str, Any]), changes), f"starts.{start}.train")
