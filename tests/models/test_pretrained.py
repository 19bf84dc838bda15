"""Weights that others have trained: which arch they belong to, and where they come from."""

import copy
import hashlib
import json

import huggingface_hub
import pytest
import torch
from open_clip import pretrained as hub

from tests.mirror import mirror
from tests.models.test_checkpoints import archive, transformers_names
from zsr import files
from zsr.data.fetching.download import Expected
from zsr.models import base_weights, checkpoints, clip, heads
from zsr.models.pretrained import Pretrained, check
from zsr.params import ParamError, StudyError
from zsr.training.pretrain import Pretraining, base_of

PLAIN = {  # a model as transformers' CLIPModel is: the CLS token, no pooling of its own
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 24, "patch_size": 8, "width": 128, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.mark.parametrize(
    "arch, tag, message",
    [
        ("ViT-B-32-quickgelu", "opennai", r"must be a tag of ViT-B-32-quickgelu \(.*metaclip.*did you mean 'openai'"),
        ("ViT-B-32", "openai", "model.arch must be 'ViT-B-32-quickgelu' for the weights 'openai', got 'ViT-B-32'"),
        ("RN50", "openai", "model.arch must be 'RN50-quickgelu' for the weights 'openai'"),
        ("zsr-tiny", "openai", r"must be a tag of zsr-tiny \(none\)"),
    ],
)  # fmt: skip
def test_weights_of_another_arch_or_activation_are_refused(arch, tag, message):
    with pytest.raises(ParamError, match=message):
        check(arch, Pretrained(pretrained=tag))


@pytest.mark.parametrize("arch", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "RN50-quickgelu"])
def test_openais_towers_are_known(arch):
    assert check(arch, Pretrained(pretrained="openai"))["quick_gelu"]


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(base_weights, "check", lambda arch, wanted: {"hf_hub": "someone/tiny/"})


def test_a_file_of_weights_is_loaded_and_recognised(known, clip_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    clip.save(path, clip_model, "zsr-tiny")
    wanted = Pretrained(pretrained="mine", file=str(path), sha256=files.sha256(path))
    loaded = base_weights.load("zsr-tiny", wanted).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in clip_model.state_dict().items())
    with pytest.raises(StudyError, match=f"base_model.sha256: {path} has {wanted.sha256}, not 0000"):
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file=str(path), sha256="0000"))


@pytest.mark.parametrize(("name", "rows"), [("visual.positional_embedding", 26), ("positional_embedding", 20)])
def test_position_embeddings_of_another_size_are_not_stretched(known, clip_model, tmp_path, name, rows):
    """open_clip would stretch those of a tower of larger images, such as ViT-L-14-336 for ViT-L-14."""
    state = clip_model.state_dict()
    torch.save(state | {name: torch.zeros(rows, state[name].shape[1])}, tmp_path / "w.pt")
    with pytest.raises(StudyError, match=f"w.pt: .*of another shape: {name} .{rows}, "):
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file=str(tmp_path / "w.pt")))


def test_weights_that_are_not_finite_are_refused_at_once(known, clip_model, tmp_path):
    torch.save(clip_model.state_dict() | {"visual.proj": torch.full((64, 48), torch.nan)}, tmp_path / "w.pt")
    with pytest.raises(StudyError, match="w.pt has numbers in visual.proj that are not finite"):
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file=str(tmp_path / "w.pt")))


def test_pixel_statistics_of_a_tag_are_those_of_its_training(monkeypatch, clip_model, tmp_path):
    """open_clip's table states them. The weights of LAION for ViT-L-14 have seen other pixels than OpenAI's."""
    stated = {tag: check("ViT-L-14", Pretrained(pretrained=tag)) for tag in ("laion2b_s32b_b82k", "laion400m_e32")}
    stated["none"] = {}
    torch.save(clip_model.state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr(base_weights, "check", lambda arch, wanted: stated[wanted.pretrained])
    found = {"laion2b_s32b_b82k": "inception", "laion400m_e32": "clip", "none": "clip"}
    for tag, name in found.items():
        loaded = base_weights.load("zsr-tiny", Pretrained(pretrained=tag, file=str(tmp_path / "w.pt")))
        assert heads.norm_stats(loaded) == name
    loaded = base_weights.load("zsr-tiny", Pretrained(pretrained="laion2b_s32b_b82k", file=str(tmp_path / "w.pt")))
    clip.save(tmp_path / "0.safetensors", loaded, "zsr-tiny", heads.norm_stats(loaded))
    again = clip.create("zsr-tiny", tmp_path / "0.safetensors")
    assert again.visual.image_mean == again.visual.image_std == (0.5, 0.5, 0.5)


def test_all_vits_of_open_clips_table_have_known_pixel_statistics():
    import open_clip

    for arch, tag in open_clip.list_pretrained():
        if checkpoints._is_openais_kind(open_clip.get_model_config(arch)):
            assert heads.stats_of_config(open_clip.get_pretrained_cfg(arch, tag)), (arch, tag)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x10\0\0\0\0\0\0\0{}              "])
def test_a_file_of_something_else_is_refused_in_one_line(known, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="open_clip cannot load it as weights of zsr-tiny") as error:
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file=str(path)))
    assert "\n" not in str(error.value)


