"""Image towers with a linear head: made at random, brought from a file, kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from zsr import files
from zsr.errors import ParamError, StudyError
from zsr.models.plain import PlainClassifier, resnet, robust_resnet, small_resnet
from zsr.params import Count, Natural

WIDTHS = {"resnet18": 512, "resnet50": 2048, "wide_resnet50_2": 2048}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    arch: Literal["small", "resnet18", "resnet50", "wide_resnet50_2"]  # of torchvision, but for the small one
    side: Natural  # images are enlarged to it inside; 0: they never are
    width: Count = 16  # of the first stage of the small one

    @property
    def features(self) -> int:
        """How many numbers the head sees."""
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
        """The weights of a local file, as `zsr.models.plain.robust_resnet`. sha256: of the file; "": not compared.

        Raises ParamError: the small one has no such file. Raises StudyError: no such file; another sha256; no weights
        of the arch.
        """
        if self.arch == "small":
            raise ParamError(f"model.arch must be one of {', '.join(WIDTHS)} where weights are a file, got 'small'")
        if not path.exists():
            raise StudyError(f"{path} is not there; bring the weights of {self.arch} and put them there")
        found = files.sha256(path) if sha256 else ""
        if found != sha256:
            raise StudyError(f"{path} has the sha256 {found}, not {sha256}")
        return robust_resnet(self.arch, path, self.side)

    def load(self, path: Path) -> PlainClassifier:
        """A model that `save` wrote, in eval mode."""
        weights, _ = files.load_tensors(path)
        with torch.device("meta"):  # no numbers are drawn
            model = self.random(len(weights["head.bias"]), seed=0)
        model.load_state_dict(weights, assign=True)
        return model


def save(path: Path, model: PlainClassifier) -> None:
    """Tower, head and pixel statistics as one safetensors file."""
    files.save_tensors(path, model.state_dict())


def with_new_head(model: PlainClassifier, classes: int, seed: int) -> PlainClassifier:
    """The model, whose head is now a random one: the same for every tower of a width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.new_head(classes)
    return model
