"""The params of the transfer study, transfer/params.yaml, put together and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsr.data.sources import check_sizes
from zsr.errors import ParamError
from zsr.evaluate import Evaluation
from zsr.finetune import FineTuning
from zsr.likeness import Likeness
from zsr.methods._base import Method
from zsr.models.backbones import WIDTHS, Backbone
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, build, component, module_of, nearest, read, training_of
from zsr.transfer_params import STANDARD, Grid, Sets, Start, Trained, recipe_of


@dataclass(frozen=True, kw_only=True)
class TransferStudy:
    """Every key of transfer/params.yaml. Blocks of methods and attacks are checked by the classes they configure."""

    name: str  # of the study, in titles
    caution: str  # what its numbers are not, below every table
    threads: Count
    compute: Compute
    seeds: tuple[Natural, ...]  # of random weights, heads, the order of batches and the noise of training attacks
    data: Sets
    backbone: Backbone
    starts: dict[str, Start]
    runs: dict[str, Trained]
    train: FineTuning
    methods: dict[str, dict[str, Any]]
    evaluate: Evaluation
    grid: Grid
    attacks: dict[str, dict[str, Any]]
    likeness: Likeness


def _known(key: str, name: str, kind: str, names: Mapping[str, Any]) -> None:
    if name not in names:
        raise ParamError(f"{key} is none of {kind} ({', '.join(names)}): '{name}'{nearest(name, names)}")


def check(path: Path) -> TransferStudy:
    """The study that a params file describes. Raises ParamError with one line: file, key, value, choices."""
    document = read(path)
    try:
        study = build(TransferStudy, document, "")
        _check_names(study)
        for name in study.attacks:
            component(document, "attacks", name)
        if not hasattr(component(document, "attacks", study.grid.attack), "step_size"):
            raise ParamError(f"grid.attack must have a step_size, which grows with eps; '{study.grid.attack}' has none")
        if study.evaluate.protocol != "trusted":
            raise ParamError(f"evaluate.protocol must be trusted, got '{study.evaluate.protocol}'")
        for name in study.methods:
            _check_method(document, name)
        for name, start in study.starts.items():
            _check_start(document, name, start, study.backbone)
        for name, run in study.runs.items():
            _check_code(document, f"runs.{name}", run.method, run.code)
        _check_images(study)
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None
    return study


def _check_names(study: TransferStudy) -> None:
    """What one block names must be in another."""
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise ParamError(f"seeds must be at least one, none twice, got {list(study.seeds)}")
    if not study.runs:
        raise ParamError("runs must have at least one, got none")
    _known("likeness.reference", study.likeness.reference, "starts", study.starts)
    _known("grid.attack", study.grid.attack, "attacks", study.attacks)
    for name, run in study.runs.items():
        _known(f"runs.{name}.start", run.start, "starts", study.starts)
    for kind, trained in {"starts": study.starts, "runs": study.runs}.items():
        for name, one in trained.items():
            _known(f"{kind}.{name}.method", one.method, "methods", study.methods)
    pairs = [(run.start, run.method) for run in study.runs.values()]
    twice = [name for name, pair in zip(study.runs, pairs) if pairs.count(pair) > 1]
    if twice:
        raise ParamError(f"runs must differ in start or method, got {', '.join(twice)}")


def _check_method(document: Mapping, name: str) -> None:
    method: Method = component(document, "methods", name)
    key, recipe = f"methods.{name}", training_of(document, name, FineTuning)
    if method.needs_text or method.needs_blocks:
        raise ParamError(f"{key} needs class prompts or a ViT; a ResNet with a linear head has neither")
    if method.norm_stats != "clip":
        raise ParamError(f"{key}.norm_stats must be clip, which stands for the tower's own, got '{method.norm_stats}'")
    if method.in_batch and recipe.accumulate > 1:
        raise ParamError(f"train.accumulate must be 1 for {name}, whose loss compares all images of a batch")


def _check_start(document: Mapping, name: str, start: Start, backbone: Backbone) -> None:
    recipe = recipe_of(document, name, FineTuning)
    _check_code(document, f"starts.{name}", start.method, start.code)
    if name == STANDARD and (recipe.epochs or start.file):
        raise ParamError(f"starts.{name} must be random weights: train.epochs 0 and no file, got {recipe.epochs:g}")
    if start.sha256 and not start.file:
        raise ParamError(f"starts.{name}.sha256 is of starts.{name}.file, of which there is none")
    if start.file and backbone.arch == "small":
        choices = ", ".join(WIDTHS)
        raise ParamError(f"backbone.arch must be one of {choices} where starts.{name} is a file, got 'small'")


def _check_code(document: Mapping, key: str, method: str, code: str) -> None:
    own = document["methods"][method]
    right = "methods" if "base" in own else f"methods/{own.get('module', method)}.py"
    build(Literal[right], code, f"{key}.code")


def _check_images(study: TransferStudy) -> None:
    most, wanted, features = study.data.sets[study.data.target].test, study.likeness, study.backbone.features
    if wanted.images > most:
        key = f"data.sets.{study.data.target}.test"
        raise ParamError(f"likeness.images must be at most {most}, {key}, got {wanted.images}")
    if "cca" in wanted.measures and wanted.images <= features:
        arch = study.backbone.arch
        raise ParamError(f"likeness.images must be above {features}, features of {arch}, for cca, got {wanted.images}")
    for name, size in study.data.sets.items():
        check_sizes(module_of("zsr.data.sets", name, f"data.sets.{name}"), {"train": size.train, "test": size.test})
