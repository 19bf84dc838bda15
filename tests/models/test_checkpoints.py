"""Checkpoints of the published code: read, written, refused. A small CLIP of OpenAI's form stands for theirs."""

import copy
import functools
import hashlib
import io
import json
import os
import pickle
import warnings

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from zsr import files
from zsr.cli.convert import convert as command
from zsr.methods.checkpoint import Checkpoint
from zsr.models import checkpoints, clip, heads
from zsr.models.clip import Classifier
from zsr.params import StudyError

ARCH, GELU, FINER = "small-quickgelu", "small", "small-fine-quickgelu"  # FINER: smaller patches, as B/16 beside B/32
VISION = {"image_size": 24, "patch_size": 8, "width": 128, "layers": 2}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
WIDER = VISION | {"width": 192, "patch_size": 6}  # neither the width nor the patch of a published model


@pytest.fixture(scope="module", autouse=True)
def archs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    visions = {ARCH: VISION, GELU: VISION, FINER: VISION | {"patch_size": 4}, "small-wider-quickgelu": WIDER}
    visions["small-large-quickgelu"] = VISION | {"image_size": 32}
    visions["small-narrow-heads-quickgelu"] = VISION | {"head_width": 32}
    for name, vision in visions.items():
        config = {"embed_dim": 48, "quick_gelu": name != GELU, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def built(arch=ARCH, seed=5):
    """A model of random weights, which a test may change."""
    return copy.deepcopy(_built(arch, seed))


@functools.cache
def _built(arch, seed):
    torch.manual_seed(seed)
    model = clip.create(arch)
    with torch.no_grad():  # as far from nothing as a trained tower
        for parameter in model.visual.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def logits(model, text_embeddings=None):
    images = torch.rand(4, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(7))
    if text_embeddings is None:
        text_embeddings = clip.embed_texts(model, ARCH, ["a star", "a red square", "the letter a"])
    return Classifier(model, text_embeddings)(images)


def official(path, model, **changes):
    """A file as the published code leaves one after training: momentum, a NumPy scalar as best accuracy."""
    tower = model.visual
    optimizer = torch.optim.SGD(tower.parameters(), lr=1e-4, momentum=0.9)
    sum(parameter.square().sum() for parameter in tower.parameters()).backward()
    optimizer.step()
    content = {
        "epoch": 10,
        "state_dict": {},
        "add_prompter": {"module.prompt": torch.randn(1, 0, 768)},
        "best_acc1": np.mean([40.0, 42.5]),
        "optimizer": optimizer.state_dict(),
        "vision_encoder_state_dict": tower.state_dict(),
    }
    torch.save(content | changes, path)
    return path


def refused(path, arch=ARCH, **stated):
    """The message with which a file is refused; it is one line, names the file, and the model stays as it was."""
    model = built(arch, seed=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StudyError) as error:
        checkpoints.load_visual(model, arch, path, **stated)
    assert heads.norm_stats(model) == "clip"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path)) and len(message) < len(str(path)) + 400
    return message.removeprefix(str(path))


def test_the_parameters_of_a_tower_are_those_of_the_published_files():
    names = ["class_embedding", "positional_embedding", "proj", "conv1.weight", "ln_pre.weight", "ln_pre.bias"]
    for i in (0, 1):
        block = f"transformer.resblocks.{i}."
        names += [block + n for n in ("attn.in_proj_weight", "attn.in_proj_bias")]
        names += [block + n for n in ("attn.out_proj.weight", "attn.out_proj.bias", "ln_1.weight", "ln_1.bias")]
        names += [block + n for n in ("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")]
        names += [block + n for n in ("ln_2.weight", "ln_2.bias")]
    names += ["ln_post.weight", "ln_post.bias"]
    assert sorted(built().visual.state_dict()) == sorted(names) == sorted(checkpoints.openai_names(layers=2))


WRITERS = {
    "zsr": checkpoints.write_whole,
    "official": checkpoints.write_official,
    "robustvlm": checkpoints.write_robustvlm,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_tower_written_and_read_gives_the_same_logits_bit_for_bit(tmp_path, name):
    model, path = built(), tmp_path / "tower"
    WRITERS[name](path, model, ARCH)
    other = built(seed=6)
    other.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("visual.")}, strict=False)
    assert not torch.equal(logits(model), logits(other))
    checkpoints.load_visual(other, ARCH, path, norm_stats="clip")
    assert torch.equal(logits(model), logits(other))
    assert checkpoints.read(path).format == name


def test_a_file_of_the_published_training_is_read_with_its_numpy_scalar_and_momentum(tmp_path):
    model = built()
    path = official(tmp_path / "checkpoint.pth.tar", model)
    with pytest.raises(pickle.UnpicklingError, match="numpy"):  # torch alone refuses what they all have
        torch.load(path, weights_only=True)
    found = checkpoints.read_visual(path)
    assert found.keys() == model.visual.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.visual.state_dict().items())


def test_an_official_file_of_ours_is_one_that_their_code_resumes_from(tmp_path):
    model, path = built(), tmp_path / "model_best.pth.tar"
    checkpoints.write_official(path, model, ARCH, epoch=3)
    content = torch.load(path, weights_only=True)
    keys = {"epoch", "state_dict", "add_prompter", "best_acc1", "optimizer", "vision_encoder_state_dict"}
    assert set(content) == keys and content["epoch"] == 3 and max(41.5, content["best_acc1"]) == 41.5
    other = built(seed=6).visual
    other.load_state_dict(content["vision_encoder_state_dict"])
    optimizer = torch.optim.SGD(other.parameters(), lr=1e-5, momentum=0.9, weight_decay=0)
    optimizer.load_state_dict(content["optimizer"])
    assert optimizer.param_groups[0]["momentum"] == 0.9 and optimizer.param_groups[0]["weight_decay"] == 0
    assert content["add_prompter"]["prompt"].shape == (1, 0, 768)


def test_robustvlms_file_is_the_bare_state_dict(tmp_path):
    model, path = built(), tmp_path / "final.pt"
    checkpoints.write_robustvlm(path, model, ARCH)
    built(seed=6).visual.load_state_dict(torch.load(path, weights_only=True))


