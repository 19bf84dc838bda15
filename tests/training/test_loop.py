import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from zsr.params import ParamError, StudyError, build
from zsr.training.batches import batch_indices
from zsr.training.loop import MUON_RATE, Recipe, fit, learning_rate

RECIPE = Recipe(
    epochs=3,
    batch_size=4,
    optimizer="adamw",
    lr=0.05,
    weight_decay=0.01,
    warmup_steps=2,
    grad_clip=1.0,
    save_every=4,
)


@pytest.mark.parametrize(
    "step, rate", [(0, 1e-7), (499, 5e-5), (999, 1e-4), (1000, 1e-4), (4410, 5e-5), (7819, 5.30e-12)]
)
def test_the_rate_is_the_published_one(step, rate):  # Tiny-ImageNet, batch 128, 10 epochs
    assert learning_rate(step, 7820, replace(RECIPE, lr=1e-4, warmup_steps=1000)) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize(
    "step, rate, usual",
    [(0, 1e-5, 7.14e-9), (1, 1.43e-8, 1.43e-8), (1399, 1e-5, 1e-5), (1400, 1e-5, 1e-5), (10700, 5e-6, 5e-6)],
)
def test_the_first_step_of_fare_takes_the_full_rate(step, rate, usual):  # quirk A2; 20000 steps, 1400 of warm-up
    recipe = replace(RECIPE, lr=1e-5, warmup_steps=1400)
    assert learning_rate(step, 20000, recipe) == pytest.approx(usual, rel=2e-3)
    published = replace(recipe, first_step_full_rate=True)
    assert learning_rate(step, 20000, published) == pytest.approx(rate, rel=2e-3)


