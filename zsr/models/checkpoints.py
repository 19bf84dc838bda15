"""Read, check and write image towers, in the published code's file formats and in ours.

There are three formats. "zsr": a whole open_clip model as safetensors; the tower's names begin with `visual.`.
"official": the training dict of TGA-ZSR, PMG-AFT and TeCoA; the tower lies under `vision_encoder_state_dict`.
"robustvlm": the state dict of the tower and nothing else. Files of the last two formats hold towers of OpenAI's form.
Such a tower computes QuickGELU, which its weights do not show, so a model of another activation is refused. Pickles are
read as weights only: no code in a file is run.
"""

import io
import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from zsr import files
from zsr.models import clip
from zsr.models.heads import NormStats, tower_of
from zsr.params import StudyError, nearest

FORMATS = ("zsr", "official", "robustvlm")
TOWER, PREFIX = "vision_encoder_state_dict", "visual."


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        format: one of FORMATS.
        tower: the weights of the image tower under the names of open_clip's `visual`, fp32, on the CPU.
        rest: the other weights of a whole model under open_clip's names; empty where the file holds a tower alone.
        arch: the open_clip name that the file was written for; None: the file does not say.
    """

    format: str
    tower: dict[str, Tensor]
    rest: dict[str, Tensor]
    arch: str | None


class _Ignored:
    """A stand-in for NumPy's scalars in a pickle. The published best_acc1 is such a scalar; it is not needed here."""

    def __init__(self, *state: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


IGNORED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, f"numpy.{name}") for name in ("dtype", "core.multiarray.scalar", "_core.multiarray.scalar")
]


def openai_names(layers: int) -> list[str]:
    """Names of the parameters of an OpenAI image tower with `layers` blocks."""
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    block = [f"attn.{name}" for name in attention]
    block += [f"{part}.{kind}" for part in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")]
    blocks = [f"transformer.resblocks.{i}.{name}" for i in range(layers) for name in block]
    norms = [f"{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")]
    return ["class_embedding", "positional_embedding", "proj", "conv1.weight", *norms, *blocks]


def read(path: Path) -> Checkpoint:
    """Read a checkpoint file of any of the FORMATS. The content of the file tells the format.

    Raises StudyError with a message of one line: the file does not exist; it is damaged; it asks to run code on
    loading; it holds no image tower; it holds a learnt visual or token prompt beside the tower. In the last case the
    tower alone would be another model.
    """
    stored, facts = _stored(path)
    if TOWER in stored:
        for key in ("state_dict", "add_prompter"):
            prompt = stored.get(key)
            if isinstance(prompt, Mapping) and any(isinstance(t, Tensor) and t.numel() for t in prompt.values()):
                raise StudyError(f"{path}: holds a learnt prompt beside the tower ('{key}'), which has no place here")
        return Checkpoint("official", _weights(path, stored[TOWER]), {}, None)
    weights = _weights(path, stored)
    tower = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items() if name.startswith(PREFIX)}
    if tower:
        rest = {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}
        return Checkpoint("zsr", tower, rest, facts.get("arch"))
    if "conv1.weight" not in weights:
        raise StudyError(f"{path}: no image tower of CLIP in it; it holds {_first_names(weights)}")
    return Checkpoint("robustvlm", weights, {}, None)


def read_visual(path: Path) -> dict[str, Tensor]:
    """The image tower in a file of any of the FORMATS, under the names of `visual`, fp32. Errors: see `read`."""
    return read(path).tower


def build(arch: str) -> nn.Module:
    """A CLIP with random weights of an open_clip name. Raises StudyError: no such name; towers not of OpenAI's kind."""
    names = clip.library().list_models()
    if arch not in names:
        raise StudyError(f"arch must be a model name of open_clip, got '{arch}'{nearest(arch, names)}")
    if not _is_openais_kind(clip.library().get_model_config(arch)):
        raise StudyError(f"arch must have OpenAI's towers, a ViT and a text transformer; '{arch}' has others")
    with _without_notice():
        return clip.create(arch)


def load_visual(model: nn.Module, arch: str, path: Path) -> None:
    """Load the tower of a file into model.visual. A file that is refused changes nothing.

    model: an open_clip model of the name arch. Raises StudyError: the cases of `read`; names or shapes differ; the file
    holds a tower of OpenAI's form and the model computes differently, for example without QuickGELU; the file was
    written for another arch.
    """
    checkpoint = read(path)
    _check_made_for(path, checkpoint, model, arch)
    _check_fit(path, arch, checkpoint.tower, tower_of(model).state_dict(), checkpoint)
    tower_of(model).load_state_dict(checkpoint.tower)


def load_whole(model: nn.Module, arch: str, path: Path) -> None:
    """Load both towers of a file into an open_clip model of the name arch. Raises StudyError as `load_visual` does."""
    checkpoint = read(path)
    if checkpoint.format != "zsr":
        raise StudyError(f"{path}: the base must be a whole CLIP model; this is the image tower alone")
    _check_made_for(path, checkpoint, model, arch)
    whole = {f"{PREFIX}{name}": tensor for name, tensor in checkpoint.tower.items()} | checkpoint.rest
    _check_fit(path, arch, whole, model.state_dict(), checkpoint)
    model.load_state_dict(whole)