def test_a_file_holds_the_weights_and_not_the_storage_they_are_a_view_of(tmp_path):
    model = built()
    shared = torch.zeros(10**6)
    shared[:128] = model.visual.class_embedding.detach()
    model.visual.class_embedding.data = shared[:128]
    checkpoints.write_robustvlm(tmp_path / "final.pt", model, ARCH)
    assert (tmp_path / "final.pt").stat().st_size < 3_000_000
    assert not list(tmp_path.glob("*.tmp"))


def test_half_precision_comes_out_single(tmp_path):
    model = built()
    half = {name: tensor.half() for name, tensor in model.visual.state_dict().items()}
    path = official(tmp_path / "half.pth.tar", built(), vision_encoder_state_dict=half)
    found = checkpoints.read_visual(path)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in found.items())


@pytest.mark.parametrize("inside", [True, False])
def test_the_prefix_of_data_parallel_is_taken_off(tmp_path, inside):
    model, path = built(), tmp_path / "parallel"
    parallel = {f"module.{name}": tensor for name, tensor in model.visual.state_dict().items()}
    if inside:
        official(path, built(), vision_encoder_state_dict=parallel)
    else:
        torch.save(parallel, path)
    assert checkpoints.read_visual(path).keys() == model.visual.state_dict().keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_replaced_whole(tmp_path, name):
    """Whoever has the old file open goes on reading the old file."""
    path, old = tmp_path / "tower", tmp_path / "old"
    WRITERS[name](path, built(), ARCH)
    os.link(path, old)
    before = old.read_bytes()
    WRITERS[name](path, built(seed=6), ARCH)
    assert old.read_bytes() == before != path.read_bytes()
    assert sorted(tmp_path.iterdir()) == [old, path]


@pytest.mark.parametrize("patch, width", [(6, 192), (4, 128)])
def test_towers_of_any_size_load(tmp_path, patch, width):
    """RobustVLM's own loader knows B/32 and L/14 alone."""
    arch = "small-wider-quickgelu" if width == 192 else FINER
    model, path = built(arch), tmp_path / "final.pt"
    checkpoints.write_robustvlm(path, model, arch)
    checkpoints.load_visual(model, arch, path)
    assert model.visual.class_embedding.shape == (width,) and model.visual.patch_size == (patch, patch)


# --- the activation


@pytest.mark.parametrize("name", ["official", "robustvlm"])
def test_a_published_tower_is_refused_by_a_model_without_quickgelu(tmp_path, name):
    path = tmp_path / "tower"
    WRITERS[name](path, built(), ARCH)
    message = refused(path, GELU)
    assert message == " holds a tower of OpenAI's form; 'small' has GELU, not QuickGELU: use 'small-quickgelu'"
    state = built().visual.state_dict()
    lenient = built(GELU)
    lenient.visual.load_state_dict(state)  # names and shapes fit, so without the check nothing would be said
    given = torch.nn.functional.normalize(torch.randn(5, 48), dim=1)
    assert (logits(lenient, given) - logits(built(), given)).abs().max() > 0.02  # rounding: 1e-6


@pytest.mark.parametrize("name", ["official", "robustvlm"])
def test_a_tower_without_quickgelu_is_not_written_as_one_of_openais(tmp_path, name):
    with pytest.raises(StudyError, match="'small' has GELU, not QuickGELU: use 'small-quickgelu'"):
        WRITERS[name](tmp_path / "tower", built(GELU), GELU)
    assert not (tmp_path / "tower").exists()


def test_it_is_the_built_tower_that_counts_not_its_name(tmp_path):
    model = built()
    forced = open_clip.create_model(GELU, force_quick_gelu=True)
    checkpoints.write_robustvlm(tmp_path / "final.pt", model, ARCH)
    checkpoints.load_visual(forced, GELU, tmp_path / "final.pt")
    one_block = built()
    one_block.visual.transformer.resblocks[1].mlp.gelu = torch.nn.GELU()
    with pytest.raises(StudyError, match="'small-quickgelu' has GELU, not QuickGELU"):
        checkpoints.load_visual(one_block, ARCH, tmp_path / "final.pt")


def test_our_tiny_tower_is_not_written_as_one_of_openais(clip_model, tmp_path):
    with pytest.raises(StudyError) as error:
        checkpoints.write_official(tmp_path / "checkpoint.pth.tar", clip_model, "zsr-tiny")
    assert "'zsr-tiny' has a pooling of its own ('avg')" in str(error.value) and "GELU, not QuickGELU" in str(
        error.value
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["pool_type", "final_ln_after_pool", "heads", "parameters", "class"])
def test_what_else_weights_do_not_show_is_looked_at(tmp_path, part):
    model = built("small-narrow-heads-quickgelu" if part == "heads" else ARCH)
    if part == "class":
        model.visual = torch.nn.Linear(2, 2)
    elif part == "parameters":
        model.visual.extra = torch.nn.Parameter(torch.zeros(1))
    elif part != "heads":
        setattr(model.visual, part, "avg" if part == "pool_type" else True)
    said = {"pool_type": "pooling", "final_ln_after_pool": "pooling", "heads": "heads of another width than 64"}
    with pytest.raises(StudyError, match=(said | {"parameters": r"parameters \(extra\)", "class": "a Linear"})[part]):
        checkpoints.write_official(tmp_path / "tower", model, ARCH)


def test_our_own_files_are_read_into_the_arch_they_came_from(clip_model, tmp_path):
    clip.save(tmp_path / "base.safetensors", clip_model, "zsr-tiny")
    tower = built("zsr-tiny")
    checkpoints.load_visual(tower, "zsr-tiny", tmp_path / "base.safetensors")
    assert torch.equal(tower.visual.proj, clip_model.visual.proj)
    checkpoints.write_whole(tmp_path / "own.safetensors", built(GELU), GELU)
    assert refused(tmp_path / "own.safetensors", ARCH) == " was written for 'small', not for 'small-quickgelu'"


