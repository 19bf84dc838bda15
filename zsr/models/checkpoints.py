"""Read, check and write CLIP's weights: the layouts of published checkpoints, and our own.

LAYOUTS is the table of the layouts that are read. The content of a file tells its layout. FORMATS are the three that
are written, too. "zsr": a whole open_clip model of ours as safetensors. "official": the training dict of TGA-ZSR,
PMG-AFT, TeCoA and SAFT. "robustvlm": the state dict of the tower and nothing else.

Weights show neither the activation nor the pixel statistics that they were trained with. Where neither the file nor its
layout tells them, the caller must state them. Pickles are read as weights only: no code in a file is run. An archive of
TorchScript is loaded only where its sha256 is a known one.
"""

import hashlib
import io
import logging
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from zsr import files
from zsr.models import clip, heads
from zsr.models.heads import NormStats, tower_of
from zsr.params import StudyError, line_of, nearest, require_plain

FORMATS = ("zsr", "official", "robustvlm")
TOWER, PREFIX = "vision_encoder_state_dict", "visual."
Activation = Literal["", "gelu", "quickgelu"]  # "": not stated
Stats = Literal["", NormStats]  # "": not stated


@dataclass(frozen=True)
class Layout:
    """A layout of files of weights.

    Attributes:
        place: the keys that lead to the tower in the dict of a training; (): the weights tell the layout.
        prompts: the keys of that dict whose tensors are a learnt prompt. Without the prompt the tower is another model.
        openais: True where the towers are known to be of OpenAI's form: QuickGELU, CLS token, heads of width 64.
        norm_stats: the pixel statistics of a file that records none; "": the caller must state them.
    """

    place: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    openais: bool = False
    norm_stats: Stats = "clip"


LAYOUTS = {
    "zsr": Layout(),  # ours: safetensors with facts, a whole model or a tower
    "official": Layout((TOWER,), ("state_dict", "add_prompter"), openais=True, norm_stats=""),
    "agft": Layout(("modules", "clip.visual"), ("params",), openais=True),
    "openai": Layout(openais=True),  # a TorchScript archive whose digest is in ARCHIVES
    "transformers": Layout(),  # CLIPModel, or CLIPVisionModelWithProjection
    "open_clip": Layout(),  # a state dict whose tower's names begin with `visual.`
    "robustvlm": Layout(openais=True),  # the state dict of a tower
}
ARCHIVES = {  # sha256 of OpenAI's TorchScript archives of ViTs, from the addresses in open_clip's table of weights
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B-32",
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f": "ViT-B-16",
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836": "ViT-L-14",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02": "ViT-L-14-336",
}