def test_openais_archive_is_read_if_its_digest_is_known(known, clip_model, tmp_path, monkeypatch):
    """What the published codes leave in their cache: code in a zip, half precision, three whole numbers."""
    path = tmp_path / "ViT-B-32.pt"
    archive(path, clip_model)
    wanted = Pretrained(pretrained="mine", file=str(path))
    with pytest.raises(StudyError, match="TorchScript archive, which holds code, so only OpenAI's own") as error:
        base_weights.load("zsr-tiny", wanted)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    monkeypatch.setitem(checkpoints.ARCHIVES, files.sha256(path), "zsr-tiny")
    monkeypatch.setitem(checkpoints.LAYOUTS, "openai", checkpoints.Layout())  # the tiny tower is not of OpenAI's form
    loaded, half = base_weights.load("zsr-tiny", wanted), copy.deepcopy(clip_model).half().float().state_dict()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in half.items())


def test_a_file_with_transformers_names_gives_the_same_logits(monkeypatch, tmp_path):
    """CLIPModel of transformers: other names, separate queries, keys and values, transposed projections."""
    (tmp_path / "plain-quickgelu.json").write_text(json.dumps(PLAIN))
    clip.library().add_model_config(tmp_path / "plain-quickgelu.json")
    monkeypatch.setattr(base_weights, "check", lambda arch, wanted: {})
    torch.manual_seed(0)
    whole, path = clip.create("plain-quickgelu"), tmp_path / "pytorch_model.bin"
    torch.save(transformers_names(whole.state_dict()), path)
    loaded = base_weights.load("plain-quickgelu", Pretrained(pretrained="mine", file=str(path)))
    images, tokens = torch.rand(2, 3, 24, 24), torch.randint(1, 400, (2, 16))
    assert torch.equal(loaded(images, tokens)[0], whole(images, tokens)[0])
    assert torch.equal(loaded(images, tokens)[1], whole(images, tokens)[1])


def test_a_tower_alone_is_refused_with_the_reason(known, tmp_path):
    """The first line of torch's message says nothing."""
    path = tmp_path / "weights.pt"
    torch.save({"visual.conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(StudyError, match="weights of zsr-tiny; holds the image tower alone: it needs a base") as error:
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file=str(path)))
    assert "\n" not in str(error.value)


def test_openais_base_model_is_pinned():
    pinned = base_weights.pin("ViT-B-32-quickgelu", "openai")
    assert pinned.url.endswith(f"/{pinned.repo}/resolve/{pinned.revision}/open_clip_model.safetensors")
    assert (len(pinned.revision), len(pinned.expected.sha256), pinned.expected.size) == (40, 64, 605_143_284)
    assert base_weights.pin("ViT-B-32-quickgelu", "metaclip_400m") is None


def test_a_pinned_file_is_continued_and_checked_and_found_again(known, tmp_path, monkeypatch):
    content = bytes(range(256)) * 20
    right = Expected(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    pinned = base_weights.Pin(repo="someone/tiny", revision="1" * 40, name="w.safetensors", expected=right)
    monkeypatch.setattr(base_weights, "PINS", [pinned])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with mirror() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.address)
        place = f"someone/tiny/resolve/{'1' * 40}/w.safetensors"
        web.files[place], web.faults[place] = content, [("drop", 1000), 404]
        with pytest.raises(StudyError, match="HTTP 404.; with a network run dvc repro base_model once, or bring the"):
            base_weights.downloaded("zsr-tiny", "mine")
        path = base_weights.downloaded("zsr-tiny", "mine")
        assert path.read_bytes() == content and path.is_relative_to(tmp_path)
        assert base_weights.downloaded("zsr-tiny", "mine") == path
        assert "bytes=1000-" in web.ranges() and web.sent[place] == len(content)
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(StudyError, match="w.safetensors has the wrong sha256"):
        base_weights.downloaded("zsr-tiny", "mine")
    path.unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StudyError, match="is not there, and HF_HUB_OFFLINE is set; with a network"):
        base_weights.downloaded("zsr-tiny", "mine")


def test_a_file_that_is_not_there_and_a_hub_that_does_not_answer(known, monkeypatch):
    with pytest.raises(StudyError, match="base_model.file: gone.pt is not there; put it there, or run dvc pull"):
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine", file="gone.pt"))

    def refuse(*_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(hub, "download_pretrained", refuse)
    with pytest.raises(StudyError, match="weights file of someone/tiny here and set base_model.file") as error:
        base_weights.load("zsr-tiny", Pretrained(pretrained="mine"))
    assert "cannot be fetched (ConnectionError)" in str(error.value) and "\n" not in str(error.value)


def test_a_base_model_is_trained_or_named(document):
    assert isinstance(base_of(document), Pretraining)
    assert base_of({"base_model": {"pretrained": "openai"}}) == Pretrained(pretrained="openai")
    with pytest.raises(ParamError, match="unknown key 'base_model.epochs'"):
        base_of({"base_model": {"pretrained": "openai", "epochs": 3}})


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "RN50-quickgelu"])
def test_a_classifier_says_what_the_tower_says(arch):
    """One forward for CLS and patches, CLS alone in the last block, a ResNet's places: features are open_clip's."""
    from zsr.models.clip import Classifier

    model = clip.create(arch)
    classifier = Classifier(model, torch.nn.functional.normalize(torch.randn(5, model.visual.output_dim), dim=1))
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.encode_image((images - classifier.mean) / classifier.std)
        tokens = classifier.tokens(images)
        assert tokens.shape == (2, 1 + classifier.grid[0] * classifier.grid[1], model.visual.output_dim)
        for features in (classifier.image_features(images), classifier.pool(tokens)):
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