# --- files that are refused


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["best_acc1", "vision_encoder_state_dict", None])
@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, where, modern, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran, path = tmp_path / "ran", tmp_path / "checkpoint.pth.tar"
    content = {"vision_encoder_state_dict": built().visual.state_dict(), where or "x": Malicious(ran)}
    torch.save(content if where else Malicious(ran), path, _use_new_zipfile_serialization=modern)
    message = refused(path)
    assert not ran.exists() and "asks to run 'posix.mkdir' on loading" in message
    torch.load(path, weights_only=False)
    assert ran.exists()  # it would have run


def test_a_plain_object_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(built().visual, tmp_path / "whole_module.pt")
    assert "asks to run 'open_clip.transformer.VisionTransformer' on loading" in refused(tmp_path / "whole_module.pt")


def test_no_name_of_numpy_is_resolved(tmp_path):
    """The scalar's place is kept by a stand-in, which takes anything and does nothing."""
    before = set(torch.serialization.get_safe_globals())
    torch.save({"best_acc1": np.float64(1), "array": np.ones(2)}, tmp_path / "file")
    message = refused(tmp_path / "file")
    assert "asks to run 'numpy._core.multiarray._reconstruct'" in message or "numpy.core.multiarray._rec" in message
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a page, .*: get the file anew"),
        (b"<html><body>404</body></html>", "it is a page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS: run `git lfs pull`"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_told(tmp_path, content, said):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(StudyError, match=rf"\A[^\n]*w.pt: not a checkpoint of plain weights.*{said}[^\n]*\Z"):
        checkpoints.read(tmp_path / "w.pt")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0, 5, 30, 2000, -20_000, -1])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    whole, path = tmp_path / "whole", tmp_path / "part"
    WRITERS[name](whole, built(), ARCH)
    path.write_bytes(whole.read_bytes()[:kept])
    assert refused(path).startswith(": not a checkpoint of plain weights, or a damaged one")


@pytest.mark.parametrize("modern", [True, False])
def test_bytes_gone_wrong_never_raise_but_in_one_line(tmp_path, modern):
    buffer, path, random = io.BytesIO(), tmp_path / "file", np.random.default_rng(0)
    small = {f"block.{i}": torch.ones(2, 2) for i in range(3)}
    torch.save({"vision_encoder_state_dict": small}, buffer, _use_new_zipfile_serialization=modern)
    whole = buffer.getvalue()
    for _ in range(300):
        wrong = bytearray(whole)
        for at in random.integers(0, 600, 3):
            wrong[at] = random.integers(256)
        path.write_bytes(wrong)
        try:
            checkpoints.read_visual(path)
        except StudyError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content, said",
    [
        ({"state": {0: 1}, "param_groups": []}, "no image tower of CLIP in it; it holds state, param_groups"),
        ({"vision_encoder_state_dict": {}}, "no image tower of CLIP in it; it holds nothing"),
        ({"vision_encoder_state_dict": [1]}, "no image tower of CLIP in it; it holds list"),
        ({"fc.weight": torch.ones(2)}, "no image tower of CLIP in it; it holds fc.weight"),
        ({"conv1.weight": torch.ones(2, dtype=torch.int8)}, "conv1.weight holds no plain floating-point numbers"),
        ({"conv1.weight": torch.ones(2, device="meta")}, "conv1.weight holds no plain floating-point numbers"),
        ({"conv1.weight": torch.ones(2, 2).to_sparse()}, "conv1.weight holds no plain floating-point numbers"),
        ([torch.ones(2)], "must hold named weights, got a list"),
    ],
)
def test_other_files_of_torch_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt").startswith(f": {said}")


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path):
    assert refused(tmp_path / "none.pt") == ": No such file or directory"
    assert refused(tmp_path) == ": Is a directory"
    (tmp_path / "note.pt").write_text("not weights, but a note\n")
    assert ": not a checkpoint of plain weights" in refused(tmp_path / "note.pt")


@pytest.mark.parametrize("key, prompt", [("add_prompter", "module.prompt"), ("state_dict", "pad_up")])
def test_a_tower_that_was_trained_with_a_prompt_is_refused(tmp_path, key, prompt):
    """The tower of a file from visual prompt tuning is CLIP's own, so alone it would pass for a robust one."""
    path = official(tmp_path / "vpt.pth.tar", built(), **{key: {prompt: torch.randn(1, 5, 768)}})
    assert f"holds a learnt prompt beside the tower ('{key}')" in refused(path)


def test_a_misshaped_tower_is_refused_with_the_arch_it_is_of(tmp_path):
    checkpoints.write_robustvlm(tmp_path / "final.pt", built(FINER), FINER)
    message = refused(tmp_path / "final.pt", ARCH)
    assert message == (
        " does not fit 'small-quickgelu'; of another shape: positional_embedding (37, 128), not (10, 128), "
        "conv1.weight (128, 3, 4, 4), not (128, 3, 8, 8); its shapes are those of 'small-fine-quickgelu'"
    )


@pytest.mark.parametrize("arch", [ARCH, "small-large-quickgelu"])
def test_the_arch_named_has_the_image_size_too(tmp_path, arch):
    checkpoints.write_robustvlm(tmp_path / "final.pt", built(arch), arch)
    assert refused(tmp_path / "final.pt", FINER).endswith(f"; its shapes are those of '{arch}'")


def test_the_arch_named_is_one_with_quickgelu_or_none(tmp_path):
    state = {name: tensor for name, tensor in built("zsr-tiny").visual.state_dict().items()}
    torch.save(state, tmp_path / "final.pt")
    assert "it is a ViT of width 64, patch 4, 3 layers, 36 patches" in refused(tmp_path / "final.pt", ARCH)


