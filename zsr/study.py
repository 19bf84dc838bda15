"""The schema of params.yaml of all studies, and the checks that run before anything is computed."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from zsr.compute import Compute
from zsr.data import registry
from zsr.data.config import Data
from zsr.data.sources import check_sizes
from zsr.evaluation.defended import check_attacks, defending_of
from zsr.evaluation.evaluate import Evaluation, Protocol
from zsr.evaluation.grid import Grid, grid_of
from zsr.evaluation.results import WORST
from zsr.files import read_json
from zsr.measures.attention import AttentionStudy
from zsr.measures.eps_sweep import EpsSweep
from zsr.measures.likeness import Likeness
from zsr.models import pretrained
from zsr.models.heads import Model
from zsr.models.linear import WIDTHS
from zsr.models.pretrained import Pretrained
from zsr.params import (
    ParamError,
    Seed,
    Threads,
    block,
    build,
    component,
    cut,
    module_of,
    nearest,
    read,
    row,
    shown,
    training_of,
    under_protocol,
)
from zsr.reports.transfer import start_and_method
from zsr.training.finetune import FineTuning
from zsr.training.pretrain import base_of

PACKAGE_DATA = ["models/configs"]
Launcher = Literal["python", "torchrun"]
Table = Literal[
    "accuracy", "vs", "attacks", "audit", "orderings", "published",  # tables of a study of CLIP
    "ablation", "quirks",
    "defences",
    "leaderboard",  # the rows of the study beside the folder `leaderboard`
    "rates", "effective_rate", "elsewhere",  # tables of the study of TWINS
    "transfer", "differences", "likeness",
]  # fmt: skip
Figure = Literal[
    "trade_off", "trade_off_source", "rows", "per_set", "training", "eps_sweep",
    "rates", "effective_rate",
    "robustness", "likeness", "defences",
]  # fmt: skip
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,63}")
# keys of `evaluate` without a default in dvc.yaml
NAMED_BY_GRAPH = ("protocol", "precision", "counted")


@dataclass(frozen=True, kw_only=True)
class Quirk:
    """A row of the table of quirks.

    Attributes:
        id: the id of the quirk in docs/quirks.md.
        against: the method that the row is compared with.
    """

    id: str
    against: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """All keys of params.yaml. The blocks of methods and attacks are checked by the classes that they configure.

    Attributes:
        name: the name of the study, in titles.
        caution: a warning on the meaning of the numbers, below tables of linear heads.
        up: the relative path from the folder of params.yaml to the repository's root.
        threads: number of CPU threads in every stage that computes.
        launcher: the launcher of training and evaluation; torchrun: one process per GPU.
        compute: the device of models, and its settings.
        seeds: the seeds of training: order of batches, noise of the training attack, random weights.
        data: the sets, and the number of images of each set.
        model: architecture and head.
        base_model: weights of open_clip, or the pre-training of the base model of CLIP here.
        starts: rows of models that other trainings begin with.
        train: the recipe of every row; a row may change values.
        method: a block of hyper-parameters of TGA-ZSR, which several rows name as their section.
        shared: more such blocks, by name.
        methods: the rows of the tables.
        grid: the learning rates that are tried for every row; {}: only the learning rate of the recipe.
        evaluate: the settings of the evaluation.
        protocols: values that belong together; evaluate.protocol names the protocol in force.
        attacks: the attacks under which models are judged, by name.
        eps_sweep: sweeps over eps, by the name of the attack.
        attention: studies of attention maps, by the name of the set.
        defences: rows of defences at test time, each on the tower of a row of `methods`.
        defend: how defences are judged, a `zsr.evaluation.defended.Defending`; only where there are any.
        likeness: comparisons with a start, by the name of the start.
        quirks: rows of the table of quirks, by method.
        tables: the tables of the study.
        figures: the figures of the study.
    """

    name: str
    caution: str
    up: str
    threads: Threads
    launcher: Launcher
    compute: Compute
    seeds: tuple[Seed, ...]
    data: Data
    model: Model
    base_model: dict[str, Any]
    starts: dict[str, dict[str, Any]]
    train: FineTuning
    method: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    grid: dict[str, Any]
    evaluate: Evaluation
    protocols: dict[str, Protocol]
    attacks: dict[str, dict[str, Any]]
    eps_sweep: dict[str, EpsSweep]
    attention: dict[str, AttentionStudy]
    defences: dict[str, dict[str, Any]]
    defend: dict[str, Any] = field(default_factory=dict)
    likeness: dict[str, Likeness]
    quirks: dict[str, Quirk]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ValueError("attacks must have at least one, got none")
        if not self.methods:
            raise ValueError("methods must have at least one, got none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one, none twice, got {shown(list(self.seeds))}")
        if not re.fullmatch(r"(\.\./)*", self.up):
            raise ValueError(f"up must be '' or one or several times '../', got {shown(self.up)}")
        _among("evaluate.protocol", [self.evaluate.protocol], "protocols", self.protocols)
        _among("eps_sweep", self.eps_sweep, "attacks", self.attacks)
        _among("attention", self.attention, "data.sets", self.data.sets)
        _among("likeness", self.likeness, "starts", self.starts)
        _among("quirks", self.quirks, "methods", self.methods)
        _among("quirks.*.against", [quirk.against for quirk in self.quirks.values()], "methods", self.methods)
        for name, maps in self.attention.items():
            if self.data.sets[name].if_missing == "skip":
                raise ValueError(f"attention.{name} needs its set: data.sets.{name}.if_missing must be fail")
            _among(f"attention.{name}.attack", [maps.attack], "attacks", self.attacks)
            n = self.data.sets[name].test
            if not maps.shown <= maps.images <= n:
                raise ValueError(f"attention.{name}: shown <= images <= {n}, got {maps.shown} and {maps.images}")

    @property
    def judged(self) -> list[str]:
        """The sets that models are judged on. A linear head knows the classes of one set only."""
        return [self.data.source] if self.model.head == "linear" else list(self.data.sets)


def catalogue(study: Study, document: Mapping) -> dict[str, Any]:
    """The parts of the study, by name. Stages that go through the whole study depend on the catalogue."""
    facts = ("section", "module", "start", "base", "wings")
    attacks = {name: component(document, "attacks", name) for name in study.attacks}
    bases = study.base_model.get("seeds", [0])
    groups = {"all": study.judged, "source": [study.data.source]}
    return {
        "arch": study.model.arch,
        "bases": len(bases),  # number of base models
        "methods": {
            name: {key: method_row[key] for key in facts if key in method_row}
            for name, method_row in study.methods.items()
        },
        "attacks": {name: f"{255 * attack.eps:g}/255" for name, attack in attacks.items()},  # name -> eps
        "sets": list(study.data.sets),
        "judged": study.judged,
        "groups": groups if study.model.head == "linear" else study.data.groups(),
    }


def check(path: Path) -> Study:
    """The checked study of a params file. Raises ParamError with one line: file, key, value, choices."""
    document = read(path)
    try:
        _check_names(document)
        study = build(Study, document, "")
        for key in NAMED_BY_GRAPH:
            block(document, f"evaluate.{key}", str)
        for name in study.attacks:
            component(document, "attacks", name)
        for kind in ("starts", "methods"):
            for name in document[kind]:
                _check_row(document, study, kind, name)
        for name, sweep in study.eps_sweep.items():
            _check_sweep(name, sweep, component(document, "attacks", name))
        for name in study.defences:
            _check_defence(document, study, name)
        (_check_linear if study.model.head == "linear" else _check_clip)(document, study)
        _check_grid(document, study)
        _check_reports(study)
        _check_protocols(document)
        for name, size in study.data.sets.items():
            _check_registered(name)
            check_sizes(module_of("zsr.data.sets", name, f"data.sets.{name}"), {"train": size.train, "test": size.test})
    except (ParamError, ValueError) as error:
        raise ParamError(f"{path}: {error}") from None
    return study


def _check_registered(name: str) -> None:
    """Check that a set has an entry in the registry, which is a parameter of the stage `download`."""
    module_of("zsr.data.sets", name, f"data.sets.{name}")
    if name not in registry.local() and name not in registry.entries():
        raise ParamError(
            f"data.sets.{name}: zsr/data/registry.yaml has no entry of that name; add '{name}: {{made: drawn}}'"
        )


def _check_names(document: Mapping) -> None:
    """Check the names of rows, which become parts of paths, keys and commands."""
    for key in ("methods", "starts", "attacks", "defences", "shared", "protocols", "data.sets"):
        rows: Any = document
        for part in key.split("."):
            rows = rows.get(part) if isinstance(rows, Mapping) else None
        for name in rows if isinstance(rows, Mapping) else ():
            if not isinstance(name, str) or not IDENTIFIER.fullmatch(name):
                raise ParamError(
                    f"{key}: a name is small letters, digits and _ after a first letter, got {shown(name)}"
                    + "; it has at most 64" * (isinstance(name, str) and len(name) > 64)
                )
    if isinstance(document.get("attacks"), Mapping) and WORST in document["attacks"]:
        raise ParamError(f"attacks: '{WORST}' stands for all attacks together; choose another name")


def _check_sweep(name: str, sweep: EpsSweep, attack: Any) -> None:
    if not hasattr(attack, "step_size"):
        raise ParamError(f"eps_sweep.{name}: the attack must have a step_size, which grows with eps")
    step = attack.step_size * (sweep.eps[-1] / attack.eps)
    if step > 1:
        raise ParamError(
            f"eps_sweep.{name}.eps must be at most {attack.eps / attack.step_size:g}, where attacks.{name}.step_size, "
            f"which grows with eps, comes to 1; got {sweep.eps[-1]:g}"
        )


def _among(key: str, names: Iterable[str], kind: str, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise ValueError(f"{key} is none of {kind} ({cut(listed, 400)}): '{cut(name)}'{nearest(name, known)}")


def _check_row(document: Mapping, study: Study, kind: str, name: str) -> None:
    """Check the method of a row, its recipe and its start."""
    key, method = f"{kind}.{name}", component(document, kind, name)
    recipe = training_of(document, name, FineTuning, kind)
    if method.in_batch and recipe.accumulate > 1:
        raise ParamError(f"train.accumulate must be 1 for {name}, whose loss compares all images of a batch")
    named_row = row(document, kind, name)
    if named_row.start:
        _among(f"{key}.start", [named_row.start], "starts", study.starts)
    if named_row.sha256 and not named_row.file:
        raise ParamError(f"{key}.sha256 is of {key}.file, of which there is none")


def _check_defence(document: Mapping, study: Study, name: str) -> None:
    """Check a row of `defences`: its tower, its numbers, and the attacks and sets that it is judged on."""
    key, defence, on = f"defences.{name}", component(document, "defences", name), row(document, "defences", name).on
    if not on:
        raise ParamError(f"missing key '{key}.on', the row of methods whose tower is defended")
    _among(f"{key}.on", [on], "methods", study.methods)
    defending = defending_of(document, name)
    _among("defend.attacks", defending.attacks, "attacks", study.attacks)
    _among("defend.sets", defending.sets, "data.sets", study.judged)
    attacks = {one: component(document, "attacks", one) for one in defending.attacks}
    check_attacks(attacks, defence, "defend.attacks")
    for one, attack in attacks.items() if defending.checked else ():
        if attack.eps >= defending.large_eps:
            raise ParamError(
                f"defend.large_eps must be above attacks.{one}.eps, {255 * attack.eps:g}/255, got "
                f"{255 * defending.large_eps:g}/255"
            )
    if study.model.head == "linear" and (defence.needs_text or defence.needs_origin):
        raise ParamError(f"{key} needs CLIP, and this study has a linear head")


def _check_clip(document: Mapping, study: Study) -> None:
    """Check a study of CLIP: towers of open_clip, the base model, a set that training does not see."""
    arch = study.model.arch
    vit = isinstance(_checked_tower(arch, study.data.image_size)["layers"], int)
    for kind in ("starts", "methods"):
        for name in document[kind]:
            _check_fits_tower(component(document, kind, name), f"{kind}.{name}", arch, vit)
            accumulate = training_of(document, name, FineTuning, kind).accumulate
            if not vit and accumulate > 1:
                raise ParamError(
                    f"train.accumulate must be 1 for {arch}, whose BatchNorm needs whole batches, got {accumulate}"
                )
    base = base_of(document)
    if isinstance(base, Pretrained):
        pretrained.check(arch, base)
    elif len(base.seeds) > 1 and base.seeds != study.seeds:
        raise ParamError(
            f"base_model.seeds must be one seed or the same list as seeds, {list(study.seeds)}, got {list(base.seeds)}"
        )
    there = {name for name, size in study.data.sets.items() if size.if_missing == "fail"}
    if not there - {study.data.source, *study.data.controls}:
        raise ParamError(
            "data.sets needs one besides the source and the controls that cannot be left out, "
            f"got {', '.join(study.data.sets)}"
        )


def _check_fits_tower(method: Any, key: str, arch: str, vit: bool) -> None:
    if method.needs_blocks and not vit:
        raise ParamError(f"{key} needs a ViT, which {arch} is not; take it out of methods")
    if method.needs_norm and vit:
        raise ParamError(
            f"{key} needs a tower with BatchNorm, such as RN50; {arch} is a ViT, whose LayerNorm has no statistics"
        )


def _check_linear(document: Mapping, study: Study) -> None:
    """Check a study of linear heads: a tower of this project, methods that read no text."""
    arches = ("small", *WIDTHS)
    build(Literal[arches], study.model.arch, "model.arch")
    for kind in ("starts", "methods"):
        for name in document[kind]:
            method, key = component(document, kind, name), f"{kind}.{name}"
            if method.needs_text or method.needs_blocks:
                raise ParamError(f"{key} needs class prompts or a ViT; a ResNet with a linear head has neither")
            if method.norm_stats != "clip":
                raise ParamError(
                    f"{key}.norm_stats must be clip, which stands for the tower's own, got '{method.norm_stats}'"
                )
            if training_of(document, name, FineTuning, kind).accumulate > 1:
                raise ParamError("train.accumulate must be 1 for a ResNet, whose BatchNorm needs whole batches")
            if row(document, kind, name).file and study.model.arch == "small":
                raise ParamError(f"model.arch must be one of {', '.join(WIDTHS)} where {key} is a file, got 'small'")
    rows: dict[tuple[str, str], str] = {}
    for name, method_row in study.methods.items():
        same = rows.setdefault(start_and_method(method_row), name)
        if same != name:
            raise ParamError(
                f"methods.{name} has the start and the section of methods.{same}, which name a row of the tables; "
                "give it a block of its own under shared"
            )
    for name, likeness in study.likeness.items():
        _check_likeness(study, name, likeness)


def _check_likeness(study: Study, name: str, likeness: Likeness) -> None:
    most, features = study.data.sets[study.data.source].test, study.model.backbone.features
    if likeness.images > most:
        key = f"data.sets.{study.data.source}.test"
        raise ParamError(f"likeness.{name}.images must be at most {most}, {key}, got {likeness.images}")
    if "cca" in likeness.measures and likeness.images <= features:
        raise ParamError(
            f"likeness.{name}.images must be above {features}, features of {study.model.arch}, for cca, "
            f"got {likeness.images}"
        )


def _check_grid(document: Mapping, study: Study) -> None:
    grid: Grid | None = grid_of(document)
    if not grid:
        return
    images = study.data.sets[study.data.source].train
    if grid.held_out >= images:
        raise ParamError(
            f"grid.held_out must be below data.sets.{study.data.source}.train, {images}, got {grid.held_out}"
        )
    grid.made_attack  # noqa: B018  raises ParamError where the block is wrong
    for name in study.methods:
        named_row = row(document, "methods", name)
        if "lr" in named_row.train:
            raise ParamError(f"{named_row.key}.train.lr: rates are in grid.lrs, the same for all methods")


NEEDS = {  # a table or figure that only some studies have -> the part of params.yaml that it needs
    "rates": "grid",
    "effective_rate": "grid",
    "transfer": "model.head: linear",
    "differences": "model.head: linear",
    "robustness": "model.head: linear",
    "likeness": "likeness",
    "defences": "defences",
    "eps_sweep": "eps_sweep",
    "quirks": "quirks",
    "training": "an empty grid",
}


def _check_reports(study: Study) -> None:
    """Check that the study has the contents of its tables and figures, which are the last stages of a long run."""
    there = {
        "grid": study.grid,
        "an empty grid": not study.grid,
        "model.head: linear": study.model.head == "linear",
        "likeness": study.likeness,
        "defences": study.defences,
        "eps_sweep": study.eps_sweep,
        "quirks": study.quirks,
    }
    for kind, names in {"tables": study.tables, "figures": study.figures}.items():
        for name in names:
            if name in NEEDS and not there[NEEDS[name]]:
                raise ParamError(f"{kind}: '{name}' needs {NEEDS[name]}, which this study does not have")
    for set_name, maps in study.attention.items():
        _among(f"attention.{set_name}.methods", maps.methods, "methods", study.methods)


def _check_protocols(document: dict) -> None:
    """Check every protocol, also the protocols that are not chosen."""
    for name in document["protocols"]:
        changed = under_protocol(document, name)
        try:
            block(changed, "evaluate", Evaluation)
            for attack in changed["attacks"]:
                component(changed, "attacks", attack)
        except ParamError as error:
            raise ParamError(f"protocols.{name}: {error}") from None


def _checked_tower(arch: str, image_size: int) -> dict[str, Any]:
    """The image tower in the config file of an arch. The file is read directly, since importing open_clip is slow."""
    open_clip = find_spec("open_clip")
    assert open_clip is not None and open_clip.origin is not None
    folders = [
        Path(open_clip.origin).parent / "model_configs",
        Path(__file__).parent / "models" / "configs",
    ]
    configs = {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}
    if arch not in configs:
        raise ParamError(f"model.arch must be a model name of open_clip, got {shown(arch)}{nearest(arch, configs)}")
    config = read_json(configs[arch])
    tower, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if "timm_model_name" in tower or "layers" not in tower or "hf_model_name" in text:
        raise ParamError(
            f"model.arch must have OpenAI's towers, a ViT or ResNet and a text transformer; '{arch}' has others"
        )
    side = tower["image_size"]
    if image_size > side or image_size != side and isinstance(tower["layers"], int):
        most = "at most " * isinstance(tower["layers"], list)
        raise ParamError(f"data.image_size must be {most}what {arch} sees, {side}, got {image_size}")
    return tower
