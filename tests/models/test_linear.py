"""Classifiers without text: pixels in, weights of published files in their formats, mistakes in one line."""

import pickle

import pytest
import torch
import torchvision
from torch import nn

from tests.thin_resnet import thin_resnets
from zsr.models import linear
from zsr.models.heads import IMAGENET
from zsr.models.linear import robust_resnet, small_resnet
from zsr.params import ParamError, StudyError

OWN = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))  # pixel statistics that are nobody else's


@pytest.fixture
def tower(monkeypatch):
    """A thin ResNet-18, which `robust_resnet` builds too, with random weights and statistics not of a start."""
    thin_resnets(monkeypatch)
    net = torchvision.models.resnet18(num_classes=7).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net


def normalised(images, norm):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in norm)
    return (images - mean) / std


def statistics(prefix, mean="mean", std="std"):
    values = [torch.tensor(v).view(1, 3, 1, 1) for v in OWN]
    return {f"{prefix}{mean}": values[0], f"{prefix}{std}": values[1]}


FORMATS = {
    "torchvision": (lambda s: s, IMAGENET),
    "robustbench": (lambda s: statistics("normalize.") | {f"model.{k}": v for k, v in s.items()}, OWN),
    "parallel": (lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3}, IMAGENET),
    "robustness": (
        lambda s: {
            "model": statistics("module.normalizer.", "new_mean", "new_std")
            | statistics("module.attacker.normalize.", "new_mean", "new_std")
            | {f"module.model.{k}": v for k, v in s.items()}
            | {f"module.attacker.model.{k}": v for k, v in s.items()},
            "epoch": 90,
        },
        OWN,
    ),
    "old": (lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}, IMAGENET),
    "nested": (lambda s: {"state_dict": {"model": {f"model.{k}": v for k, v in s.items()}}}, IMAGENET),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_every_format_gives_the_logits_of_its_network(name, tower, tmp_path):
    form, norm = FORMATS[name]
    torch.save(form(tower.state_dict()), tmp_path / "robust.pt")
    model = robust_resnet("resnet18", tmp_path / "robust.pt", side=32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), tower(normalised(images, norm)))
    assert not model.training and all(p.requires_grad for p in model.parameters())


def changed(**changes):
    return lambda s: s | changes


def without(name):
    return lambda s: {k: v for k, v in s.items() if k != name}


MISTAKES = {
    "does not fit resnet18; it has no layer2.0.bn1.running_var": without("layer2.0.bn1.running_var"),
    "does not fit resnet18; it has no fc.weight": without("fc.weight"),
    r"does not fit resnet18; conv1.weight is \(64, 3, 3, 3\), not \(64, 3, 7, 7\)": changed(
        **{"conv1.weight": torch.zeros(64, 3, 3, 3)}
    ),
    "layer1.2.conv1.weight is no weight of a ResNet of this arch": changed(
        **{"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}
    ),
    "holds fc.bias twice, with different values": lambda s: (
        {
            f"{p}.{k}": v + i
            for i, p in enumerate(("a", "b"))
            for k, v in s.items()
            if i == 0 or "fc.b" in k or "r1.0.c" in k
        }
        | {"b.layer1.0.conv1.weight": s["layer1.0.conv1.weight"], "b.layer1.0.conv2.weight": s["layer1.0.conv2.weight"]}
    ),
    r"mean is \(1, 1, 1\), not \(3, 1, 1\)": changed(mean=torch.zeros(1)),
    "must hold named weights, at the top, under 'state_dict' or under 'model'": lambda s: [1, 2],
    "must hold named weights": lambda s: {"epoch": 1},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_file_that_does_not_fit_is_refused_in_one_line(message, tower, tmp_path):
    torch.save(MISTAKES[message](tower.state_dict()), tmp_path / "robust.pt")
    with pytest.raises(StudyError, match=message) as caught:
        robust_resnet("resnet18", tmp_path / "robust.pt")
    assert "\n" not in str(caught.value) and "robust.pt" in str(caught.value)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def test_a_file_that_asks_to_run_code_is_not_read(tmp_path):
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("trap.pt", "trap.pkl"):
        with pytest.raises(StudyError, match=f"{name}: holds more than weights"):
            robust_resnet("resnet18", tmp_path / name)


def test_no_file_half_a_file_and_another_arch_are_told(tower, tmp_path):
    with pytest.raises(StudyError, match="none.pt: No such file or directory"):
        robust_resnet("resnet18", tmp_path / "none.pt")
    torch.save(tower.state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(StudyError, match="half.pt: ") as caught:
        robust_resnet("resnet18", tmp_path / "half.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(StudyError, match="whole.pt: .*|whole.pt does not fit resnet50"):
        robust_resnet("resnet50", tmp_path / "whole.pt")
    with pytest.raises(ParamError, match="arch must be one of resnet18, .*, got 'resnet8'; did you mean 'resnet18'?"):
        linear.resnet("resnet8")


def test_the_names_of_all_architectures_are_torchvisions():
    assert list(linear.WIDTHS) == ["resnet18", "resnet50", "wide_resnet50_2"]
    for arch, width in linear.WIDTHS.items():
        with torch.device("meta"):  # weights without values
            assert linear.resnet(arch, 10).head.in_features == width


# what a classifier is


@pytest.mark.parametrize("size", [8, 16])
def test_the_small_network_takes_pictures_from_8_pixels_up(size):
    model = small_resnet(5, width=8)
    images = torch.rand(3, 3, size, size)
    features = model.features(images)
    assert features.shape == (3, 32) and model(images).shape == (3, 5)
    torch.testing.assert_close(model(images), model.classify(model.image_features(images)))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 9


def test_a_tower_enlarges_inside_so_that_attacks_act_on_native_pixels():
    model = linear.resnet("resnet18", 5, side=32)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(model(images).square().sum(), images)
    assert slope.shape == images.shape and slope.any()
    large = nn.functional.interpolate(images, (32, 32), mode="bicubic", align_corners=False)
    torch.testing.assert_close(model(images), model(large))


def test_a_new_head_is_of_its_size_and_leaves_the_tower():
    model = small_resnet(5, width=8)
    images, before = torch.rand(3, 3, 8, 8), None
    before = model.features(images)
    model.new_head(9)
    assert model(images).shape == (3, 9) and torch.equal(model.features(images), before)


def test_pixels_are_normalised_inside():
    model = small_resnet(5, width=8)
    images = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(model.features(images), model.visual((images - 0.5) / 0.25))
    assert {"mean", "std"} <= set(model.state_dict())
