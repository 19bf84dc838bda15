"""The mean and standard deviation by which a tower normalises pixels (quirk M4)."""

from typing import Literal

NormStats = Literal["clip", "imagenet"]  # clip: those that the tower names itself
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of pixels in [0, 1]


def set_norm_stats(model, norm_stats: NormStats) -> None:
    """What every `Classifier` made of this open_clip model from now on normalises by."""
    if norm_stats == "imagenet":
        model.visual.image_mean, model.visual.image_std = IMAGENET
