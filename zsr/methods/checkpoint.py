"""A tower that was trained elsewhere. It is judged as every other row, and nothing trains it here."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import nn

from zsr.methods._base import Method
from zsr.models import checkpoints, hub
from zsr.models.heads import NormStats
from zsr.params import EXTENSIONS


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Method):
    """The base model with the image tower of a checkpoint. Class prompts are embedded by the base model's text tower.

    Attributes:
        trains: False.
        attacked: False, since there is no training.
        needs_text: True; a linear head of one set does not judge others.
        weights: a file in the folder `extensions`, in any layout of `zsr.models.checkpoints`; or
            "hf-hub:organisation/name@revision", a repository of the Hugging Face hub.
        norm_stats: the mean and std of pixels in the tower's training, which weights do not show.
        activation: the activation in the tower's training, which weights do not show. It must be stated where nothing
            else tells it; see `zsr.models.checkpoints.load_visual`. "": not stated.
    """

    trains: ClassVar[bool] = False
    attacked: ClassVar[bool] = False
    needs_text: ClassVar[bool] = True
    weights: str
    norm_stats: NormStats
    activation: Literal["", "gelu", "quickgelu"] = ""

    def __post_init__(self) -> None:
        if self.weights.startswith(hub.PREFIX):
            hub.Repository.parsed(self.weights, pinned=True)
        elif not self.path.is_file():
            raise ValueError(f"weights must be a file in the folder extensions, and {self.path} is not there")

    @property
    def path(self) -> Path:
        """The file of the weights, where they are a file."""
        return EXTENSIONS / self.weights

    def load(self, whole: nn.Module, arch: str) -> None:
        """Replace the image tower and pixel statistics of an open_clip model, in place.

        Raises StudyError where the tower does not fit.
        """
        path = hub.fetched(self.weights) if self.weights.startswith(hub.PREFIX) else self.path
        checkpoints.load_visual(whole, arch, path, self.activation, self.norm_stats)


METHOD = Checkpoint
