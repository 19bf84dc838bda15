"""Models without text: an image tower and a linear head. The transfer study of pre-training uses them."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr import files
from zsr.compute import ON_CPU, Compute
from zsr.files import mix
from zsr.models.heads import IMAGENET, Model, NormStats, Origin
from zsr.params import ParamError, Rounds, Side, StudyError, nearest

WIDTHS = {"resnet18": 512, "resnet50": 2048, "wide_resnet50_2": 2048}  # names in torchvision -> number of features
STATISTICS = {
    "mean": "mean",
    "new_mean": "mean",
    "std": "std",
    "new_std": "std",
}  # names of a normaliser's statistics in published files
Norm = tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]  # mean and std of pixels in [0, 1], by channel
FIRST_BLOCK = "layer1.0.conv1.weight"  # in every ResNet; a file may add a prefix to names
UNUSED = "num_batches_tracked"  # old files lack it; only BatchNorm without momentum reads it


class PlainClassifier(nn.Module):
    """Images in [0, 1] to logits over C classes, (B, 3, H, W) -> (B, C).

    visual: a tower that takes normalised images, (B, 3, H, W) -> (B, D). norm: mean and std of pixels.
    Features and logits have the same names as in `zsr.models.clip.Classifier`, so methods, attacks and measures
    work with both classes.

    Attributes:
        visual: the tower.
        head: the linear layer from features to logits, (B, D) -> (B, C).
        side: the model enlarges images of another size to side x side pixels (bicubic); 0: it never does.
        mean: mean of the pixels of each channel in [0, 1], (3, 1, 1).
        std: standard deviation of the pixels of each channel, (3, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module, head: nn.Linear, norm: Norm = IMAGENET, side: int = 0) -> None:
        super().__init__()
        self.visual, self.head, self.side = visual, head, side
        for name, values in zip(("mean", "std"), norm):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).view(3, 1, 1))

    @property
    def facts(self) -> str:
        """The model's part of a protocol."""
        return "linear head"

    def features(self, images: Tensor) -> Tensor:
        """Image features, the input of the head, (B, D)."""
        if self.side and images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bicubic", align_corners=False)
        return self.visual((images - self.mean) / self.std)

    image_features = features

    def classify(self, image_features: Tensor) -> Tensor:
        """Logits of features, (B, D) -> (B, C)."""
        return self.head(image_features)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, 3, H, W) -> (B, C)."""
        return self.classify(self.features(images))

    def new_head(self, classes: int) -> None:
        """Replace the head by a random one of that many classes."""
        self.head = nn.Linear(self.head.in_features, classes).to(self.head.weight)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm beside a shortcut. He et al., CVPR 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), at least 0."""
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


class SmallResNet(nn.Module):
    """Three residual blocks, (B, 3, H, W) -> (B, 4 width). Each later block halves H and W and doubles the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = ResidualBlock(width, width, 1)
        self.layer2 = ResidualBlock(width, 2 * width, 2)
        self.layer3 = ResidualBlock(2 * width, 4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Image features, the mean over positions, (B, 3, H, W) -> (B, 4 width)."""
        x = self.bn1(self.conv1(x)).relu()
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))


def small_resnet(classes: int, width: int = 16) -> PlainClassifier:
    """A small network with random weights, in eval mode. Images have 8 x 8 pixels or more."""
    half = ((0.5,) * 3, (0.25,) * 3)
    return PlainClassifier(SmallResNet(width), nn.Linear(4 * width, classes), half).eval()


def resnet(arch: str, classes: int = 1000, side: int = 224) -> PlainClassifier:
    """A random ResNet of torchvision for side x side pixels, in eval mode. Raises ParamError: no such name."""
    if arch not in WIDTHS:
        raise ParamError(f"arch must be one of {', '.join(WIDTHS)}, got '{arch}'{nearest(arch, WIDTHS)}")
    import torchvision

    tower = getattr(torchvision.models, arch)(weights=None)
    head = nn.Linear(tower.fc.in_features, classes)
    tower.fc = nn.Identity()
    return PlainClassifier(tower, head, IMAGENET, side).eval()


def robust_resnet(arch: str, path: Path, side: int = 224) -> PlainClassifier:
    """A ResNet with the weights and the pixel statistics of a file, in eval mode.

    The file is a torch state dict with torchvision's names. The dict may lie under "state_dict" or "model". Its names
    may have a prefix such as "module.model.". It may hold a normaliser's mean and std; without them the model takes
    ImageNet's. RobustBench's files of Salman et al., NeurIPS 2020, have this form. The file is read as weights only:
    no code in it is run.

    Raises StudyError with a message of one line: the file does not exist; the file is damaged, or holds more than
    weights; names or shapes do not fit the arch; the file holds a name twice with different values.
    """
    model = resnet(arch, 1000, side)
    weights = _weights(path, _tensors_by_name(model))
    if "fc.weight" in weights and weights["fc.weight"].ndim == 2:
        model.new_head(len(weights["fc.weight"]))
    tensors = _tensors_by_name(model)
    for name, tensor in tensors.items():
        if name in weights:
            shape, stored_shape = tuple(tensor.shape), tuple(weights[name].shape)
            if shape != stored_shape:
                raise StudyError(f"{path} does not fit {arch}; {name} is {stored_shape}, not {shape}")
            with torch.no_grad():
                tensor.copy_(weights[name])
        elif not name.endswith(UNUSED) and name not in ("mean", "std"):
            raise StudyError(f"{path} does not fit {arch}; it has no {name}")
    return model


