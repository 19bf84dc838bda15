"""The whole of params.yaml, put together and checked before anything is computed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsr.attention_study import AttentionStudy
from zsr.data.world import Data
from zsr.errors import ParamError
from zsr.evaluate import Evaluation
from zsr.finetune import FineTuning
from zsr.params import Count, build, component, module_of, read
from zsr.pretrain import Pretraining


@dataclass(frozen=True, kw_only=True)
class Model:
    arch: str  # a model name of open_clip


@dataclass(frozen=True, kw_only=True)
class Study:
    """Every key of params.yaml. The blocks of methods and attacks are checked by the classes they configure."""

    name: str  # of the study, in titles
    up: Literal["", "../"]  # from the folder of params.yaml to the repository's root
    threads: Count  # of the CPU, in every stage that computes
    data: Data
    model: Model
    base_model: Pretraining
    train: FineTuning
    method: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    evaluate: Evaluation
    attacks: dict[str, dict[str, Any]]
    attention: AttentionStudy

    def __post_init__(self):
        if self.attention.set not in self.data.sets:
            raise ValueError(
                f"attention.set is none of data.sets ({', '.join(self.data.sets)}): '{self.attention.set}'"
            )
        if self.attention.attack not in self.attacks:
            raise ValueError(
                f"attention.attack is none of attacks ({', '.join(self.attacks)}): '{self.attention.attack}'"
            )


def check(path: Path) -> Study:
    """The study that a params file describes. Raises ParamError with one line: file, key, value, choices."""
    document = read(path)
    try:
        study = build(Study, document, "")
        for kind in ("methods", "attacks"):
            for name in document[kind]:
                component(document, kind, name)
        for name in study.data.sets:
            module_of("zsr.data.sets", name, f"data.sets.{name}")
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None
    return study
