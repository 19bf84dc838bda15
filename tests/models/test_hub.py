"""Checkpoints of the hub, without a network: which file is taken, and what is said where there is none."""

import json

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

import zsr
from zsr.models import clip, heads, hub
from zsr.params import StudyError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder in place of the hub; what was asked for is noted."""
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        if not (tmp_path / file).is_file():
            raise EntryNotFoundError.__new__(EntryNotFoundError)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path, asked


@pytest.mark.parametrize(
    "text, name, revision",
    [("hf-hub:a/b", "a/b", "main"), ("hf-hub:a-1/b.c_d@v1.0", "a-1/b.c_d", "v1.0"), ("hf-hub:a/b@0f3e", "a/b", "0f3e")],
)
def test_a_name_has_a_repository_and_a_revision(text, name, revision):
    assert hub.Repository.parsed(text) == hub.Repository(name, revision)


@pytest.mark.parametrize("text", ["hf-hub:fare", "hf-hub:a/b/c", "hf-hub:a/b@", "hf-hub:", "hf-hub:a b/c"])
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match="weights must be hf-hub:organisation/name"):
        hub.Repository.parsed(text)


def test_a_study_must_pin_the_revision():
    with pytest.raises(ValueError, match="must name a revision"):
        hub.Repository.parsed("hf-hub:a/b", pinned=True)
    assert hub.Repository.parsed("hf-hub:a/b@1", pinned=True).revision == "1"


def test_the_first_known_file_of_weights_is_taken_at_the_revision(repository):
    folder, asked = repository
    for file in ("open_clip_pytorch_model.bin", "pytorch_model.bin"):
        (folder / file).write_bytes(b"")
    assert hub.fetched("hf-hub:a/b@3").name == "open_clip_pytorch_model.bin"
    assert {(name, revision) for name, _, revision in asked} == {("a/b", "3")}
    for file in ("open_clip_pytorch_model.bin", "pytorch_model.bin"):
        (folder / file).unlink()
    with pytest.raises(StudyError, match="none of open_clip_model.safetensors, .* is in the repository"):
        hub.fetched("hf-hub:a/b")


@pytest.mark.parametrize(
    "error, reason",
    [(LocalEntryNotFoundError("offline"), "no network"), (RepositoryNotFoundError, "RepositoryNotFoundError")],
)
def test_what_the_client_says_becomes_one_line(monkeypatch, error, reason):
    def download(*arguments, **options):
        raise error if isinstance(error, Exception) else error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(StudyError, match=f"hf-hub:a/b@main could not be had \\({reason}") as caught:
        hub.fetched("hf-hub:a/b")
    assert "\n" not in str(caught.value)


def test_a_repository_that_states_its_config_needs_no_arch(repository, clip_model, batch):
    folder, _ = repository
    clip.save(folder / "open_clip_model.safetensors", clip_model, "zsr-tiny")
    config = clip.library().get_model_config("zsr-tiny")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = zsr.load("hf-hub:a/b")
    assert model.arch == "zsr-tiny"
    assert torch.equal(model.encode_image(batch.images), clip_model.encode_image(batch.images))
    for content in ("{", "[]", "null", '"a"', "[" * 100_000):
        (folder / "open_clip_config.json").write_text(content)
        with pytest.raises(StudyError, match=r"\A[^\n]*open_clip_config.json is no JSON object[^\n]*\Z"):
            zsr.load("hf-hub:a/b")


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ({"mean": list(heads.CLIP[0]), "std": list(heads.CLIP[1])}, "clip"),
        ({"mean": list(heads.IMAGENET[0]), "std": list(heads.IMAGENET[1])}, "imagenet"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, "inception"),
        ({}, "clip"),
        ({"mean": None}, "clip"),
        ([], "clip"),
    ],
)
def test_a_repository_states_its_pixel_statistics(repository, clip_model, stated, name):
    folder, _ = repository
    torch.save(clip_model.state_dict(), folder / "pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": stated}))
    assert heads.norm_stats(zsr.load("hf-hub:a/b", "zsr-tiny")) == name
    assert heads.norm_stats(zsr.load("hf-hub:a/b", "zsr-tiny", norm_stats="imagenet")) == "imagenet"
    clip.save(folder / "open_clip_model.safetensors", clip_model, "zsr-tiny")  # a file of ours says it itself
    assert heads.norm_stats(zsr.load("hf-hub:a/b", "zsr-tiny")) == "clip"


@pytest.mark.parametrize("stated", [{"mean": [0, 0, 0], "std": [1, 1, 1]}, {"mean": 0.5, "std": 0.5}, {"mean": "a"}])
def test_unknown_pixel_statistics_of_a_repository_have_to_be_stated(repository, clip_model, stated):
    folder, _ = repository
    torch.save(clip_model.state_dict(), folder / "pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": stated}))
    with pytest.raises(StudyError, match=r"\Ahf-hub:a/b states a mean and std .* none of clip, imagenet, inception"):
        zsr.load("hf-hub:a/b", "zsr-tiny")
    assert heads.norm_stats(zsr.load("hf-hub:a/b", "zsr-tiny", norm_stats="clip")) == "clip"


def test_weights_in_the_cache_need_no_config_there(repository, clip_model, monkeypatch):
    folder, _ = repository
    torch.save(clip_model.state_dict(), folder / "pytorch_model.bin")

    def download(name, file, revision):
        if file == hub.CONFIG:
            raise LocalEntryNotFoundError("offline")
        return there(name, file, revision)

    there = huggingface_hub.hf_hub_download
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert heads.norm_stats(zsr.load("hf-hub:a/b", "zsr-tiny")) == "clip"