def test_missing_and_unexpected_names_are_named(tmp_path):
    state = built().visual.state_dict()
    state["ln_extra.weight"] = state.pop("ln_pre.weight")
    torch.save(state, tmp_path / "final.pt")
    assert "missing: ln_pre.weight; unexpected: ln_extra.weight" in refused(tmp_path / "final.pt")
    torch.save({"conv1.weight": torch.ones(32, 3, 3, 3), "layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "rn50.pt")
    assert refused(tmp_path / "rn50.pt").endswith("the file's tower is no ViT")


# --- the layouts of others


def archive(path, model):
    """A TorchScript archive in OpenAI's layout: half precision, three whole numbers among the buffers."""
    scripted = copy.deepcopy(model).half()
    for name in ("input_resolution", "context_length", "vocab_size"):
        scripted.__dict__.pop(name, None)
        scripted.register_buffer(name, torch.tensor(16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = torch.rand(1, 3, *model.visual.image_size).half()
        torch.jit.save(torch.jit.trace_module(scripted, {"encode_image": images}, check_trace=False), str(path))


def transformers_names(state):
    """A state dict of open_clip as transformers' CLIPModel has it, with the positions that older versions store."""
    theirs = {"logit_scale": state["logit_scale"]}
    sides = {"vision_model": ("visual.", "visual_projection"), "text_model": ("", "text_projection")}
    for side, (ours, projection) in sides.items():
        embeddings = f"{side}.embeddings"
        theirs[f"{embeddings}.position_embedding.weight"] = state[f"{ours}positional_embedding"]
        theirs[f"{embeddings}.position_ids"] = torch.arange(len(state[f"{ours}positional_embedding"]))[None]
        theirs[f"{projection}.weight"] = state[f"{ours}proj" if ours else projection].T.contiguous()
        for i in range(sum(name.startswith(f"{ours}tr") and name.endswith("ln_1.bias") for name in state)):
            block, layer = f"{ours}transformer.resblocks.{i}", f"{side}.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                for part, tensor in zip("qkv", state[f"{block}.attn.in_proj_{kind}"].chunk(3)):
                    theirs[f"{layer}.self_attn.{part}_proj.{kind}"] = tensor.clone()
                theirs[f"{layer}.self_attn.out_proj.{kind}"] = state[f"{block}.attn.out_proj.{kind}"]
                for here, there in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
                    theirs[f"{layer}.{there}.{kind}"] = state[f"{block}.{here}.{kind}"]
                for here, there in (("c_fc", "fc1"), ("c_proj", "fc2")):
                    theirs[f"{layer}.mlp.{there}.{kind}"] = state[f"{block}.mlp.{here}.{kind}"]
    for kind in ("weight", "bias"):
        theirs[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        theirs[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        theirs[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    theirs["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    theirs["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    return theirs | {"text_model.embeddings.token_embedding.weight": state["token_embedding.weight"]}


def vision_side(model):
    named = transformers_names(model.state_dict())
    return {name: tensor for name, tensor in named.items() if name.startswith("vis")}


WHOLE = {  # what a test writes -> the layout it is
    "open_clip": lambda path, model: torch.save(model.state_dict(), path),
    "open_clip, safetensors": lambda path, model: safetensors.torch.save_file(model.state_dict(), path),
    "transformers": lambda path, model: torch.save(transformers_names(model.state_dict()), path),
    "openai": archive,
    "zsr": lambda path, model: checkpoints.write_whole(path, model, ARCH),
}
TOWERS = {
    "official": official,
    "robustvlm": lambda path, model: torch.save(model.visual.state_dict(), path),
    "agft": lambda path, model: torch.save({"modules": {"clip.visual": model.visual.state_dict()}, "params": {}}, path),
    "transformers": lambda path, model: torch.save(vision_side(model), path),
    "zsr": lambda path, model: clip.save_tower(path, model, "clip"),
}


FITTING = {  # origin -> the names with the shapes of the file
    "openai": "; its shapes are those of 'small-quickgelu'",
    "unknown": "; its shapes are those of 'small' and 'small-quickgelu'",
}


def known(monkeypatch, path):
    """From now on the digest of the file is one of a known archive."""
    monkeypatch.setitem(checkpoints.ARCHIVES, hashlib.sha256(path.read_bytes()).hexdigest(), ARCH)


def through_half(model):
    """The model whose weights an archive holds."""
    return copy.deepcopy(model).half().float()


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_model_of_every_layout_gives_the_same_logits_without_a_base(tmp_path, name, monkeypatch):
    model, path = built(), tmp_path / "file"
    WHOLE[name](path, model)
    if name == "openai":
        known(monkeypatch, path)
        model = through_half(model)
    checkpoint = checkpoints.read(path)
    assert checkpoint.format == name.partition(",")[0]
    assert {name: t.shape for name, t in checkpoint.rest.items()} == {
        name: t.shape for name, t in model.state_dict().items() if not name.startswith("visual.")
    }
    opened = checkpoints.open_model(path, ARCH)
    assert torch.equal(logits(opened), logits(model))
    assert not opened.training and {t.dtype for t in opened.state_dict().values()} == {torch.float32}
    with pytest.raises(StudyError, match="(does not fit|was written for) 'small-(fine-)?quickgelu'") as error:
        checkpoints.open_model(path, FINER)
    assert name == "zsr" or str(error.value).endswith(FITTING["openai" if name == "openai" else "unknown"])


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_of_every_layout_gives_the_same_logits_above_a_base(tmp_path, name):
    model, path, base = built(), tmp_path / "file", tmp_path / "base.safetensors"
    TOWERS[name](path, model)
    clip.save(base, built(seed=9), ARCH)
    assert checkpoints.read(path).format == name and not checkpoints.read(path).rest
    opened = checkpoints.open_model(path, ARCH, base, norm_stats="clip")
    expected = built(seed=9)
    expected.visual = model.visual
    assert torch.equal(logits(opened), logits(expected)) and not torch.equal(logits(opened), logits(built(seed=9)))
    with pytest.raises(StudyError, match="holds the image tower alone: it needs a base, the file of a whole model"):
        checkpoints.open_model(path, ARCH, norm_stats="clip")
    assert "does not fit 'small-fine-quickgelu'" in (message := refused(path, FINER, norm_stats="clip"))
    assert message.endswith(FITTING["unknown" if name in ("transformers", "zsr") else "openai"])


def test_the_text_tower_of_a_base_is_taken_and_the_image_tower_of_the_file(tmp_path):
    """Also where the file itself is whole."""
    WHOLE["open_clip"](tmp_path / "file", built())
    WHOLE["transformers"](tmp_path / "base", built(seed=9))
    opened = checkpoints.open_model(tmp_path / "file", ARCH, tmp_path / "base").state_dict()
    assert torch.equal(opened["text_projection"], built(seed=9).text_projection)
    assert torch.equal(opened["visual.proj"], built().visual.proj)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_archive_of_code_is_loaded_only_if_its_digest_is_known(tmp_path, monkeypatch):
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(path))
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an unknown archive was loaded"))
        message = refused(path)
    assert message.startswith(": a TorchScript archive, which holds code")
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] in message
    assert "is none of the known ones (ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336)" in message
    assert "weights_only" not in message and "jit" not in message
    known(monkeypatch, path)
    assert refused(path) == ": no image tower of CLIP in it; it holds weight, bias"


def test_the_known_digests_are_those_of_open_clips_addresses():
    addresses = [open_clip.get_pretrained_url(arch, "openai") for arch in checkpoints.ARCHIVES.values()]
    assert [address.split("/")[-2] for address in addresses] == list(checkpoints.ARCHIVES)
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in checkpoints.ARCHIVES


@pytest.mark.parametrize("place", [("state_dict",), ("model_state_dict",), ("model",), ("model", "state_dict")])
def test_a_state_dict_in_the_dict_of_a_training_is_found(tmp_path, place):
    model, content = built(), None
    for key in reversed(place):
        content = {"epoch": 3, "optimizer": {"state": {}}, key: content or model.state_dict()}
    torch.save(content | {"loss": torch.ones(1)}, tmp_path / "file.pt")
    assert torch.equal(checkpoints.open_model(tmp_path / "file.pt", ARCH).visual.proj, model.visual.proj)


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_avg"])
@pytest.mark.parametrize("place", ["state_dict", checkpoints.TOWER])
def test_other_weights_of_a_training_are_named_and_not_taken(tmp_path, key, place, capsys):
    model, other = built(), built(seed=6)
    states = [one.visual.state_dict() if place == checkpoints.TOWER else one.state_dict() for one in (model, other)]
    torch.save({place: states[0], key: states[1], "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "file.pt")
    assert torch.equal(checkpoints.read(tmp_path / "file.pt").tower["proj"], model.visual.proj)
    said = capsys.readouterr().err
    assert said == f"Warning: {tmp_path}/file.pt: '{place}' is taken, and the weights in {key} are passed over\n"


def test_a_file_is_read_once(tmp_path, monkeypatch):
    from zsr.models import loading

    model, times, read = built(), [], checkpoints.read
    clip.save(tmp_path / "file.safetensors", model, ARCH)
    monkeypatch.setattr(checkpoints, "read", lambda path: times.append(path) or read(path))
    assert torch.equal(loading.load(tmp_path / "file.safetensors").visual.proj, model.visual.proj)
    assert times == [tmp_path / "file.safetensors"]


def test_of_two_sets_of_weights_none_is_guessed(tmp_path):
    torch.save({"model": built().state_dict(), "net": built(seed=6).state_dict()}, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt") == ": holds several sets of weights (model, net), and one must be meant"
    state = built().state_dict()
    torch.save(state | {"module.visual.proj": state["visual.proj"]}, tmp_path / "file.pt")
    assert "two of its weights are 'visual.proj'" in refused(tmp_path / "file.pt")


PREFIXES = ["module.", "_orig_mod.", "model.", "clip.", "clip_model.", "image_encoder.", "net.", "module._orig_mod."]
PREFIXES += ["_orig_mod.module.", "model.clip.", "backbone.", "_forward_module.", "base_model.model.", "student."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["open_clip", "robustvlm", "transformers"])
def test_the_prefixes_of_wrappers_and_compilers_are_taken_off(tmp_path, prefix, kind):
    model = built()
    states = {"open_clip": model.state_dict(), "robustvlm": model.visual.state_dict(), "transformers": None}
    state = states[kind] or transformers_names(model.state_dict())
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "file.pt")
    checkpoint = checkpoints.read(tmp_path / "file.pt")
    assert checkpoint.format == kind and checkpoint.tower.keys() == model.visual.state_dict().keys()


@pytest.mark.parametrize("part", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_a_part_of_a_model_may_be_wrapped_by_itself(tmp_path, part):
    state = {name.replace("resblocks.0.", f"resblocks.0.{part}."): t for name, t in built().state_dict().items()}
    state = {name.replace("visual.", f"visual.{part}."): tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "file.pt")
    assert torch.equal(checkpoints.open_model(tmp_path / "file.pt", ARCH).visual.proj, built().visual.proj)


def test_a_prefix_that_is_not_known_is_given_as_the_reason(tmp_path):
    state = {f"my_own.{name}": tensor for name, tensor in built().state_dict().items()}
    torch.save(state, tmp_path / "file.pt")
    assert "; the prefix 'my_own.visual' is none of _checkpoint_wrapped_module, " in refused_whole(tmp_path / "file.pt")


def refused_whole(path, **stated):
    with pytest.raises(StudyError) as error:
        checkpoints.open_model(path, ARCH, **stated)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_buffers_of_archives_are_ignored_whatever_they_hold(tmp_path):
    state = built().state_dict()
    state |= {"attn_mask": torch.full((16, 16), float("-inf")), "visual.position_ids": torch.arange(10)}
    state |= {"input_resolution": 24, "context_length": torch.tensor(16), "vocab_size": torch.tensor(True)}
    torch.save(state, tmp_path / "file.pt")
    assert torch.equal(checkpoints.open_model(tmp_path / "file.pt", ARCH).visual.proj, built().visual.proj)


def test_weights_beside_the_two_towers_are_named(tmp_path):
    torch.save(built().state_dict() | {"prompt_learner.ctx": torch.ones(4, 32)}, tmp_path / "file.pt")
    message = refused(tmp_path / "file.pt")
    assert message == ": holds weights that no CLIP has beside its two towers: prompt_learner.ctx"
    content = {
        "modules": {"clip.visual": built().visual.state_dict()},
        "params": {"token_prompt": torch.ones(1, 5, 768)},
    }
    torch.save(content, tmp_path / "agft.pth")
    assert "holds a learnt prompt beside the tower ('params')" in refused(tmp_path / "agft.pth")


def test_queries_without_keys_are_missing_weights(tmp_path):
    state = transformers_names(built().state_dict())
    del state["vision_model.encoder.layers.0.self_attn.k_proj.bias"]
    torch.save(state, tmp_path / "file.pt")
    assert "missing: transformer.resblocks.0.attn.in_proj_bias; unexpected: " in refused(tmp_path / "file.pt")


def test_a_resnet_of_ours_keeps_the_counts_of_its_norms(tmp_path):
    checkpoints.write_whole(tmp_path / "own", clip.create("zsr-tiny-rn"), "zsr-tiny-rn")
    model = clip.create("zsr-tiny-rn")
    model.visual.bn1.num_batches_tracked += 3
    checkpoints.load_visual(model, "zsr-tiny-rn", tmp_path / "own")
    assert model.visual.bn1.num_batches_tracked == 0 and model.visual.bn1.num_batches_tracked.dtype is torch.int64


# --- values


@pytest.mark.parametrize("name", ["visual.proj", "visual.transformer.resblocks.1.ln_2.bias", "text_projection"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_the_name_of_its_tensor(tmp_path, name, value):
    state = {key: tensor.clone() for key, tensor in built().state_dict().items()}
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt") == f": {name} has values that are not finite"
    files.save_tensors(tmp_path / "own.safetensors", state, {"arch": ARCH, "norm_stats": "clip"})
    assert f"{name} has values that are not finite" in refused_whole(tmp_path / "own.safetensors")


@pytest.mark.parametrize(("value", "taken"), [(4.6052, True), (0.0, True), (88.0, True), (100.0, False)])
def test_a_factor_of_cosines_is_stored_as_its_logarithm(tmp_path, value, taken):
    """A hundred is the factor of OpenAI's models, and e to the power of a hundred is no number in single precision."""
    torch.save(built().state_dict() | {"logit_scale": torch.tensor(value)}, tmp_path / "file.pt")
    if taken:
        assert checkpoints.read(tmp_path / "file.pt").rest["logit_scale"] == torch.tensor(value)
    else:
        assert refused(tmp_path / "file.pt") == ": logit_scale must be the logarithm of a factor, got 100"


def test_a_value_too_large_for_single_precision_is_not_finite_either(tmp_path):
    state = built().visual.state_dict()
    torch.save(state | {"proj": torch.full((128, 48), 1e300, dtype=torch.float64)}, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt") == ": proj has values that are not finite"


def test_a_tensor_larger_than_its_storage_is_refused_before_it_fills_the_memory(tmp_path):
    torch.save({"conv1.weight": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "file.pt")
    assert "its storage is smaller than its shape" in refused(tmp_path / "file.pt")


def test_a_dict_that_holds_itself_and_names_that_are_no_text_end_in_one_line(tmp_path):
    endless = {"a\nb": 1}
    endless["model"] = endless
    torch.save(endless, tmp_path / "file.pt")
    assert refused(tmp_path / "file.pt") == ": no image tower of CLIP in it; it holds a?b, model"
    torch.save({7: torch.ones(2), "x" * 500: torch.ones(2), "\x1b[31m": torch.ones(1)}, tmp_path / "file.pt")
    assert f"it holds 7, {'x' * 100}... and 1 more" in refused(tmp_path / "file.pt")


@pytest.mark.parametrize("error", [RuntimeError, OSError, MemoryError])
def test_no_message_of_another_library_is_passed_on(tmp_path, error, monkeypatch):
    def loads(*_, **__):
        raise error("use weights_only=False\nto load it all the same")

    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "file.pt")
    monkeypatch.setattr(torch, "load", loads)
    message = refused(tmp_path / "file.pt")
    assert error.__name__ in message and "weights_only" not in message and "all the same" not in message


# --- what weights do not show must be stated


@pytest.mark.parametrize("name", ["open_clip", "open_clip, safetensors", "transformers"])
def test_the_activation_of_an_unknown_origin_must_be_stated(tmp_path, name):
    path = tmp_path / "file"
    WHOLE[name](path, built())
    assert refused(path, GELU) == (
        " does not record its activation: use 'small-quickgelu' for weights that were trained with QuickGELU, or state "
        "the activation 'gelu' for 'small'"
    )
    message = refused(path, GELU, activation="quickgelu")
    assert message == ": activation says 'quickgelu', and 'small' computes another: use 'small-quickgelu'"
    message = refused(path, ARCH, activation="gelu")
    assert message == ": activation says 'gelu', and 'small-quickgelu' computes another: use 'small'"
    opened = checkpoints.open_model(path, GELU, activation="gelu")
    assert torch.equal(opened.visual.proj, built().visual.proj)
    assert not torch.allclose(logits(opened), logits(checkpoints.open_model(path, ARCH)), atol=1e-3)
    checkpoints.load_visual(built(), ARCH, path, activation="quickgelu")


def test_an_arch_without_a_second_activation_needs_no_statement(clip_model, tmp_path):
    torch.save(clip_model.state_dict(), tmp_path / "file.pt")
    assert torch.equal(checkpoints.open_model(tmp_path / "file.pt", "zsr-tiny").visual.proj, clip_model.visual.proj)
    with pytest.raises(StudyError, match="open_clip has no 'zsr-tiny-quickgelu'"):
        checkpoints.open_model(tmp_path / "file.pt", "zsr-tiny", activation="quickgelu")


def test_the_activation_of_a_base_must_be_stated_too(tmp_path):
    WHOLE["open_clip"](tmp_path / "base", built(GELU))
    checkpoints.write_whole(tmp_path / "own", built(GELU), GELU)
    with pytest.raises(StudyError, match="base does not record its activation"):
        checkpoints.open_model(tmp_path / "own", GELU, tmp_path / "base")
    with pytest.raises(StudyError, match="base: activation says 'quickgelu'"):
        checkpoints.open_model(tmp_path / "own", GELU, tmp_path / "base", activation="quickgelu")
    checkpoints.open_model(tmp_path / "own", GELU, tmp_path / "base", activation="gelu")
    checkpoints.open_model(tmp_path / "own", GELU)


def test_a_tower_of_ours_alone_does_not_record_its_arch(tmp_path):
    clip.save_tower(tmp_path / "0.safetensors", built(GELU), "imagenet")
    assert " does not record its activation" in refused(tmp_path / "0.safetensors", GELU)
    model = built(GELU, seed=6)
    checkpoints.load_visual(model, GELU, tmp_path / "0.safetensors", activation="gelu")
    assert torch.equal(model.visual.proj, built(GELU).visual.proj) and heads.norm_stats(model) == "imagenet"


@pytest.mark.parametrize("name", ["official", "robustvlm", "agft", "openai"])
def test_a_layout_of_openais_form_needs_no_activation_and_contradicts_gelu(tmp_path, name, monkeypatch):
    path = tmp_path / "file"
    (TOWERS | WHOLE)[name](path, built())
    if name == "openai":
        known(monkeypatch, path)
    message = refused(path, ARCH, activation="gelu", norm_stats="clip")
    assert message == " holds a tower of OpenAI's form, with QuickGELU; activation says 'gelu'"
    for activation in ("", "gelu", "quickgelu"):
        message = refused(path, GELU, activation=activation, norm_stats="clip")
        assert message == " holds a tower of OpenAI's form; 'small' has GELU, not QuickGELU: use 'small-quickgelu'"


def test_a_tower_of_transformers_pools_the_class_token(clip_model, tmp_path):
    torch.save(transformers_names(clip_model.state_dict()), tmp_path / "file.pt")
    assert "'zsr-tiny' has a pooling of its own ('avg')" in refused(tmp_path / "file.pt", "zsr-tiny")


def test_a_statement_is_one_of_the_choices(tmp_path):
    said = refused_whole(tmp_path / "none", activation="relu")
    assert said == "activation must be one of gelu, quickgelu, got 'relu'"
    said = refused_whole(tmp_path / "none", norm_stats="laion")
    assert said == "norm_stats must be one of clip, imagenet, inception, got 'laion'"


# --- pixel statistics


def test_an_official_file_needs_its_pixel_statistics_stated_and_other_layouts_are_clips(tmp_path):
    official(tmp_path / "official", built())
    assert refused(tmp_path / "official").startswith(" does not record its pixel statistics: state norm_stats, ")
    for name in ("robustvlm", "agft", "transformers"):
        TOWERS[name](tmp_path / name, built())
    for name, stated, found in [
        ("official", "imagenet", "imagenet"),
        ("official", "clip", "clip"),
        *[(name, "", "clip") for name in ("robustvlm", "agft", "transformers")],
        ("robustvlm", "imagenet", "imagenet"),
    ]:
        model = built()
        checkpoints.load_visual(model, ARCH, tmp_path / name, norm_stats=stated)
        assert heads.norm_stats(model) == found


def test_the_pixel_statistics_of_our_own_files_are_kept_and_not_contradicted(convert, tmp_path):
    own, out = tmp_path / "pmg.safetensors", tmp_path / "out.safetensors"
    clip.save(own, built(), ARCH, "imagenet")
    convert(own, "--arch", ARCH, "--out", out)
    assert out.read_bytes() == own.read_bytes()
    clip.save(tmp_path / "base", built(seed=9), ARCH)
    convert(own, "--arch", ARCH, "--base", tmp_path / "base", "--norm-stats", "imagenet", "--out", out)
    assert files.load_facts(out)["norm_stats"] == "imagenet"
    said = convert(own, "--arch", ARCH, "--norm-stats", "clip", "--out", out, status=1)
    assert said.endswith("was written for the pixel statistics 'imagenet'; norm_stats says 'clip'\n")
    said = convert(own, "--arch", ARCH, "--to", "robustvlm", "--out", tmp_path / "final.pt", status=1)
    assert "RobustVLM's code has CLIP's pixel statistics" in said and not (tmp_path / "final.pt").exists()
    convert(own, "--arch", ARCH, "--to", "official", "--out", tmp_path / "pmg.pth.tar")


def test_a_tower_of_clips_statistics_has_them_above_a_base_of_imagenets(tmp_path):
    clip.save(tmp_path / "base", built(seed=9), ARCH, "imagenet")
    checkpoints.write_robustvlm(tmp_path / "final.pt", built(), ARCH)
    opened = checkpoints.open_model(tmp_path / "final.pt", ARCH, tmp_path / "base")
    assert tuple(opened.visual.image_mean) == tuple(built().visual.image_mean)
    assert tuple(opened.visual.image_std) == tuple(built().visual.image_std)
    assert checkpoints.open_model(tmp_path / "base", ARCH).visual.image_mean[0] == 0.485


@pytest.mark.parametrize("facts, said", [({"arch": 5}, "arch must be text"), ({"norm_stats": "x"}, "one of clip, im")])
def test_facts_that_cannot_be_ours_are_refused(tmp_path, facts, said):
    files.save_tensors(tmp_path / "file", built().state_dict(), facts)
    assert said in refused(tmp_path / "file")


def test_a_row_of_published_weights_states_what_they_do_not_show(tmp_path):
    path = tmp_path / "tower.pt"
    TOWERS["transformers"](path, built())
    model = built(GELU, seed=6)
    with pytest.raises(StudyError, match="does not record its activation"):
        Checkpoint(weights=str(path), norm_stats="imagenet").load(model, GELU)
    Checkpoint(weights=str(path), norm_stats="imagenet", activation="gelu").load(model, GELU)
    assert torch.equal(model.visual.proj, built().visual.proj) and heads.norm_stats(model) == "imagenet"


# --- the command


@pytest.fixture
def convert(caplog):
    """Runs the command: nothing is said on success and one line on failure, not even by open_clip of random weights."""

    def run(*arguments, status=0):
        caplog.clear()
        done = CliRunner().invoke(command, [str(a) for a in arguments])
        assert done.exit_code == status and not isinstance(done.exception, StudyError), done.output
        assert not caplog.records
        if status:
            assert done.output.startswith("Error: ") and done.output.count("\n") == 1
        else:
            assert done.output == ""
        return done.output

    return run


def test_the_command_brings_a_published_tower_home_and_ours_out(convert, tmp_path):
    base, theirs, own, again = (tmp_path / n for n in ("base.safetensors", "them.pth.tar", "own.safetensors", "again"))
    clip.save(base, built(seed=9), ARCH)
    model = built()
    official(theirs, model)
    convert(theirs, "--arch", ARCH, "--base", base, "--norm-stats", "clip", "--out", own)
    loaded = clip.create(ARCH, own)
    model.load_state_dict({k: v for k, v in built(seed=9).state_dict().items() if k[:7] != "visual."}, strict=False)
    assert torch.equal(logits(loaded), logits(model))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    convert(own, "--arch", ARCH, "--to", "official", "--epoch", 4, "--out", again)
    assert torch.load(again, weights_only=True)["epoch"] == 4
    convert(again, "--arch", ARCH, "--to", "robustvlm", "--norm-stats", "clip", "--out", tmp_path / "final.pt")
    convert(tmp_path / "final.pt", "--arch", ARCH, "--base", base, "--out", tmp_path / "home.safetensors")
    assert (tmp_path / "home.safetensors").read_bytes() == own.read_bytes()
    assert files.load_tensors(own)[1] == {"arch": ARCH, "norm_stats": "clip"}


def test_the_command_keeps_the_pixel_statistics_it_is_told(convert, tmp_path):
    base, theirs, own = tmp_path / "base.safetensors", tmp_path / "pmg.pth.tar", tmp_path / "own.safetensors"
    clip.save(base, built(seed=9), ARCH)
    official(theirs, built())
    for stated, mean in (("clip", 0.4814547), ("imagenet", 0.485)):
        convert(theirs, "--arch", ARCH, "--base", base, "--out", own, "--norm-stats", stated)
        assert clip.create(ARCH, own).visual.image_mean[0] == pytest.approx(mean, abs=1e-6)


def test_the_command_says_in_one_line_what_is_wrong(convert, tmp_path):
    base, theirs, out = tmp_path / "base.safetensors", tmp_path / "final.pt", tmp_path / "out"
    clip.save(base, built(), ARCH)
    checkpoints.write_robustvlm(theirs, built(), ARCH)

    def wrong(*arguments):
        return convert(*arguments, "--out", out, status=1)

    assert "holds the image tower alone: it needs a base" in wrong(theirs, "--arch", ARCH)
    assert "'official' takes no base" in wrong(theirs, "--arch", ARCH, "--to", "official", "--base", base)
    assert "did you mean 'small-quickgelu'?" in wrong(theirs, "--arch", "small-quikgelu", "--base", base)
    assert "arch must have OpenAI's towers" in wrong(theirs, "--arch", "RN50-quickgelu", "--to", "robustvlm")
    assert "was written for 'small-quickgelu', not for 'small'" in wrong(theirs, "--arch", GELU, "--base", base)
    assert "use 'small-quickgelu'" in wrong(theirs, "--arch", GELU, "--to", "robustvlm")
    assert "the base must be a whole CLIP model" in wrong(theirs, "--arch", ARCH, "--base", theirs)
    assert "does not fit 'small-fine-quickgelu'" in wrong(theirs, "--arch", FINER, "--to", "robustvlm")
    assert not out.exists()
    out.mkdir()
    assert "is a folder, and must be a file" in wrong(theirs, "--arch", ARCH, "--to", "robustvlm")


def test_the_command_takes_a_whole_model_without_a_base_and_needs_to_be_told_the_activation(convert, tmp_path):
    WHOLE["open_clip"](tmp_path / "whole.pt", built(GELU))
    arguments = [tmp_path / "whole.pt", "--arch", GELU, "--out", tmp_path / "own.safetensors"]
    assert "does not record its activation" in convert(*arguments, status=1)
    convert(*arguments, "--activation", "gelu")
    assert files.load_facts(tmp_path / "own.safetensors") == {"arch": GELU, "norm_stats": "clip"}
    assert torch.equal(clip.create(GELU, tmp_path / "own.safetensors").text_projection, built(GELU).text_projection)


def test_python_names_no_format_that_is_not_written(tmp_path):
    checkpoints.write_whole(tmp_path / "own", built(), ARCH)
    with pytest.raises(StudyError, match="to must be one of zsr, official, robustvlm, got 'robustvml'; did you mean"):
        checkpoints.convert(tmp_path / "own", tmp_path / "out", ARCH, "robustvml")


def test_a_base_that_lacks_a_parameter_is_refused(convert, tmp_path):
    state = built().state_dict()
    del state["text_projection"]
    files.save_tensors(tmp_path / "base.safetensors", state)
    checkpoints.write_robustvlm(tmp_path / "final.pt", built(), ARCH)
    arguments = ["--base", tmp_path / "base.safetensors", "--out", tmp_path / "out"]
    assert "missing: text_projection" in convert(tmp_path / "final.pt", "--arch", ARCH, *arguments, status=1)


def test_open_clips_notice_of_random_weights_is_kept_for_those_who_want_them(caplog):
    checkpoints.build(ARCH)
    assert not caplog.records
    clip.create(ARCH)
    assert "initialized randomly" in caplog.text


def test_the_command_explains_itself():
    said = CliRunner().invoke(command, ["--help"]).output
    assert all(word in said for word in ("--arch", "--base", "--to", "official", "robustvlm", "quickgelu"))


@pytest.mark.slow
def test_a_vit_b_32_of_the_published_size_goes_round(convert, tmp_path):
    arch, base, theirs = "ViT-B-32-quickgelu", tmp_path / "base.safetensors", tmp_path / "checkpoint.pth.tar"
    model = checkpoints.build(arch)
    assert len(model.visual.state_dict()) == 152
    clip.save(base, model, arch)
    changed = checkpoints.build(arch)
    checkpoints.write_official(theirs, changed, arch)
    out = ["--to", "robustvlm", "--out", tmp_path / "final.pt"]
    assert "use 'ViT-B-32-quickgelu'" in convert(theirs, "--arch", "ViT-B-32", *out, status=1)
    message = convert(theirs, "--arch", "ViT-B-16-quickgelu", *out, status=1)
    assert "its shapes are those of 'ViT-B-32-quickgelu'" in message
    stated = ["--norm-stats", "clip"]
    convert(theirs, "--arch", arch, "--base", base, *stated, "--out", tmp_path / "own.safetensors")
    given = torch.nn.functional.normalize(torch.randn(5, 512), dim=1)
    assert torch.equal(logits(clip.create(arch, tmp_path / "own.safetensors"), given), logits(changed, given))
