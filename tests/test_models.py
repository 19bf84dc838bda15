import copy
import json

import open_clip
import pytest
import torch
from torch.nn import functional as F

from zsr.errors import ParamError
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.models.pixels import set_norm_stats


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


def test_with_cls_pooling_the_last_block_computes_cls_alone_and_gives_the_same(clip_model, text_embeddings, batch):
    clip_model.visual.pool_type = "tok"
    model = Classifier(clip_model, text_embeddings)
    images = batch.images.requires_grad_()
    short, whole = model.image_features(images), model.pool(model.tokens(images))
    torch.testing.assert_close(short, whole)
    slopes = [torch.autograd.grad(f.square().sum(), images)[0] for f in (short, whole)]
    torch.testing.assert_close(*slopes)
    widths = []
    hook = clip_model.visual.transformer.resblocks[-1].mlp.register_forward_hook(
        lambda _module, inputs, _output: widths.append(inputs[0].shape[1])
    )
    model(images)
    hook.remove()
    assert widths == [1]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_tower_of_one_block_has_features_too(clip_model, text_embeddings, batch, layers):
    clip_model.visual.pool_type = "tok"
    del clip_model.visual.transformer.resblocks[layers:]
    model = Classifier(clip_model, text_embeddings)
    torch.testing.assert_close(model.image_features(batch.images), model.pool(model.tokens(batch.images)))


def test_a_checkpoint_brings_the_statistics_it_was_trained_with(clip_model, text_embeddings, batch, tmp_path):
    """Quirk M4: a model trained with ImageNet's mean and std must be evaluated with them."""
    means = {}
    for stats in ("clip", "imagenet"):
        model = copy.deepcopy(clip_model)
        set_norm_stats(model, stats)
        clip.save(tmp_path / "m.safetensors", model, "zsr-tiny", stats)
        loaded = clip.create("zsr-tiny", tmp_path / "m.safetensors")
        assert torch.equal(*(Classifier(m.eval(), text_embeddings)(batch.images) for m in (model, loaded)))
        means[stats] = Classifier(loaded, text_embeddings).mean.flatten().tolist()
    assert means["imagenet"] == pytest.approx([0.485, 0.456, 0.406]) and means["clip"][0] == pytest.approx(0.4814547)


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
    clip.save(path, clip_model, "zsr-tiny")
    loaded = open_clip.create_model("zsr-tiny", pretrained=str(path)).eval()
    images, tokens = normalised(loaded.visual, batch.images), open_clip.get_tokenizer("zsr-tiny")(["a red star"])
    assert tokens.shape == (1, 16)
    for ours, theirs in zip(clip_model(images, tokens), loaded(images, tokens)):
        assert torch.equal(ours, theirs)


def test_equal_weights_are_equal_bytes(clip_model, tmp_path):
    clip.save(tmp_path / "a.safetensors", clip_model, "zsr-tiny")
    clip.save(tmp_path / "b.safetensors", copy.deepcopy(clip_model), "zsr-tiny")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_text_embeddings_are_unit_rows_one_per_prompt(clip_model):
    embeddings = clip.embed_texts(clip_model, "zsr-tiny", ["a star", "the letter a", "the digit one"])
    assert embeddings.shape == (3, 48) and not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_embedding_and_width_differ_so_that_a_forgotten_projection_shows():
    from pathlib import Path

    config = json.loads((Path(clip.__file__).parent / "configs" / "zsr-tiny.json").read_text())
    assert config["embed_dim"] != config["vision_cfg"]["width"]
