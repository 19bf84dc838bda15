"""A CLIP with random weights, pictures of noise and prompts at random: what speeds are measured on."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr.compute import Compute
from zsr.data.prepared import Split
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.params import ParamError, nearest

CLASSES = 200
SCALE = 100.0  # of logits, as in OpenAI's models
LEAD = 20.0  # of a logit; far beyond what an attack of 1/255 moves, and not so far that gradients vanish


@dataclass(frozen=True)
class Tower:
    """A CLIP with random weights, which stays on the CPU as it is: what is measured are copies."""

    arch: str
    clip: nn.Module
    compute: Compute

    @classmethod
    def make(cls, arch: str, compute: Compute) -> "Tower":
        """Raises ParamError: open_clip has no such name; no such device."""
        known = clip.library().list_models()
        if arch not in known:
            raise ParamError(f"--arch must be a model name of open_clip, got '{arch}'{nearest(arch, known)}")
        compute.place()
        torch.manual_seed(0)
        return cls(arch, clip.create(arch), compute)

    @property
    def device(self) -> torch.device:
        return self.compute.place()

    @property
    def weights(self) -> int:
        """Bytes of the image tower."""
        return sum(p.nbytes for p in self.clip.visual.parameters())

    @property
    def image_size(self) -> tuple[int, int]:
        size = self.clip.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def texts(self) -> Tensor:
        return F.normalize(torch.randn(CLASSES, self.clip.visual.output_dim), dim=1)

    def split(self, n: int) -> Split:
        """n pictures of noise at the tower's size, with random labels."""
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (n, *self.image_size, 3), np.uint8)
        names = tuple(f"class {i}" for i in range(CLASSES))
        return Split(pixels, random.integers(0, CLASSES, n), np.arange(n), names, names)

    def firm(self, n: int) -> tuple[Split, Tensor]:
        """One picture n times, of the first class, and prompts (CLASSES, D) by which it is right under any attack.

        Logits of the others are LEAD behind, at SCALE, and differ at right angles to what the picture looks like.
        """
        one = self.split(1)
        split = replace(self.split(n), images=np.repeat(one.images, n, axis=0), labels=np.zeros(n, np.int64))
        with torch.no_grad():
            features = Classifier(copy.deepcopy(self.clip), self.texts()).image_features(one.tensors([0])[0])
        first, texts, near = F.normalize(features, dim=1)[0], self.texts(), 1 - LEAD / SCALE
        aside = F.normalize(texts - (texts @ first)[:, None] * first, dim=1)
        prompts = near * first + math.sqrt(1 - near**2) * aside
        prompts[0] = first
        return split, prompts
