"""The whole of params.yaml, put together and checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from zsr.attention_study import AttentionStudy
from zsr.data.sources import check_sizes
from zsr.data.world import Data
from zsr.eps_sweep import EpsSweep
from zsr.errors import ParamError
from zsr.evaluate import Evaluation, Protocol
from zsr.finetune import FineTuning
from zsr.models import pretrained
from zsr.models.numerics import Compute
from zsr.models.pretrained import Pretrained
from zsr.params import Count, Natural, block, build, component, module_of, nearest, read, training_of, under_protocol
from zsr.pretrain import base_of
from zsr.storage import read_json

Launcher = Literal["python", "torchrun"]


@dataclass(frozen=True, kw_only=True)
class Model:
    arch: str  # a model name of open_clip


@dataclass(frozen=True, kw_only=True)
class Study:
    """Every key of params.yaml. The blocks of methods and attacks are checked by the classes they configure."""

    name: str  # of the study, in titles
    up: Literal["", "../"]  # from the folder of params.yaml to the repository's root
    threads: Count  # of the CPU, in every stage that computes
    launcher: Launcher  # of fine-tuning and evaluation; torchrun: a process for each GPU
    compute: Compute
    seeds: tuple[Natural, ...]  # of fine-tuning: order of batches, noise of the training attack
    data: Data
    model: Model
    base_model: dict[str, Any]
    train: FineTuning
    method: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    evaluate: Evaluation
    attacks: dict[str, dict[str, Any]]
    attention: AttentionStudy
    eps_sweep: EpsSweep
    protocols: dict[str, Protocol] = field(default_factory=dict)  # evaluate.protocol names the one in force

    def __post_init__(self):
        if not self.attacks:
            raise ValueError("attacks must have at least one, got none")
        if not self.methods:
            raise ValueError("methods must have at least one, got none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one, none twice, got {list(self.seeds)}")
        chosen, listed = self.evaluate.protocol, ", ".join(self.protocols) or "none"
        if chosen not in self.protocols:
            close = nearest(chosen, self.protocols)
            raise ValueError(f"evaluate.protocol is none of protocols ({listed}): {chosen!r}{close}")
        swept = self.eps_sweep.attack
        if swept not in self.attacks:
            raise ValueError(f"eps_sweep.attack is none of attacks ({', '.join(self.attacks)}): '{swept}'")
        shown = self.attention
        if shown.set not in self.data.sets:
            raise ValueError(f"attention.set is none of data.sets ({', '.join(self.data.sets)}): '{shown.set}'")
        if shown.attack not in self.attacks:
            raise ValueError(f"attention.attack is none of attacks ({', '.join(self.attacks)}): '{shown.attack}'")
        if not shown.columns <= shown.images <= self.data.sets[shown.set].test:
            n = self.data.sets[shown.set].test
            raise ValueError(f"attention: columns <= images <= {n}, got {shown.columns} and {shown.images}")


def check(path: Path) -> Study:
    """The study that a params file describes. Raises ParamError with one line: file, key, value, choices."""
    document = read(path)
    try:
        study = build(Study, document, "")
        check_components(document, study.model, study.data)
        swept = study.eps_sweep.attack
        if not hasattr(component(document, "attacks", swept), "step_size"):
            raise ParamError(f"eps_sweep.attack must have a step_size, which grows with eps; '{swept}' has none")
        _check_protocols(document)
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None
    return study


def check_components(document: Mapping, model: Model, data: Data) -> None:
    """Methods, attacks, base model and sets of a document, each by itself and with the tower. Raises ParamError."""
    for kind in ("methods", "attacks"):
        for name in document[kind]:
            component(document, kind, name)
    for name in document["methods"]:
        _check_training(document, name)
    layers = _checked_tower(model.arch, data.image_size)["layers"]
    for name in document["methods"]:
        _check_tower_of(component(document, "methods", name), f"methods.{name}", model.arch, isinstance(layers, int))
    base = base_of(document)
    if isinstance(base, Pretrained):
        pretrained.check(model.arch, base)
    for name, size in data.sets.items():
        check_sizes(module_of("zsr.data.sets", name, f"data.sets.{name}"), {"train": size.train, "test": size.test})


def _check_tower_of(method, key: str, arch: str, vit: bool) -> None:
    if method.needs_blocks and not vit:
        raise ParamError(f"{key} needs a ViT, which {arch} is not; take it out of methods")
    if method.needs_norm and vit:
        raise ParamError(
            f"{key} needs a tower with BatchNorm, such as RN50; {arch} is a ViT, whose LayerNorm has no statistics"
        )


def _check_training(document: Mapping, name: str) -> None:
    recipe = training_of(document, name, FineTuning)
    if component(document, "methods", name).in_batch and recipe.accumulate > 1:
        raise ParamError(f"train.accumulate must be 1 for {name}, whose loss compares all images of a batch")


def _check_protocols(document: dict) -> None:
    """Every protocol must make sense, also those that are not chosen."""
    under_protocol(document)
    for name in document.get("protocols", {}):
        changed = under_protocol(document, name)
        try:
            block(changed, "evaluate", Evaluation)
            for attack in changed["attacks"]:
                component(changed, "attacks", attack)
        except ParamError as error:
            raise ParamError(f"protocols.{name}: {error}") from None


def _checked_tower(arch: str, image_size: int) -> dict[str, Any]:
    """What the config file of an arch says of its image tower; importing open_clip takes seconds."""
    folders = [
        Path(find_spec("open_clip").origin).parent / "model_configs",
        Path(__file__).parent / "models" / "configs",
    ]
    configs = {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}
    if arch not in configs:
        raise ParamError(f"model.arch must be a model name of open_clip, got '{arch}'{nearest(arch, configs)}")
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
