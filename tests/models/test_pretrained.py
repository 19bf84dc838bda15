"""Weights that others have trained: which arch they belong to, and where they come from."""

import pytest
import torch
from open_clip import pretrained as hub

from zsr import files
from zsr.models import clip, pretrained
from zsr.models.pretrained import Pretrained
from zsr.params import ParamError, StudyError
from zsr.training.pretrain import Pretraining, base_of


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
        pretrained.check(arch, Pretrained(pretrained=tag))


@pytest.mark.parametrize("arch", ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "RN50-quickgelu"])
def test_openais_towers_are_known(arch):
    assert pretrained.check(arch, Pretrained(pretrained="openai"))["quick_gelu"]


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(pretrained, "check", lambda arch, wanted: {"hf_hub": "someone/tiny/"})


def test_a_file_of_weights_is_loaded_and_recognised(known, clip_model, tmp_path):
    path = tmp_path / "weights.safetensors"
    clip.save(path, clip_model, "zsr-tiny")
    wanted = Pretrained(pretrained="mine", file=str(path), sha256=files.sha256(path))
    loaded = pretrained.load("zsr-tiny", wanted).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in clip_model.state_dict().items())
    with pytest.raises(StudyError, match=f"base_model.sha256: {path} has {wanted.sha256}, not 0000"):
        pretrained.load("zsr-tiny", Pretrained(pretrained="mine", file=str(path), sha256="0000"))


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x10\0\0\0\0\0\0\0{}              "])
def test_a_file_of_something_else_is_refused_in_one_line(known, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="open_clip cannot load it as weights of zsr-tiny") as error:
        pretrained.load("zsr-tiny", Pretrained(pretrained="mine", file=str(path)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_a_hub_that_does_not_answer(known, monkeypatch):
    with pytest.raises(StudyError, match="base_model.file: gone.pt is not there; put it there, or run dvc pull"):
        pretrained.load("zsr-tiny", Pretrained(pretrained="mine", file="gone.pt"))

    def refuse(*_):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(hub, "download_pretrained", refuse)
    with pytest.raises(StudyError, match="weights file of someone/tiny here and set base_model.file") as error:
        pretrained.load("zsr-tiny", Pretrained(pretrained="mine"))
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
