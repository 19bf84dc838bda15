"""Variants of a study's methods, as ablation/params.yaml describes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zsr.errors import ParamError
from zsr.finetune import FineTuning
from zsr.params import Count, Natural, block, build, component, over, read, training_of


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method of the study, and what is changed in the study's params for it."""

    method: str
    section: str  # the block of the study's params that holds the method's numbers
    changes: dict[str, Any]
    quirk: str = ""  # its ID in docs/quirks.md
    against: str = ""  # the variant that the quirk's effect is measured against


@dataclass(frozen=True, kw_only=True)
class Ablation:
    seeds: tuple[Natural, ...]
    images: Count  # of each test set, the first
    attack: str  # of the study's
    variants: dict[str, Variant] = field(default_factory=dict)

    def __post_init__(self):
        for name, variant in self.variants.items():
            if bool(variant.quirk) != bool(variant.against):
                raise ValueError(f"variants.{name}: quirk and against come together")
            if variant.against and variant.against not in self.variants:
                raise ValueError(f"variants.{name}.against is none of variants: '{variant.against}'")


def load(path: Path) -> Ablation:
    """The ablation that a params file describes. Raises ParamError with one line: file, key, value."""
    try:
        return build(Ablation, read(path), "")
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None


def changed(document: Mapping, ablation: Ablation, name: str) -> dict:
    """The study's params with the changes of a variant, checked.

    Raises ParamError where the variant's section is not the method's, or what is changed is not as it must be.
    """
    variant = ablation.variants[name]
    result = over(document, variant.changes)
    try:
        section = block(result, f"methods.{variant.method}.section", str)
        build(Literal[section], variant.section, "section")
        component(result, "methods", variant.method)
        training_of(result, variant.method, FineTuning)
        component(result, "attacks", ablation.attack)
    except ParamError as error:
        raise ParamError(f"variants.{name}: {error}") from None
    return result
