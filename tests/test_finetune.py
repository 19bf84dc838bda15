import copy
from dataclasses import replace

import pytest
import torch

from zsr.data.split import make
from zsr.finetune import FineTuning, _anchors, finetune
from zsr.models.classifier import Classifier
from zsr.params import block, component


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 20, 0, 24)


@pytest.fixture
def recipe(document):
    return replace(block(document, "train", FineTuning), epochs=1, batch_size=8, warmup_steps=1, save_every=1)


@pytest.fixture
def text():
    return torch.nn.functional.normalize(torch.randn(12, 48), dim=1)


@pytest.mark.parametrize("name", ["ft_clean", "tga_zsr", "embedding_anchor"])
def test_only_the_image_tower_moves(document, name, clip_model, text, source, recipe, tmp_path):
    before = copy.deepcopy(clip_model.state_dict())
    rows = finetune(component(document, "methods", name), clip_model, text, source, recipe, tmp_path / "s")
    moved = {key for key, value in clip_model.state_dict().items() if not torch.equal(value, before[key])}
    assert len(rows) == 3 and moved and all(key.startswith("visual.") for key in moved)


def test_clip_stays_as_it_is(document, clip_model, text, source, recipe, tmp_path):
    before = copy.deepcopy(clip_model.state_dict())
    assert finetune(component(document, "methods", "clip"), clip_model, text, source, recipe, tmp_path / "s") == []
    assert all(torch.equal(value, before[key]) for key, value in clip_model.state_dict().items())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    document, clip_model, text, source, recipe, tmp_path
):
    method = component(document, "methods", "tecoa")
    results = []
    for i, seed in enumerate((0, 0, 1)):
        trained = copy.deepcopy(clip_model)
        finetune(method, trained, text, source, replace(recipe, seed=seed), tmp_path / str(i))
        results.append(trained.visual.conv1.weight)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_anchors_are_what_the_frozen_model_says_of_each_image(document, clip_model, text, source):
    method = component(document, "methods", "tga_zsr")
    frozen = Classifier(clip_model, text).requires_grad_(False)
    images, labels, _ = source.tensors(range(20))
    pixels = torch.from_numpy(source.images).permute(0, 3, 1, 2)
    anchors = _anchors(method, frozen, pixels, labels, batch_size=8)
    assert anchors.shape == (20, 36)
    torch.testing.assert_close(anchors, method.anchors(frozen, images, labels), atol=1e-5, rtol=1e-4)
    assert _anchors(component(document, "methods", "tecoa"), frozen, pixels, labels, 8) is None


def test_the_first_step_of_tga_starts_at_zero_constraint(document, clip_model, text, source, recipe, tmp_path):
    rows = finetune(component(document, "methods", "tga_zsr"), clip_model, text, source, recipe, tmp_path / "s")
    assert rows[0]["attention_constraint"] < 1e-5 < 1e-4 < rows[1]["attention_constraint"]  # rounding, then a move