# Parts of names that a wrapper, a compiler or a training's dict adds. The first are removed wherever they stand, the
# others only before a name. The others are also keys of dicts that hold a state dict.
ANYWHERE = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
BEFORE = {
    *("state_dict", "model_state_dict", "model_state", "model", "module", "base_model", "wrapped_model", "net"),
    *("network", "backbone", "encoder", "trunk", "student", "clip", "clip_model", "image_encoder", "vision_encoder"),
    *("visual_encoder", "vision_tower"),
}
BUFFERS = {"position_ids", "input_resolution", "context_length", "vocab_size", "attn_mask"}  # no weights, ignored
TEXT = {  # first parts of the names of weights outside the image tower
    *("transformer", "text", "token_embedding", "positional_embedding", "ln_final", "text_projection"),
    *("logit_scale", "logit_bias"),
}
TRANSFORMERS = (  # names of transformers' CLIPModel, and open_clip's
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("visual_projection.weight", "visual.proj"),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_projection.weight", "text_projection"),
    (".self_attn.", ".attn."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        format: the name of its layout in LAYOUTS.
        tower: the weights of the image tower under the names of open_clip's `visual`, fp32, on the CPU.
        rest: the other weights of a whole model under open_clip's names; empty where the file holds a tower alone.
        arch: the open_clip name that the file was written for; None: the file does not say.
        norm_stats: the pixel statistics that the file records; "": the file does not say.
    """

    format: str
    tower: dict[str, Tensor]
    rest: dict[str, Tensor]
    arch: str | None
    norm_stats: Stats = ""


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
    """Read a checkpoint file of any of the LAYOUTS. The content of the file tells the layout.

    Raises StudyError with a message of one line: the file does not exist; it is damaged; it asks to run code on
    loading; it holds no image tower; a value is not finite; it holds a learnt visual or token prompt beside the tower.
    In the last case the tower alone would be another model.
    """
    stored, facts, is_archive = _stored(path)
    name, state = ("openai", stored) if is_archive else _state_dict(path, stored)
    weights = _weights(path, state)
    if any(key.startswith("vision_model.") for key in weights):
        name, weights = name or "transformers", _translated(path, weights)
    tower = {key.removeprefix(PREFIX): tensor for key, tensor in weights.items() if key.startswith(PREFIX)}
    rest = {key: tensor for key, tensor in weights.items() if not key.startswith(PREFIX)}
    if not tower:
        if "conv1.weight" not in weights:
            raise _no_tower(path, state)
        name, tower, rest = name or "robustvlm", weights, {}
    arch, norm_stats = _recorded(path, facts)
    if arch is not None or norm_stats:
        name = "zsr"
    return Checkpoint(name or "open_clip", tower, rest, arch, norm_stats)


def read_visual(path: Path) -> dict[str, Tensor]:
    """The image tower in a file of any of the LAYOUTS, under the names of `visual`, fp32. Errors: see `read`."""
    return read(path).tower


def build(arch: str) -> nn.Module:
    """A CLIP with random weights of an open_clip name. Raises StudyError: no such name; towers not of OpenAI's kind."""
    names = clip.library().list_models()
    if arch not in names:
        raise StudyError(f"arch must be a model name of open_clip, got '{_shown(arch)}'{nearest(arch, names)}")
    if not _is_openais_kind(clip.library().get_model_config(arch)):
        raise StudyError(f"arch must have OpenAI's towers, a ViT and a text transformer; '{arch}' has others")
    with _without_notice():
        return clip.create(arch)


def load_visual(model: nn.Module, arch: str, path: Path, activation: Activation = "", norm_stats: Stats = "") -> None:
    """Load the tower of a file into model.visual, with its pixel statistics. A file that is refused changes nothing.

    Args:
        model: an open_clip model of the name arch.
        arch: the model's name in open_clip.
        path: a file in any of the LAYOUTS.
        activation: the activation that the weights were trained with. It must be stated where neither the file nor its
            layout tells it and open_clip has both `arch` and `arch`-quickgelu.
        norm_stats: the mean and std of pixels that the tower was trained with. It must be stated for the layout
            "official"; else it is what the file records, or "clip".

    Raises:
        StudyError: the cases of `read`; names or shapes differ; the file holds a tower of OpenAI's form and the model
            computes differently, for example without QuickGELU; the file was written for another arch; a statement is
            lacking, or contradicts the file or the model.
    """
    _check_stated(activation, norm_stats)
    _put_visual(model, arch, path, read(path), activation, norm_stats)


def load_whole(model: nn.Module, arch: str, path: Path, activation: Activation = "", norm_stats: Stats = "") -> None:
    """Load both towers of a file into an open_clip model of the name arch. Arguments and errors: see `load_visual`."""
    _check_stated(activation, norm_stats)
    _put_whole(model, arch, path, read(path), activation, norm_stats)


def open_model(
    path: Path,
    arch: str,
    base: Path | None = None,
    activation: Activation = "",
    norm_stats: Stats = "",
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """A CLIP model from files, in eval mode, fp32, on the CPU.

    Args:
        path: a whole model or an image tower in any of the LAYOUTS.
        arch: the model's name in open_clip.
        base: a file of a whole model of the same arch, for all weights but the image tower. An image tower needs one.
        activation: as of `load_visual`, for both files.
        norm_stats: as of `load_visual`, for `path`.
        checkpoint: what `read` gives of `path`, where it has been read.

    Raises:
        StudyError: no such arch; an image tower without a base; the cases of `load_visual`.
    """
    _check_stated(activation, norm_stats)
    model, checkpoint = build(arch), checkpoint or read(path)
    if base is not None:
        _put_whole(model, arch, base, read(base), activation, "")
        _put_visual(model, arch, path, checkpoint, activation, norm_stats)
    elif checkpoint.rest:
        _put_whole(model, arch, path, checkpoint, activation, norm_stats)
    else:
        raise StudyError(f"{path} holds the image tower alone: it needs a base, the file of a whole model of '{arch}'")
    return model


def write_whole(path: Path, model: nn.Module, arch: str, norm_stats: Stats = "") -> None:
    """Write the format "zsr", which `zsr.models.clip.create(arch, path)` loads.

    norm_stats: the pixel statistics that the file records; by default those of the model.
    """
    with _writing(path):
        clip.save(path, model, arch, norm_stats or heads.norm_stats(model))


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
    if heads.norm_stats(model) != "clip":
        raise StudyError(f"{path}: RobustVLM's code has CLIP's pixel statistics, and the tower was trained with others")
    _write(path, _openai_tower(path, model, arch))


def convert(
    source: Path,
    out: Path,
    arch: str,
    to: str,
    base: Path | None = None,
    epoch: int = 0,
    activation: Activation = "",
    norm_stats: Stats = "",
) -> None:
    """Write the image tower of a file in another of the FORMATS. A whole model stays whole in the format "zsr".

    Args:
        source: a file in any of the LAYOUTS.
        out: the file to write.
        arch: the model's name in open_clip.
        to: one of FORMATS.
        base: a file of a whole model of the same arch; all weights but the image tower come from it. Only the format
            "zsr" takes a base. It needs one where the source is an image tower alone.
        epoch: the number of trained epochs that an official file records.
        activation: as of `load_visual`.
        norm_stats: as of `load_visual`. Among the formats written here only "zsr" records them.

    Raises:
        StudyError: the cases of `open_model` and `write_official`.
    """
    if to not in FORMATS:
        raise StudyError(f"to must be one of {', '.join(FORMATS)}, got '{to}'{nearest(to, FORMATS)}")
    if to == "zsr":
        return write_whole(out, open_model(source, arch, base, activation, norm_stats), arch)
    if base is not None:
        raise StudyError(f"a file of the format '{to}' takes no base: it is a tower alone")
    model = build(arch)
    load_visual(model, arch, source, activation, norm_stats)
    if to == "official":
        write_official(out, model, arch, epoch)
    else:
        write_robustvlm(out, model, arch)


def _stored(path: Path) -> tuple[Mapping[Any, Any], dict[str, Any], bool]:
    """The mapping in a file, its facts, and whether it is an archive of TorchScript; {} for a file without facts."""
    stored: Any
    facts: Any = {}
    start = b""
    try:
        require_plain(path)
        with path.open("rb") as file:
            start = file.read(9)
        archived = is_archive(path)
        # A safetensors file begins with eight bytes, the length of its header; the header begins with a brace.
        if start[8:] == b"{":
            stored, facts = files.load_tensors(path)
        else:
            stored = _unarchived(path) if archived else _unpickled(path)
    except files.Unusable as error:
        raise StudyError(f"{path}: {_refusal(error)}: it {error.reason}") from None
    except StudyError:
        raise
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or type(error).__name__}") from None
    except Exception as error:  # a damaged file may raise any exception
        raise StudyError(f"{path}: {_refusal(error)}{_in_its_place(start)}") from None
    if not isinstance(stored, Mapping) or not isinstance(facts, dict):
        raise StudyError(f"{path}: must hold named weights, got a {type(stored).__name__}")
    return stored, facts, archived


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(IGNORED):
        warnings.simplefilter("ignore")
        files.check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)


def is_archive(path: Path) -> bool:
    """Is it an archive of TorchScript? Its constants are a file that a zip of plain weights does not have."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def _unarchived(path: Path) -> Mapping[str, Tensor]:
    """The state dict of an archive of TorchScript. The bytes that are loaded are those whose digest is known."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in ARCHIVES:
        raise StudyError(
            f"{path}: a TorchScript archive, which holds code, so only OpenAI's own are loaded; its sha256 "
            f"{digest[:16]}... is none of the known ones ({', '.join(ARCHIVES.values())})"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()


def _refusal(error: Exception) -> str:
    """Why a file was not loaded. torch's message has many lines and advises to load the file all the same."""
    match = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    if match:
        return (
            f"asks to run '{_shown(match[1])}' on loading; only plain weights are read, so nothing of it was loaded or "
            "run"
        )
    return f"not a checkpoint of plain weights, or a damaged one ({type(error).__name__})"


def _in_its_place(start: bytes) -> str:
    """The end of a message: what stands in the place of weights, and the way to get them; "" for anything else."""
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return ": it is a page, as a host sends it that asks to sign in: get the file anew"
    return ": it is a pointer of Git LFS: run `git lfs pull`" if start == b"version h" else ""


def _state_dict(path: Path, stored: Mapping[Any, Any]) -> tuple[str, Any]:
    """The layout that the place of a state dict tells, "" if no place does, and the state dict."""
    for _ in range(8):  # a pickled dict may hold itself
        for name, layout in LAYOUTS.items():
            found = _at(stored, layout.place) if layout.place else None
            if found is not None:
                _refuse_prompts(path, stored, layout.prompts)
                _tell_others(path, stored, layout.place[0])
                return name, found
        holders = [key for key, value in stored.items() if key in BEFORE and _holds_weights(value)]
        if len(holders) > 1:
            raise StudyError(f"{path}: holds several sets of weights ({', '.join(holders)}), and one must be meant")
        if not holders:
            break
        _tell_others(path, stored, holders[0])
        _refuse_prompts(path, stored, ("add_prompter",))
        stored = stored[holders[0]]
    return "", stored


def _at(stored: Any, place: Iterable[str]) -> Any:
    """The value under nested keys; None where there is none."""
    for key in place:
        stored = stored.get(key) if isinstance(stored, Mapping) else None
    return stored


def _holds_weights(value: Any, depth: int = 4) -> bool:
    """Is it a state dict, or a dict that holds one?"""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(
        v.numel() if isinstance(v, Tensor) else key in BEFORE and _holds_weights(v, depth - 1)
        for key, v in value.items()
    )


def _tell_others(path: Path, stored: Mapping[Any, Any], taken: str) -> None:
    """Say which weights of a training's dict are not those that are taken, such as a moving average of them."""
    others = [key for key, value in stored.items() if key != taken and _holds_weights(value)]
    if others:
        files.say(f"Warning: {path}: '{taken}' is taken, and the weights in {_first_names(others)} are passed over")


def _refuse_prompts(path: Path, stored: Mapping[Any, Any], keys: Iterable[str]) -> None:
    for key in keys:
        prompt = stored.get(key)
        if isinstance(prompt, Mapping) and any(isinstance(t, Tensor) and t.numel() for t in prompt.values()):
            raise StudyError(f"{path}: holds a learnt prompt beside the tower ('{key}'), which has no place here")


def _plain(name: str) -> str:
    """A name of a weight without what wrappers and compilers add."""
    parts = [part for part in name.split(".") if part not in ANYWHERE]
    while len(parts) > 1 and parts[0] in BEFORE:
        parts = parts[1:]
    return ".".join(parts)


def _weights(path: Path, stored: Any) -> dict[str, Tensor]:
    """The tensors of a state dict in fp32, under names without the prefixes of wrappers; buffers are left out."""
    if not isinstance(stored, Mapping) or not stored:
        raise _no_tower(path, stored)
    weights: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name, shown = _plain(str(key)), _shown(key)
        last = name.rpartition(".")[2]
        if last in BUFFERS:
            continue
        if not isinstance(tensor, Tensor):
            raise _no_tower(path, stored)
        if last != "num_batches_tracked":  # the one weight of open_clip's towers that is a whole number
            _check_numbers(path, shown, tensor)
            tensor = tensor.detach().float()
            if not tensor.isfinite().all():
                raise StudyError(f"{path}: {shown} has values that are not finite")
            if last == "logit_scale" and not tensor.exp().isfinite().all():
                raise StudyError(f"{path}: {shown} must be the logarithm of a factor, got {tensor.max().item():.4g}")
        _add(path, weights, name, tensor)
    return weights


def _check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is no plain array of floating-point numbers, each stored."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_nested:
        raise StudyError(f"{path}: {name} holds no plain floating-point numbers: {tensor.dtype} {tensor.layout}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise StudyError(f"{path}: {name} holds no plain floating-point numbers: its storage is smaller than its shape")


def _add(path: Path, weights: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in weights:
        raise StudyError(f"{path}: two of its weights are '{_shown(name)}' without the prefixes of wrappers")
    weights[name] = tensor


def _translated(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers' CLIPModel under open_clip's names. Their linear projections are stored transposed."""
    translated: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for theirs, ours in TRANSFORMERS:
            name = name.replace(theirs, ours)
        projects = name in ("visual.proj", "text_projection") and tensor.ndim == 2
        _add(path, translated, name, tensor.T.contiguous() if projects else tensor)
    for name in list(translated):
        stem, query, kind = name.rpartition(".q_proj.")
        parts = [f"{stem}.{part}_proj.{kind}" for part in "qkv"]
        if query and all(part in translated and translated[part].ndim for part in parts):
            if len({translated[part].shape for part in parts}) == 1:
                _add(path, translated, f"{stem}.in_proj_{kind}", torch.cat([translated.pop(part) for part in parts]))
    return translated


def _no_tower(path: Path, stored: Any) -> StudyError:
    """The error for a file without a tower. A prefix that is not known is named."""
    content = _first_names(stored) if isinstance(stored, Mapping) else type(stored).__name__
    reason = f"{path}: no image tower of CLIP in it; it holds {content}"
    for name in map(str, stored if isinstance(stored, Mapping) else ()):
        before, found, _ = name.partition(".class_embedding")
        if found and not before.endswith("embeddings"):
            known = ", ".join(sorted(ANYWHERE | BEFORE))
            return StudyError(f"{reason}; the prefix '{_shown(before)}' is none of {known}")
    return StudyError(reason)


def _recorded(path: Path, facts: Mapping[str, Any]) -> tuple[str | None, Stats]:
    """The arch and the pixel statistics that a file of ours records; None and "" where there are none."""
    arch, norm_stats = facts.get("arch"), facts.get("norm_stats", "")
    if not isinstance(arch, str | None):
        raise StudyError(f"{path}: its arch must be text, got a {type(arch).__name__}")
    if norm_stats not in get_args(Stats):
        raise StudyError(
            f"{path}: its norm_stats must be one of {', '.join(get_args(NormStats))}, got '{_shown(norm_stats)}'"
        )
    return arch, norm_stats


def _check_stated(activation: str, norm_stats: str) -> None:
    for key, value, choices in (("activation", activation, Activation), ("norm_stats", norm_stats, Stats)):
        names = [name for name in get_args(choices) if name]
        if value not in ("", *names):
            raise StudyError(f"{key} must be one of {', '.join(names)}, got '{_shown(value)}'")


def _put_visual(
    model: nn.Module, arch: str, path: Path, checkpoint: Checkpoint, activation: Activation, norm_stats: Stats
) -> None:
    """Load a tower and its pixel statistics. First everything is checked."""
    _check_made_for(path, checkpoint, model, arch)
    _check_fit(path, arch, checkpoint.tower, tower_of(model).state_dict(), checkpoint)
    known = model.state_dict()
    others = [name for name in checkpoint.rest if name.partition(".")[0] not in TEXT and name not in known]
    if others:
        raise StudyError(f"{path}: holds weights that no CLIP has beside its two towers: {_first_names(others)}")
    _check_activation(path, checkpoint, model, arch, activation)
    statistics = _statistics(path, checkpoint, norm_stats)
    tower_of(model).load_state_dict(checkpoint.tower)
    _set_statistics(model, statistics)


def _put_whole(
    model: nn.Module, arch: str, path: Path, checkpoint: Checkpoint, activation: Activation, norm_stats: Stats
) -> None:
    """As `_put_visual`, for both towers."""
    if not checkpoint.rest:
        raise StudyError(f"{path}: the base must be a whole CLIP model; this is the image tower alone")
    _check_made_for(path, checkpoint, model, arch)
    whole = {f"{PREFIX}{name}": tensor for name, tensor in checkpoint.tower.items()} | checkpoint.rest
    _check_fit(path, arch, whole, model.state_dict(), checkpoint)
    _check_activation(path, checkpoint, model, arch, activation)
    statistics = _statistics(path, checkpoint, norm_stats)
    model.load_state_dict(whole)
    _set_statistics(model, statistics)


def _check_made_for(path: Path, checkpoint: Checkpoint, model: nn.Module, arch: str) -> None:
    """Compare what weights do not show: the computation of the model, and the arch that the file was written for."""
    tower = tower_of(model)
    if LAYOUTS[checkpoint.format].openais:
        _check_openai(f"{path} holds a tower of OpenAI's form", tower, arch)
    elif checkpoint.arch not in (None, arch):
        raise StudyError(f"{path} was written for '{_shown(checkpoint.arch)}', not for '{arch}'")
    elif checkpoint.format == "transformers" and isinstance(tower, VisionTransformer) and _pools(tower):
        raise StudyError(f"{path} holds a tower of transformers' CLIP; '{arch}' has {_pools(tower)}")


def _check_activation(path: Path, checkpoint: Checkpoint, model: nn.Module, arch: str, activation: Activation) -> None:
    """Compare the stated activation with the model as built. Refuse a file whose activation nothing tells."""
    quick, names = f"{arch}-quickgelu", clip.library().list_models()
    if activation:
        gelus = {"quickgelu" if isinstance(m, QuickGELU) else "gelu" for m in _gelus(model)} or {activation}
        if gelus == {activation}:
            return
        if LAYOUTS[checkpoint.format].openais:
            raise StudyError(f"{path} holds a tower of OpenAI's form, with QuickGELU; activation says '{activation}'")
        other = quick if activation == "quickgelu" else arch.removesuffix("-quickgelu")
        advice = f"use '{other}'" if other != arch and other in names else f"open_clip has no '{other}'"
        raise StudyError(f"{path}: activation says '{activation}', and '{arch}' computes another: {advice}")
    if not LAYOUTS[checkpoint.format].openais and checkpoint.arch is None and quick in names:
        raise StudyError(
            f"{path} does not record its activation: use '{quick}' for weights that were trained with QuickGELU, or "
            f"state the activation 'gelu' for '{arch}'"
        )


def _gelus(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, QuickGELU | nn.GELU)]


def _statistics(path: Path, checkpoint: Checkpoint, norm_stats: Stats) -> NormStats:
    """The pixel statistics of a tower: recorded, stated, or those of its layout."""
    recorded = checkpoint.norm_stats
    if recorded and norm_stats and recorded != norm_stats:
        raise StudyError(f"{path} was written for the pixel statistics '{recorded}'; norm_stats says '{norm_stats}'")
    known = recorded or norm_stats or LAYOUTS[checkpoint.format].norm_stats
    if not known:
        raise StudyError(
            f"{path} does not record its pixel statistics: state norm_stats, 'imagenet' for a file of PMG-AFT's own "
            "code, 'clip' for TGA-ZSR, TeCoA and SAFT"
        )
    return known


def _set_statistics(model: nn.Module, norm_stats: NormStats) -> None:
    """Set the pixel statistics of a model, also where it has others and shall have its arch's own."""
    visual: Any = tower_of(model)
    if norm_stats == "clip" and heads.norm_stats(model) != "clip":
        visual.image_mean, visual.image_std = (tuple(visual.preprocess_cfg[key]) for key in ("mean", "std"))
    heads.set_norm_stats(model, norm_stats)


def _check_openai(why: str, tower: nn.Module, arch: str) -> None:
    """Refuse a tower that computes differently from OpenAI's with the same weights. why: beginning of the message."""
    if not isinstance(tower, VisionTransformer):
        raise StudyError(f"{why}; '{arch}' has a {type(tower).__name__}")
    blocks, differences = tower.transformer.resblocks, []
    other_names = set(tower.state_dict()) ^ set(openai_names(len(blocks)))
    if other_names:
        differences.append(f"other parameters ({_first_names(sorted(other_names))})")
    if _pools(tower):
        differences.append(_pools(tower))
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


def _pools(tower: VisionTransformer) -> str:
    """What a tower has in place of OpenAI's pooling; "" where it pools as theirs."""
    if tower.pool_type == "tok" and tower.attn_pool is None and not tower.final_ln_after_pool:
        return ""
    return f"a pooling of its own ('{tower.pool_type}'), not the CLS token"


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
    """The end of a message: the open_clip names whose tower has the shapes of the file's tower, or these shapes."""
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
        if LAYOUTS[checkpoint.format].openais and not (config.get("quick_gelu") and vision.get("head_width", 64) == 64):
            continue  # this arch would be refused as well
        seen = (vision["width"], vision["patch_size"], vision["layers"], config["embed_dim"])
        if seen == (width, patch, layers, embedding) and (vision["image_size"] // patch) ** 2 + 1 == tokens:
            found = [twin for twin in (name, f"{name}-quickgelu") if twin in clip.library().list_models()]
            return "; its shapes are those of " + " and ".join(f"'{twin}'" for twin in found)
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
    names = [_shown(name) for name in names]
    more = len(names) - shown
    return (", ".join(names[:shown]) or "nothing") + (f" and {more} more" if more > 0 else "")


def _shown(name: Any, most: int = 100) -> str:
    """A name from a file for a message of one line: no control characters, not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name)[: most + 1])
    return text if len(text) <= most else text[:most] + "..."


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
        error.filename = str(path)
        raise StudyError(line_of(error)) from None


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
