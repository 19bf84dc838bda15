"""Towers of the published code: read, written, refused. A small CLIP of OpenAI's form stands for theirs."""

import io
import json
import os
import pickle

import numpy as np
import open_clip
import pytest
import torch
from click.testing import CliRunner

from stages.convert import main
from zsr import files
from zsr.models import checkpoints, clip
from zsr.models.clip import Classifier
from zsr.params import StudyError

ARCH, GELU, FINER = "small-quickgelu", "small", "small-fine-quickgelu"  # FINER: smaller patches, as B/16 beside B/32
VISION = {"image_size": 24, "patch_size": 8, "width": 128, "layers": 2}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
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


def refused(path, arch=ARCH):
    """The message with which a file is refused; it is one line, names the file, and the model stays as it was."""
    model = built(arch, seed=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StudyError) as error:
        checkpoints.load_visual(model, arch, path)
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
    checkpoints.load_visual(other, ARCH, path)
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


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_missing_file_a_folder_a_text_and_a_torchscript_archive_are_refused(tmp_path):
    assert refused(tmp_path / "none.pt") == ": No such file or directory"
    assert refused(tmp_path) == ": Is a directory"
    (tmp_path / "note.pt").write_text("not weights, but a note\n")
    assert ": not a checkpoint of plain weights" in refused(tmp_path / "note.pt")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(tmp_path / "ViT-B-32.pt"))
    assert refused(tmp_path / "ViT-B-32.pt").startswith(": a TorchScript archive")


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


# --- the command


@pytest.fixture
def convert(caplog):
    """Runs the command: nothing is said on success and one line on failure, not even by open_clip of random weights."""

    def run(*arguments, status=0):
        caplog.clear()
        done = CliRunner().invoke(main, [str(a) for a in arguments])
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
    convert(theirs, "--arch", ARCH, "--base", base, "--out", own)
    loaded = clip.create(ARCH, own)
    model.load_state_dict({k: v for k, v in built(seed=9).state_dict().items() if k[:7] != "visual."}, strict=False)
    assert torch.equal(logits(loaded), logits(model))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    convert(own, "--arch", ARCH, "--to", "official", "--epoch", 4, "--out", again)
    assert torch.load(again, weights_only=True)["epoch"] == 4
    convert(again, "--arch", ARCH, "--to", "robustvlm", "--out", tmp_path / "final.pt")
    convert(tmp_path / "final.pt", "--arch", ARCH, "--base", base, "--out", tmp_path / "home.safetensors")
    assert (tmp_path / "home.safetensors").read_bytes() == own.read_bytes()
    assert files.load_tensors(own)[1] == {"arch": ARCH, "norm_stats": "clip"}


def test_the_command_keeps_the_pixel_statistics_it_is_told(convert, tmp_path):
    base, theirs, own = tmp_path / "base.safetensors", tmp_path / "pmg.pth.tar", tmp_path / "own.safetensors"
    clip.save(base, built(seed=9), ARCH)
    official(theirs, built())
    for extra, mean in (([], 0.4814547), (["--norm-stats", "imagenet"], 0.485)):
        convert(theirs, "--arch", ARCH, "--base", base, "--out", own, *extra)
        assert clip.create(ARCH, own).visual.image_mean[0] == pytest.approx(mean, abs=1e-6)


def test_the_command_says_in_one_line_what_is_wrong(convert, tmp_path):
    base, theirs, out = tmp_path / "base.safetensors", tmp_path / "final.pt", tmp_path / "out"
    clip.save(base, built(), ARCH)
    checkpoints.write_robustvlm(theirs, built(), ARCH)

    def wrong(*arguments):
        return convert(*arguments, "--out", out, status=1)

    assert "'zsr' needs a base for all but the image tower" in wrong(theirs, "--arch", ARCH)
    assert "'official' takes no base" in wrong(theirs, "--arch", ARCH, "--to", "official", "--base", base)
    assert "did you mean 'small-quickgelu'?" in wrong(theirs, "--arch", "small-quikgelu", "--base", base)
    assert "arch must have OpenAI's towers" in wrong(theirs, "--arch", "RN50-quickgelu", "--to", "robustvlm")
    assert "was written for 'small-quickgelu', not for 'small'" in wrong(theirs, "--arch", GELU, "--base", base)
    assert "use 'small-quickgelu'" in wrong(theirs, "--arch", GELU, "--to", "robustvlm")
    assert "the base must be a whole CLIP model" in wrong(theirs, "--arch", ARCH, "--base", theirs)
    assert "does not fit 'small-fine-quickgelu'" in wrong(theirs, "--arch", FINER, "--to", "robustvlm")
    assert not out.exists()
    out.mkdir()
    assert "Is a directory" in wrong(theirs, "--arch", ARCH, "--to", "robustvlm")


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
    said = CliRunner().invoke(main, ["--help"]).output
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
    convert(theirs, "--arch", arch, "--base", base, "--out", tmp_path / "own.safetensors")
    given = torch.nn.functional.normalize(torch.randn(5, 512), dim=1)
    assert torch.equal(logits(clip.create(arch, tmp_path / "own.safetensors"), given), logits(changed, given))
