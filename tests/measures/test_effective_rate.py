"""The instrument behind the claim on effective rates: filters before statistics of the batch and before fixed ones."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.conftest import ROOT
from zsr.data.sources import make
from zsr.measures.effective_rate import MEASURES, effective_rate, normed_convolutions
from zsr.methods.tecoa import TeCoA
from zsr.methods.twins import set_wing, twinify
from zsr.models import clip
from zsr.params import StudyError, block, read
from zsr.training.finetune import FineTuning, Texts, finetune
from zsr.training.loop import Recipe, fit


@pytest.fixture
def tower():
    """A ModifiedResNet of 64 px, 19 convolutions, whose residual branches are open."""
    from open_clip.modified_resnet import ModifiedResNet

    tower = ModifiedResNet([1, 1, 1, 1], output_dim=48, heads=8, image_size=64, width=16)
    for name, p in tower.named_parameters():
        if name.endswith("bn3.weight"):
            nn.init.ones_(p)
    for _ in range(3):  # statistics of its own, not the 0 and 1 of a new layer
        tower(torch.randn(16, 3, 64, 64))
    return tower


def gradients(tower, images):
    """Of a smooth function of the features, in the convolutions' .grad."""
    tower.zero_grad()
    (tower(images) * torch.linspace(-1, 1, 48)).tanh().sum().backward()
    return {name: conv.weight.grad.clone() for name, conv in normed_convolutions(tower).items()}


def test_every_convolution_of_a_resnet_is_followed_by_batch_norm(tower):
    """All of OpenAI's, wings or not; a ViT has none, and a convolution alone does not count."""
    names = set(normed_convolutions(tower))
    assert names == {name for name, m in tower.named_modules() if isinstance(m, nn.Conv2d)} and len(names) == 19
    twinify(tower)
    assert set(normed_convolutions(tower)) == names
    assert not normed_convolutions(clip.create("zsr-tiny").visual)
    assert not normed_convolutions(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)))


def test_basic_blocks_of_torchvision_are_known_too():
    from torchvision.models import resnet18

    model = resnet18()
    assert len(normed_convolutions(model)) == 20 == sum(isinstance(m, nn.Conv2d) for m in model.modules())


def test_a_row_is_the_formula_by_hand():
    tower = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False), nn.BatchNorm2d(1))
    tower[0].weight.data = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    tower[0].weight.grad = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2)
    row = effective_rate(tower)
    expected = {"rho": 0.4, "radial": 0.8, "weight_norm": 5.0, "gradient_norm": 2.0, "rho_stem": 0.4}
    assert row == pytest.approx(expected)
    tower[0].weight.grad = None
    without = expected | dict.fromkeys(("rho", "radial", "gradient_norm", "rho_stem"), 0.0)
    assert effective_rate(tower) == pytest.approx(without)


def test_stages_are_means_over_their_layers(tower):
    gradients(tower, torch.randn(8, 3, 64, 64))
    row, rates = effective_rate(tower), {}
    for name, conv in normed_convolutions(tower).items():
        stage = name.split(".")[0] if name.startswith("layer") else "stem"
        rates.setdefault(stage, []).append((conv.weight.grad.norm() / conv.weight.norm()).item())
    assert {key for key in row if key.startswith("rho_")} == {f"rho_{stage}" for stage in rates}
    for stage, values in rates.items():
        assert row[f"rho_{stage}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    everything = sum(rates.values(), [])
    assert row["rho"] == pytest.approx(sum(everything) / 19, rel=1e-4)


def ratios(before, after):
    return torch.tensor([(after[name].norm() / before[name].norm()).item() for name in before])


def doubled(tower):
    with torch.no_grad():
        for conv in normed_convolutions(tower).values():
            conv.weight *= 2


def test_t5_batch_statistics_couple_norms_and_fixed_ones_do_not(tower):
    """T5: adaptive, mean |cos| < 1e-4 and gradient norms halved within .01 where weights double; frozen neither."""
    twinify(tower)
    tower.train()
    images, radial, halved = torch.randn(16, 3, 64, 64), {}, {}
    start = {name: value.clone() for name, value in tower.state_dict().items()}
    for wing in ("adaptive", "frozen"):
        tower.load_state_dict(start)
        set_wing(tower, wing)
        before = gradients(tower, images)
        radial[wing] = effective_rate(tower)["radial"]
        doubled(tower)
        halved[wing] = ratios(before, gradients(tower, images))
    assert radial["adaptive"] < 1e-4 < 1e-3 < radial["frozen"]
    assert (halved["adaptive"] - 0.5).abs().max() < 0.01
    assert (halved["frozen"] - 0.5).abs().max() > 0.1


def test_a_tower_without_such_convolutions_is_refused_in_one_line(clip_model):
    with pytest.raises(StudyError, match="needs convolutions with BatchNorm; VisionTransformer has none"):
        effective_rate(clip_model.visual)


# In the curve


RECIPE = Recipe(
    epochs=1, batch_size=4, optimizer="sgd", lr=0.1, weight_decay=0.5, warmup_steps=0, grad_clip=1e-3, save_every=1
)


def test_it_is_observed_before_clipping_and_weight_decay(tmp_path):
    weight = nn.Linear(2, 1, bias=False)
    seen = []

    def observe(model):
        seen.append((model.weight.detach().clone(), model.weight.grad.clone()))
        return {"norm": model.weight.grad.norm().item()}

    slope = torch.tensor([[3.0, 4.0]])
    terms = lambda step, part: {"a": (weight.weight * slope).sum()}  # noqa: E731
    rows = fit(weight, terms, 8, RECIPE, 0, tmp_path / "s", observe=observe)
    assert [row["norm"] for row in rows] == [5.0, 5.0] and list(rows[0]) == ["step", "lr", "loss", "a", "norm"]
    assert all(torch.equal(gradient, slope) for _, gradient in seen)
    moved = seen[0][0] - 0.1 * (1e-3 * slope / 5 + 0.5 * seen[0][0])  # what the step then took
    torch.testing.assert_close(seen[1][0], moved)


def test_observing_changes_nothing_but_the_rows(tmp_path):
    document = read(ROOT / "params.yaml")
    recipe = replace(block(document, "train", FineTuning), epochs=1, batch_size=8, warmup_steps=1, save_every=1)
    texts, source = Texts(nn.functional.normalize(torch.randn(12, 48), dim=1)), make("shapes", "train", 16, 0, 24)
    curves, weights = [], []
    for log in (False, True):
        torch.manual_seed(4)
        model = clip.create("zsr-tiny-rn")
        own = replace(recipe, log_effective_rate=log)
        curves.append(finetune(TeCoA(), model, texts, source, own, 0, tmp_path / str(log)))
        weights.append(model.visual.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    plain, logged = curves
    assert [{key: row[key] for key in plain[0]} for row in logged] == plain
    more = set(logged[0]) - set(plain[0])
    assert more == {*MEASURES, "rho_stem", *(f"rho_layer{i}" for i in range(1, 5))}
    assert all(math.isfinite(row[key]) and row[key] >= 0 for row in logged for key in more)
