from dataclasses import replace

import numpy as np
import pytest
import torch

from zsr.data.captioned import draw_pool
from zsr.models import clip
from zsr.training import pretrain as pretraining
from zsr.training.pretrain import (
    MAX_SHIFT,
    Pool,
    Pretraining,
    PretrainingTask,
    _shifted,
    contrastive_terms,
    pretrain,
    pretrain_once,
)


@pytest.fixture(scope="module")
def pool():
    return Pool.of(*draw_pool(256, 0, 24), clip.library().get_tokenizer("zsr-tiny"))


def test_the_pool_keeps_each_text_once_and_each_picture_its_captions():
    texts = [("a star", "a red star"), ("a fish", "a star")]
    made = Pool.of(np.zeros((2, 24, 24, 3), np.uint8), texts, clip.library().get_tokenizer("zsr-tiny"))
    assert (
        made.texts.shape == (3, 16)
        and made.captions.tolist() == [[0, 1], [2, 0]]
        and made.images.shape == (2, 3, 24, 24)
    )


def test_captions_fit_the_context(pool):
    end = clip.library().get_tokenizer("zsr-tiny").eot_token_id
    assert (pool.texts == end).any(dim=1).all() and (pool.texts[:, -1] != end).all()  # nothing was cut off


def test_sharing_the_target_between_equal_captions_would_not_change_the_loss(clip_model):
    generator = torch.Generator().manual_seed(0)
    images = torch.full((4, 3, 24, 24), 50, dtype=torch.uint8)  # flat, so that shifts do nothing
    images[:, 0] += torch.randint(0, 200, (4, 1, 1), generator=generator, dtype=torch.uint8)
    texts = torch.randint(1, 400, (2, 16), generator=generator)
    pool = Pool(images, torch.tensor([[0], [1], [0], [0]]), texts)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip_model.visual.image_mean, clip_model.visual.image_std))
    image_features, text_features, scale = clip_model((images.float() / 255 - mean) / std, texts[[0, 1, 0, 0]])[:3]
    logits = scale * image_features @ text_features.T
    shared = torch.tensor([[1, 0, 1, 1], [0, 3, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]) / 3
    expected = (
        torch.nn.functional.cross_entropy(logits, shared) + torch.nn.functional.cross_entropy(logits.T, shared)
    ) / 2
    torch.testing.assert_close(contrastive_terms(clip_model, pool, torch.arange(4))["contrastive"], expected)


def test_shifts_move_whole_pictures_by_at_most_their_bound():
    images = torch.zeros(50, 3, 9, 9)
    images[:, :, 4, 4] = 1
    moved = _shifted(images)
    places = moved[:, 0].flatten(1).argmax(1)
    assert torch.equal(moved.sum((1, 2, 3)), torch.full((50,), 3.0)) and torch.equal(moved[:, 0], moved[:, 2])
    offsets = torch.stack([places // 9 - 4, places % 9 - 4])
    assert offsets.abs().max() == MAX_SHIFT and len(offsets.unique(dim=1).T) > 10


def test_pre_training_learns_and_is_the_same_with_both_towers_at_a_time(pool, tmp_path):
    recipe = Pretraining(
        seeds=(0,), threads=1, pool=256, epochs=2.5, batch_size=32, optimizer="muon", lr=0.003, weight_decay=0.1,
        warmup_steps=5, grad_clip=1.0, save_every=50,
    )  # fmt: skip
    first, rows = pretrain(lambda: clip.create("zsr-tiny"), pool, recipe, 0, tmp_path / "a")
    both = replace(recipe, threads=2)
    second, again = pretrain(lambda: clip.create("zsr-tiny"), pool, both, 0, tmp_path / "b")
    assert rows == again and all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters()))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3


def test_a_pre_training_is_done_once_and_what_is_kept_is_its_model_and_its_curve(pool, tmp_path, monkeypatch):
    recipe = Pretraining(
        seeds=(0,), threads=1, pool=256, epochs=0.25, batch_size=32, optimizer="adamw", lr=0.002, weight_decay=0.1,
        warmup_steps=1, grad_clip=1.0, save_every=1,
    )  # fmt: skip
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    task = PretrainingTask(recipe=recipe, seed=0, arch="zsr-tiny", image_size=24)
    weights, curve = pretrain_once(task, "code")
    model, rows = pretrain(lambda: clip.create("zsr-tiny"), pool, recipe, 0, tmp_path / "unfinished")
    kept = clip.create("zsr-tiny", weights)
    assert all(torch.equal(x, y) for x, y in zip(kept.parameters(), model.parameters(), strict=True))
    assert [{name: float(value) for name, value in row.items()} for row in curve] == rows and len(rows) == 2
    assert not (weights.parent / "unfinished").exists()
    monkeypatch.setattr(pretraining, "pretrain", None)
    assert pretrain_once(task, "code") == (weights, curve)


def test_a_resnet_learns_by_batch_statistics_and_sees_drawn_pictures_enlarged(pool, tmp_path):
    recipe = Pretraining(
        seeds=(0,), threads=1, pool=256, epochs=1, batch_size=32, optimizer="adamw", lr=0.002, weight_decay=0.1,
        warmup_steps=2, grad_clip=1.0, save_every=50,
    )  # fmt: skip
    untrained = clip.create("zsr-tiny-rn")
    model, rows = pretrain(lambda: clip.create("zsr-tiny-rn"), pool, recipe, 0, tmp_path / "a")
    assert len(rows) == 8 and rows[-1]["loss"] < rows[0]["loss"] and not model.training
    assert model.visual.bn1.num_batches_tracked == 8
    assert not torch.equal(model.visual.bn1.running_mean, untrained.visual.bn1.running_mean)
    seen = []
    model.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    contrastive_terms(model, pool, torch.arange(4))
    assert seen == [(4, 3, 32, 32)] and pool.images.shape[-1] == 24


def test_only_tokens_of_captions_learn(pool, tmp_path):
    recipe = Pretraining(
        seeds=(0,), threads=1, pool=256, epochs=0.5, batch_size=32, optimizer="muon", lr=0.003, weight_decay=0.1,
        warmup_steps=1, grad_clip=1.0, save_every=50,
    )  # fmt: skip
    created = []
    trained, _ = pretrain(
        lambda: created.append(clip.create("zsr-tiny")) or created[0], pool, recipe, 0, tmp_path / "a"
    )
    torch.manual_seed(pretraining.mix(0))
    untrained, used = clip.create("zsr-tiny").token_embedding.weight, pool.texts.unique()
    same = (trained.token_embedding.weight == untrained).all(dim=1)
    assert same.sum() == len(same) - len(used) and not same[used].any()


def test_a_training_on_the_tokens_of_captions_is_a_training_on_all_tokens(pool):
    """The loss and the gradients of all parameters are those of the whole embedding."""
    torch.manual_seed(0)
    model, grads, losses = clip.create("zsr-tiny").train(), [], []
    tokens, texts = pool.texts.unique(return_inverse=True)

    def run(pool):
        torch.manual_seed(1)
        model.zero_grad()
        loss = contrastive_terms(model, pool, torch.arange(32))["contrastive"]
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})

    run(pool)
    with pretraining._only_tokens(model, tokens):
        run(Pool(pool.images, pool.captions, texts))
    torch.testing.assert_close(losses[0], losses[1])
    grads[0]["token_embedding.weight"] = grads[0]["token_embedding.weight"][tokens]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)