def write_whole(path: Path, model: nn.Module, arch: str, norm_stats: NormStats = "clip") -> None:
    """Write the format "zsr", which `zsr.models.clip.create(arch, path)` loads."""
    with _writing(path):
        clip.save(path, model, arch, norm_stats)


def write_official(path: Path, model: nn.Module, arch: str, epoch: int = 0) -> None:
    """Write the training dict that the published code resumes from: model.visual after `epoch` epochs.

    Entries that we do not have take their values at the start of a training: no prompt, an optimiser without momentum
    buffers, best accuracy 0. Raises StudyError where the published code would compute something else with these
    weights.
    """
    tower = _openai_tower(path, model, arch)
    content = {
        "epoch": epoch,
        "state_dict": OrderedDict(),
        "add_prompter": OrderedDict(
            prompt=torch.zeros(1, 0, 768)
        ),  # the published width, whatever the width of the tower
        "best_acc1": 0.0,
        # TeCoA's resume loads the optimiser; the published loop sets lr before every step
        "optimizer": torch.optim.SGD(tower_of(model).parameters(), lr=1e-5, momentum=0.9).state_dict(),
        TOWER: tower,
    }
    _write(path, content)


def write_robustvlm(path: Path, model: nn.Module, arch: str) -> None:
    """Write the bare state dict of model.visual. Raises StudyError as `write_official` does."""
    _write(path, _openai_tower(path, model, arch))


def convert(
    source: Path,
    out: Path,
    arch: str,
    to: str,
    base: Path | None = None,
    epoch: int = 0,
    norm_stats: NormStats = "clip",
) -> None:
    """Write the image tower of a file in another of the FORMATS.

    base: a file of a whole model of the same arch; all weights but the image tower come from it. Only the format "zsr"
    takes a base, and it needs one. epoch: the number of trained epochs that an official file records. norm_stats: the
    pixel statistics that the tower was trained with. No published file records them; among the formats written here
    only "zsr" does. Raises StudyError.
    """
    if (to == "zsr") != (base is not None):
        requirement = (
            "needs a base for all but the image tower" if base is None else "takes no base: it is a tower alone"
        )
        raise StudyError(f"a file of the format '{to}' {requirement}")
    model = build(arch)
    if base is not None:
        load_whole(model, arch, base)
    load_visual(model, arch, source)
    if to == "zsr":
        write_whole(out, model, arch, norm_stats)
    elif to == "official":
        write_official(out, model, arch, epoch)
    else:
        write_robustvlm(out, model, arch)


