import copy
import json

import open_clip
import pytest
import torch
from torch.nn import functional as F

from zsr.errors import ParamError
from zsr.models import clip
from zsr.models.classifier import Classifier


def normalised(visual, images):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (visual.image_mean, visual.image_std))
    return (images - mean) / std


@pytest.mark.parametrize("pool_type", ["avg", "tok"])
def test_tokens_pool_to_what_open_clip_encodes(clip_model, text_embeddings, batch, pool_type):
    clip_model.visual.pool_type = pool_type
    model = Classifier(clip_model, text_embeddings)
    tokens = model.tokens(batch.images)
    assert tokens.shape == (6, 37, 48) and clip_model.visual.proj.shape == (64, 48)  # a projection forgotten would show
    expected = clip_model.encode_image(normalised(clip_model.visual, batch.images))
    torch.testing.assert_close(model.pool(tokens), expected)


def test_logits_are_scaled_cosines_with_the_prompts(model, clip_model, text_embeddings, batch):
    features = F.normalize(model.image_features(batch.images), dim=1)
    expected = clip_model.logit_scale.exp() * features @ text_embeddings.T
    torch.testing.assert_close(model(batch.images), expected)


def test_images_of_another_size_are_enlarged_inside_and_attacked_at_their_own(model):
    images = torch.rand(2, 3, 12, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert gradient.shape == images.shape and gradient.abs().sum() > 0
    larger = F.interpolate(images, (24, 24), mode="bicubic", align_corners=False)
    torch.testing.assert_close(model(images), model(larger))


def test_a_tower_without_plain_pooling_is_refused(clip_model, text_embeddings):
    clip_model.visual.final_ln_after_pool = True
    with pytest.raises(ParamError, match="model.arch: VisionTransformer has no plain CLS or average pooling"):
        Classifier(clip_model, text_embeddings)


def test_a_checkpoint_loads_by_name_and_path_in_open_clip(clip_model, tmp_path, batch):
    path = tmp_path / "model.safetensors"
    clip.save(path, clip_model)
    loaded = open_clip.create_model("zsr-tiny", pretrained=str(path)).eval()
    images, tokens = normalised(loaded.visual, batch.images), open_clip.get_tokenizer("zsr-tiny")(["a red star"])
    assert tokens.shape == (1, 16)
    for ours, theirs in zip(clip_model(images, tokens), loaded(images, tokens)):
        assert torch.equal(ours, theirs)


def test_equal_weights_are_equal_bytes(clip_model, tmp_path):
    clip.save(tmp_path / "a.safetensors", clip_model)
    clip.save(tmp_path / "b.safetensors", copy.deepcopy(clip_model))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_text_embeddings_are_unit_rows_one_per_prompt(clip_model):
    embeddings = clip.embed_texts(clip_model, "zsr-tiny", ["a star", "the letter a", "the digit one"])
    assert embeddings.shape == (3, 48) and not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_embedding_and_width_differ_so_that_a_forgotten_projection_shows():
    from pathlib import Path

    config = json.loads((Path(clip.__file__).parent / "configs" / "zsr-tiny.json").read_text())
    assert config["embed_dim"] != config["vision_cfg"]["width"]
