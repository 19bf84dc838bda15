import copy
import json

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch.nn import functional as F

from zsr.models import clip
from zsr.models.clip import Classifier, PatchEmbedding
from zsr.models.heads import set_norm_stats
from zsr.params import ParamError


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_embedding_of_patches_is_the_convolution_with_its_gradients(layout):
    convolution = torch.nn.Conv2d(3, 8, (4, 6), (4, 6), dtype=torch.float64)
    images = torch.rand(2, 3, 12, 24, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    results = []
    for layer in (convolution, PatchEmbedding(convolution)):
        out = layer(images)
        results.append([out, *torch.autograd.grad(out.square().sum(), [images, *layer.parameters()])])
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize(
    "prompts, message",
    [
        (["a star", "in this picture you can clearly see a small and brightly coloured drawing of a star"], "reads 16"),
        (["a star", "a  star"], "'a star' and 'a  star' are the same tokens"),
        (["a star", "a <end_of_text> ring"], "'a <end_of_text> ring' has the tokenizer's mark of start or end"),
        (["a star", "a <start_of_text>"], "'a <start_of_text>' has the tokenizer's mark"),
    ],
)
def test_prompts_that_the_text_tower_cannot_tell_apart_are_refused(clip_model, prompts, message):
    with pytest.raises(ParamError, match=message):
        clip.embed_texts(clip_model, "zsr-tiny", prompts)


def test_equal_prompts_have_equal_embeddings(clip_model):
    first, second = clip.embed_texts(clip_model, "zsr-tiny", ["a crane", "a crane"])
    assert torch.equal(first, second)


def test_many_prompts_are_embedded_in_batches_and_few_at_once(clip_model, monkeypatch):
    """All prompts of ImageNet at once would take 2.8 GB; two equal ones may stand in different batches."""
    prompts = [f"picture {n} of a star" for n in range(299)] + ["picture 0 of a star"]
    tokens, sizes, encode = clip.library().get_tokenizer("zsr-tiny")(prompts), [], clip_model.encode_text

    def counted(part, normalize):
        sizes.append(len(part))
        return encode(part, normalize=normalize)

    monkeypatch.setattr(clip_model, "encode_text", counted)
    many = clip.embed_texts(clip_model, "zsr-tiny", prompts)
    assert sizes == [128, 128, 43] and torch.equal(many[0], many[-1])
    with torch.no_grad():
        torch.testing.assert_close(many, encode(tokens, normalize=True), rtol=1e-5, atol=1e-6)
        assert torch.equal(
            clip.embed_texts(clip_model, "zsr-tiny", prompts[:128]), encode(tokens[:128], normalize=True)
        )


def test_embedding_and_width_differ_so_that_a_forgotten_projection_shows():
    from pathlib import Path

    config = json.loads((Path(clip.__file__).parent / "configs" / "zsr-tiny.json").read_text())
    assert config["embed_dim"] != config["vision_cfg"]["width"]


@pytest.fixture
def resnet():
    """A classifier whose tower is a small ResNet of CLIP's kind, at 64 pixels: four places."""
    visual = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=64, width=8).eval()
    visual.image_mean, visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    clip = torch.nn.Module()
    clip.visual, clip.logit_scale = visual, torch.nn.Parameter(torch.tensor(2.0))
    return Classifier(clip, F.normalize(torch.randn(3, 16), dim=1))


def test_a_resnets_patch_token_is_what_its_pooling_gives_for_one_place(resnet):
    images = torch.rand(2, 3, 64, 64)
    visual, pool = resnet.visual, resnet.visual.attnpool
    with torch.no_grad():
        tokens = resnet.tokens(images)
        prepared = (images - resnet.mean) / resnet.std
        places = visual.forward_intermediates(prepared, indices=1)["image_intermediates"][0].flatten(2).permute(2, 0, 1)
        torch.testing.assert_close(tokens[:, 0], visual(prepared))
        assert resnet.grid == (2, 2) and tokens.shape == (2, 5, 16)
        for i, place in enumerate(places):
            seen = (place + pool.positional_embedding[1 + i])[None]  # the one key and value there is
            biases = torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias])
            alone, _ = F.multi_head_attention_forward(
                seen, seen, seen, 256, 4, None, biases, None, None, False, 0.0, pool.c_proj.weight, pool.c_proj.bias,
                training=False, use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight,
                k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
            )  # fmt: skip
            torch.testing.assert_close(tokens[:, 1 + i], alone[0])


def test_a_resnet_is_enlarged_to_and_classifies_by_its_pooling(resnet):
    images = torch.rand(2, 3, 24, 24)
    large = F.interpolate(images, (64, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resnet(images), resnet(large))
    torch.testing.assert_close(resnet.pool(resnet.tokens(images)), resnet.image_features(images))