def _stored(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The mapping in a file, and its facts; {} where the format has no facts."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file begins with eight bytes, the length of its header; the header begins with a brace.
        stored, facts = files.load_tensors(path) if start[8:] == b"{" else (_unpickled(path), {})
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file may raise any exception
        raise StudyError(f"{path}: {_refusal(error)}") from None
    if not isinstance(stored, Mapping) or not isinstance(facts, dict):
        raise StudyError(f"{path}: must hold named weights, got a {type(stored).__name__}")
    return stored, facts


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(IGNORED):
        warnings.simplefilter("ignore")  # torch warns of a TorchScript archive, which is refused below in one line
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(error: Exception) -> str:
    """Why a file was not loaded. torch's message has many lines and advises to load the file all the same."""
    match = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    if match:
        return f"asks to run '{match[1]}' on loading; only plain weights are read, so nothing of it was loaded or run"
    if "TorchScript" in str(error):
        return "a TorchScript archive, which holds code; let open_clip load it and save its state dict"
    return f"not a checkpoint of plain weights, or a damaged one ({type(error).__name__})"


def _weights(path: Path, stored: Any) -> dict[str, Tensor]:
    """The tensors of a state dict in fp32. The prefix `module.`, which DataParallel adds to every name, is removed."""
    if (
        not isinstance(stored, Mapping)
        or not stored
        or not all(isinstance(tensor, Tensor) for tensor in stored.values())
    ):
        content = _first_names(stored) if isinstance(stored, Mapping) else type(stored).__name__
        raise StudyError(f"{path}: no image tower of CLIP in it; it holds {content}")
    parallel = all(str(name).startswith("module.") for name in stored)
    weights = {}
    for name, tensor in stored.items():
        if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta:
            raise StudyError(f"{path}: {name} holds no plain floating-point numbers: {tensor.dtype} {tensor.layout}")
        weights[str(name).removeprefix("module.") if parallel else str(name)] = tensor.detach().float()
    return weights


def _check_made_for(path: Path, checkpoint: Checkpoint, model: nn.Module, arch: str) -> None:
    """Compare what weights do not show: the computation of the model, and the arch that the file was written for."""
    if checkpoint.format != "zsr":
        _check_openai(f"{path} holds a tower of OpenAI's form", tower_of(model), arch)
    elif checkpoint.arch not in (None, arch):
        raise StudyError(f"{path} was written for '{checkpoint.arch}', not for '{arch}'")


def _check_openai(why: str, tower: nn.Module, arch: str) -> None:
    """Refuse a tower that computes differently from OpenAI's with the same weights. why: beginning of the message."""
    if not isinstance(tower, VisionTransformer):
        raise StudyError(f"{why}; '{arch}' has a {type(tower).__name__}")
    blocks, differences = tower.transformer.resblocks, []
    other_names = set(tower.state_dict()) ^ set(openai_names(len(blocks)))
    if other_names:
        differences.append(f"other parameters ({_first_names(sorted(other_names))})")
    if tower.pool_type != "tok" or tower.attn_pool is not None or tower.final_ln_after_pool:
        differences.append(f"a pooling of its own ('{tower.pool_type}'), not the CLS token")
    if any(block.attn.num_heads * 64 != block.attn.out_proj.out_features for block in blocks):
        differences.append("heads of another width than 64")
    gelus = sorted({type(block.mlp.gelu).__name__ for block in blocks} - {QuickGELU.__name__})
    advice = ""
    if gelus:
        differences.append(f"{' and '.join(gelus)}, not QuickGELU")
        quick_arch = f"{arch}-quickgelu"
        advice = (
            f": use '{quick_arch}'"
            if quick_arch in clip.library().list_models()
            else f" (open_clip has no '{quick_arch}')"
        )
    if differences:
        raise StudyError(f"{why}; '{arch}' has {'; '.join(differences)}{advice if len(differences) == 1 else ''}")


def _openai_tower(path: Path, model: nn.Module, arch: str) -> OrderedDict[str, Tensor]:
    """A copy of the weights of model.visual, on the CPU. Raises StudyError where they are not of OpenAI's form."""
    _check_openai(f"{path} would hold a tower of OpenAI's form", tower_of(model), arch)
    whole = torch.contiguous_format
    state = tower_of(model).state_dict()
    return OrderedDict((name, tensor.detach().cpu().clone(memory_format=whole)) for name, tensor in state.items())


def _check_fit(
    path: Path, arch: str, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], checkpoint: Checkpoint
) -> None:
    """Compare names and shapes. The message of the error ends with the arch that has the file's shapes, if any."""
    reshaped = [name for name in expected if name in stored and stored[name].shape != expected[name].shape]
    differences = {
        "missing": [name for name in expected if name not in stored],
        "unexpected": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {tuple(stored[name].shape)}, not {tuple(expected[name].shape)}" for name in reshaped
        ],
    }
    messages = [f"{what}: {_first_names(names)}" for what, names in differences.items() if names]
    if messages:
        raise StudyError(f"{path} does not fit '{arch}'; {'; '.join(messages)}{_likely(checkpoint, arch)}")


def _likely(checkpoint: Checkpoint, arch: str) -> str:
    """The end of a message: the open_clip name whose tower has the shapes of the file's tower, or these shapes."""
    tower = checkpoint.tower
    shapes = [tower[name].shape for name in ("conv1.weight", "positional_embedding", "proj") if name in tower]
    if [len(shape) for shape in shapes] != [4, 2, 2]:
        return "; the file's tower is no ViT"
    layers = sum(name.endswith(".ln_1.weight") for name in tower)
    (width, _, patch, _), (tokens, _), (_, embedding) = shapes
    for name in clip.library().list_models():
        config = clip.library().get_model_config(name)
        if name == arch or not _is_openais_kind(config):
            continue
        vision = config["vision_cfg"]
        if checkpoint.format != "zsr" and not (config.get("quick_gelu") and vision.get("head_width", 64) == 64):
            continue  # this arch would be refused as well
        seen = (vision["width"], vision["patch_size"], vision["layers"], config["embed_dim"])
        if seen == (width, patch, layers, embedding) and (vision["image_size"] // patch) ** 2 + 1 == tokens:
            return f"; its shapes are those of '{name}'"
    return (
        f"; it is a ViT of width {width}, patch {patch}, {layers} layers, {tokens - 1} patches, embedding {embedding}"
    )


def _is_openais_kind(config: Mapping[str, Any]) -> bool:
    """Does open_clip build both towers of a model config itself, the image tower as a ViT?"""
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    sizes = ("width", "patch_size", "layers", "image_size")
    foreign = "timm_model_name" in vision or "hf_model_name" in text
    return not foreign and all(isinstance(vision.get(size), int) for size in sizes)


def _first_names(names: Any, shown: int = 2) -> str:
    names = list(map(str, names))
    more = len(names) - shown
    return (", ".join(names[:shown]) or "nothing") + (f" and {more} more" if more > 0 else "")


def _write(path: Path, content: Any) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with _writing(path):
        files.write_atomic(path, buffer.getvalue())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or error}") from None


@contextmanager
def _without_notice() -> Iterator[None]:
    """Silence open_clip's warning of random weights. The weights are replaced afterwards, or never used."""

    def is_other_record(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in record.getMessage()

    logging.getLogger().addFilter(is_other_record)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_other_record)
