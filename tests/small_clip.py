"""A CLIP whose image tower has ten tokens and two layers, for tests that take hundreds of passes."""

import torch
from torch import nn

from zsr.models import clip, heads

VISION = {"image_size": 24, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32, "pool_type": "avg"}
TEXT = {"context_length": 16, "vocab_size": 8, "width": 8, "heads": 2, "layers": 1}


def small_clip() -> nn.Module:
    """Random weights of seed 1, as far from symmetric as those of a trained tower; the text tower is a token one."""
    torch.manual_seed(1)
    model = clip.library().CLIP(48, VISION, TEXT).eval()
    heads.set_norm_stats(model, "imagenet")
    with torch.no_grad():
        model.visual.positional_embedding.normal_(std=0.5)
        model.visual.ln_post.bias.normal_(std=0.3)
    return model