def _tensors_by_name(model: PlainClassifier) -> dict[str, Tensor]:
    """The tensors of a ResNet under torchvision's names, and the pixel statistics as "mean" and "std"."""
    head = {f"fc.{name}": p for name, p in model.head.named_parameters()}
    return model.visual.state_dict() | head | {"mean": model.mean, "std": model.std}


def _weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in a file under torchvision's names, without prefixes. A file may use several prefixes."""
    stored = {str(stored_name): tensor for stored_name, tensor in _stored(path).items()}
    prefixes = [stored_name.removesuffix(FIRST_BLOCK) for stored_name in stored if stored_name.endswith(FIRST_BLOCK)]
    weights: dict[str, Tensor] = {}
    for stored_name, tensor in stored.items():
        names = [stored_name.removeprefix(prefix) for prefix in prefixes if stored_name.startswith(prefix)]
        name = next((name for name in names if name in expected), STATISTICS.get(stored_name.rpartition(".")[2]))
        if name is None:
            raise StudyError(f"{path}: {stored_name} is no weight of a ResNet of this arch")
        tensor = tensor.reshape(-1, 1, 1) if name in ("mean", "std") else tensor
        if name in weights and not torch.equal(weights[name], tensor):
            raise StudyError(f"{path}: holds {name} twice, with different values")
        weights[name] = tensor
    return weights


def _stored(path: Path) -> Mapping[str, Tensor]:
    try:
        files.check_zip(path)
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or type(error).__name__}") from None
    except pickle.UnpicklingError:
        raise StudyError(f"{path}: holds more than weights, or is no file of torch; it was not read") from None
    except Exception as error:  # a damaged file may raise any exception
        raise StudyError(f"{path}: damaged or no file of torch ({type(error).__name__})") from None
    for key in ("state_dict", "model"):
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping) or not all(isinstance(tensor, Tensor) for tensor in stored.values()):
        raise StudyError(f"{path}: must hold named weights, at the top, under 'state_dict' or under 'model'")
    return stored


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The tower below a linear head.

    Attributes:
        arch: a ResNet's name in torchvision, or "small" for `SmallResNet`.
        side: the model enlarges images to side x side pixels; 0: it never does.
        width: channels of the first stage of "small".
    """

    arch: Literal["small", "resnet18", "resnet50", "wide_resnet50_2"]
    side: Side
    width: Rounds = 16

    @property
    def features(self) -> int:
        """The number of image features, D."""
        return WIDTHS.get(self.arch, 4 * self.width)

    def random(self, classes: int, seed: int) -> PlainClassifier:
        """A tower and a head with random weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.arch != "small":
                return resnet(self.arch, classes, self.side)
            model = small_resnet(classes, self.width)
            model.side = self.side
            return model

    def from_file(self, path: Path, sha256: str = "") -> PlainClassifier:
        """A model with the weights of a local file, see `robust_resnet`. sha256: digest of the file; "": not compared.

        Raises ParamError: the arch is "small", for which there is no such file. Raises StudyError: the file does not
        exist; the file has another sha256; the file holds no weights of the arch.
        """
        if self.arch == "small":
            raise ParamError(f"model.arch must be one of {', '.join(WIDTHS)} where weights are a file, got 'small'")
        if not path.exists():
            raise StudyError(f"{path} is not there; bring the weights of {self.arch} and put them there")
        digest = files.sha256(path) if sha256 else ""
        if digest != sha256:
            raise StudyError(f"{path} has the sha256 {digest}, not {sha256}")
        return robust_resnet(self.arch, path, self.side)

    def load(self, path: Path) -> PlainClassifier:
        """A model that `save` wrote, in eval mode. Raises Unusable as `zsr.models.clip.create` does."""
        files.check_place(path)
        weights, _ = files.load_tensors(path)
        files.check_finite(path, weights)
        if "head.bias" not in weights:
            raise files.Unusable(path, "holds no tower with a linear head")
        with torch.device("meta"):  # this draws no random numbers
            model = self.random(len(weights["head.bias"]), seed=0)
        model.load_state_dict(weights, assign=True)
        return model


# The functions that `zsr.models.heads` calls in each module of models


def load(model: Model, weights: Path, tower: Path | None = None) -> PlainClassifier:
    """As `zsr.models.heads.load`."""
    return model.backbone.load(tower or weights)


def save(
    path: Path, model: PlainClassifier, arch: str = "", norm_stats: NormStats = "clip", placed: bool = False
) -> None:
    """Write tower, head and pixel statistics as one safetensors file. placed: as of `zsr.models.heads.save`."""
    files.save_tensors(path, model.state_dict(), placed=placed)


def save_tower(
    path: Path, model: PlainClassifier, norm_stats: NormStats = "clip", facts: dict[str, str] | None = None
) -> None:
    """Write the tensors that `save` writes, since training changes the whole model. facts: more facts."""
    files.save_tensors(path, model.state_dict(), facts)


def classifier(whole: PlainClassifier, text_embeddings: Tensor | None, compute: Compute = ON_CPU) -> PlainClassifier:
    """As `zsr.models.heads.classifier`."""
    return whole.to(compute.place())


def first_weights(
    model: Model, weights: Path, origin: Origin, classes: int, seed: int, sha256: str, trained: bool
) -> PlainClassifier:
    """As `zsr.models.heads.first_weights`."""
    if origin == "random":
        return model.backbone.random(classes, mix(seed))
    if origin == "file":
        whole = model.backbone.from_file(weights, sha256)
        return with_new_head(whole, classes, mix(seed)) if trained else whole
    return with_new_head(load(model, weights), classes, mix(seed, 1))


def with_new_head(model: PlainClassifier, classes: int, seed: int) -> PlainClassifier:
    """Give the model a random head and return the model. Towers of one width get the same head from the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.new_head(classes)
    return model