def test_an_epoch_passes_once_over_all_samples_in_its_own_order():
    first = torch.cat([batch_indices(step, 10, 4, seed=0) for step in range(3)])
    second = torch.cat([batch_indices(step, 10, 4, seed=0) for step in range(3, 6)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert len(batch_indices(2, 10, 4, seed=0)) == 2  # the last batch is kept
    assert first.tolist() != torch.cat([batch_indices(step, 10, 4, seed=1) for step in range(3)]).tolist()


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.resblocks = nn.ModuleList([nn.Linear(3, 1)])  # the name by which Muon knows matrices

    @property
    def layer(self):
        return self.resblocks[0]


X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def run(recipe, unfinished, steps_allowed=10**6, broken_at=None):
    """Fit a line to noise that each step draws from the global generator; stop as if killed after some steps."""
    model, seen = Line(), []

    def losses(step, part):
        samples = part.samples
        if step == broken_at:
            return {"fit": model.layer(X[samples]).mean() * math.nan}
        if len(seen) == steps_allowed:
            raise KeyboardInterrupt
        seen.append(step)
        target = X[samples].sum(1, keepdim=True) + 0.1 * torch.randn(len(samples), 1)
        return {
            "fit": (model.layer(X[samples]) - target).square().mean(),
            "small": 0.1 * model.layer.bias.square().sum(),
        }

    try:
        rows = fit(model, losses, len(X), recipe, 0, unfinished)
    except KeyboardInterrupt:
        rows = None
    return model, rows, seen


def no_losses(model, step):
    return {
        "nothing": None,
        "a number": model.layer.bias.sum(),
        "no terms": {},
        "a vector": {"fit": model.layer.weight[0]},
        "no tensor": {"fit": 1.0},
        "no gradient": {"fit": model.layer.bias.sum().detach()},
        "a name of the curve": {"step": model.layer.bias.sum()},
        "another name": {"fit" if step < 2 else "fat": model.layer.bias.sum()},
    }


@pytest.mark.parametrize("kind", no_losses(Line(), 0))
def test_losses_that_no_method_of_ours_gives_are_refused(tmp_path, kind):
    model = Line()
    with pytest.raises(StudyError, match="^the losses of (a|the) method .*(scalar|gradient|other than|equal names)"):
        fit(model, lambda step, part: no_losses(model, step)[kind], len(X), RECIPE, 0, tmp_path / "unfinished")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("killed_after", [1, 4, 6])
def test_a_killed_run_continues_bit_for_bit(tmp_path, optimizer, killed_after):
    recipe = replace(RECIPE, optimizer=optimizer)
    whole, rows, _ = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "killed", steps_allowed=killed_after)
    resumed, resumed_rows, seen = run(recipe, tmp_path / "killed")
    assert seen == list(range(4 * (killed_after // 4), 9))  # nothing before the checkpoint is done again
    assert resumed_rows == rows and len(rows) == 9
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_training_fits_and_logs_every_term(tmp_path):
    _, rows, _ = run(replace(RECIPE, epochs=40), tmp_path / "s")
    assert rows[-1]["fit"] < 0.1 * rows[0]["fit"]
    assert list(rows[0]) == ["step", "lr", "loss", "fit", "small"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["fit"] + rows[0]["small"])


def test_a_step_of_sgd_is_the_rate_times_the_clipped_gradient(tmp_path):
    recipe = replace(RECIPE, optimizer="sgd", epochs=1 / 3, warmup_steps=1, grad_clip=0.5, weight_decay=0.0)
    model = Line()
    before = model.layer.weight.detach().clone()
    fit(
        model,
        lambda step, part: {"slope": (model.layer.weight * torch.tensor([3.0, 4.0, 0.0])).sum()},
        10,
        recipe,
        0,
        tmp_path / "s",
    )
    torch.testing.assert_close(before - model.layer.weight, 0.05 * 0.5 * torch.tensor([[0.6, 0.8, 0.0]]))


def test_a_loss_that_is_not_finite_stops_with_its_name_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(StudyError, match=r"stopped at step 6: the loss is not finite \(fit = nan\)"):
        run(RECIPE, tmp_path / "s", broken_at=6)
    assert torch.load(tmp_path / "s", weights_only=True)["step"] == 4


def test_a_gradient_that_is_not_finite_moves_no_parameter(tmp_path):
    model = Line()
    before = model.layer.weight.detach().clone()

    def losses(step, part):  # the root of zero: finite, with an infinite slope
        return {"root": (model.layer.weight.sum() * 0).sqrt()}

    with pytest.raises(StudyError, match="stopped at step 0: the gradient is not finite"):
        fit(model, losses, 10, replace(RECIPE, grad_clip=0.0), 0, tmp_path / "s")
    assert torch.equal(model.layer.weight, before)


def test_muon_moves_block_matrices_by_steps_of_one_size_and_the_rest_like_adam(clip_model, tmp_path):
    recipe = replace(RECIPE, optimizer="muon", epochs=1 / 3, warmup_steps=1, weight_decay=0.0, grad_clip=0.0, lr=0.01)
    matrix, rest = clip_model.visual.transformer.resblocks[0].attn.out_proj.weight, clip_model.visual.proj
    before, rest_before = matrix.detach().clone(), rest.detach().clone()
    images = torch.randn(10, 3, 24, 24)

    def losses(step, part):
        return {"square": clip_model.encode_image(images[part.samples]).square().mean()}

    fit(clip_model, losses, 10, recipe, 0, tmp_path / "s")
    assert torch.linalg.svdvals(before - matrix).max().item() == pytest.approx(MUON_RATE * 0.01, rel=0.3)
    assert (rest_before - rest).abs().median().item() == pytest.approx(0.01, rel=0.01)


def test_bad_recipes_are_refused():
    with pytest.raises(ValueError, match="betas must be two numbers"):
        replace(RECIPE, betas=(0.9,))
    block = {field: value for field, value in vars(RECIPE).items() if field != "betas"}
    with pytest.raises(ParamError, match=r"train.betas\[0\] must be at least 0 and below 1, got 1.0"):
        build(Recipe, block | {"betas": [1.0, 0.999]}, "train")
