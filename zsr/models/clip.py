"""CLIP: open_clip's models by name, their files, and the zero-shot classifier of pixels.

The tiny CLIP is one more config file of open_clip. The text embeddings of a classifier are a fixed matrix; only the
image tower runs.
"""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr import files
from zsr.compute import ON_CPU, Compute
from zsr.models.heads import Model, NormStats, Origin, set_norm_stats, tower_of
from zsr.params import ParamError

PACKAGE_DATA = ["configs"]
TEXT_BATCH = 128  # prompts; all thousand of ImageNet at once take 2.8 GB


@cache
def library() -> ModuleType:
    """open_clip, with our models among its models. It is imported late, since the import takes seconds."""
    import open_clip

    open_clip.add_model_config(Path(__file__).parent / "configs")
    return open_clip


class PatchEmbedding(nn.Module):
    """The first layer of a ViT, a convolution of patches that do not overlap, as one product of matrices.

    Its gradient by the pixels, which every step of an attack takes, costs a fraction of the convolution's on a CPU. The
    module shares the weights of the convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.kernel_size = convolution.kernel_size
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, rows, columns)."""
        height, width = self.kernel_size
        patches = images.unflatten(3, (-1, width)).unflatten(2, (-1, height)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """Images in [0, 1] to logits over C class prompts. Attacks change these input pixels.

    clip: an open_clip model. Its `visual` is a VisionTransformer with CLS or average pooling, or a ModifiedResNet. The
    classifier shares `visual` with the model, without a copy, and moves it to the device of `compute`. The logit scale
    is fixed at exp of the learnt value, 100 for OpenAI's models. text_embeddings: (C, D), unit norm; None: the
    classifier gives image features and no logits. Images of another size are enlarged to the input size of the tower
    inside the classifier (bicubic), so an attack acts at the native size.

    Attributes:
        visual: the image tower; Any, since open_clip has no types.
        logit_scale: the factor of cosines in the logits, a positive number.
        text_embeddings: text embeddings of the class prompts, (C, D), unit norm.
        mean: mean of the pixels of each channel in [0, 1], (3, 1, 1).
        std: standard deviation of the pixels of each channel, (3, 1, 1).
        patches: True where the tower is a ViT, False where it is a ResNet.
        channels_last: do the tower and its images use the channels_last memory format?
    """

    visual: Any
    logit_scale: Tensor
    text_embeddings: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, clip: nn.Module, text_embeddings: Tensor | None, compute: Compute = ON_CPU) -> None:
        super().__init__()
        visual: Any = clip.visual
        log_scale: Any = clip.logit_scale
        device = compute.place()
        self.patches = _has_plain_patches(visual)
        if not self.patches and not hasattr(visual, "attnpool"):
            raise ParamError(f"model.arch: {type(visual).__name__} has no plain CLS or average pooling of patch tokens")
        if self.patches:
            visual.conv1 = PatchEmbedding(visual.conv1)
        self.channels_last = compute.channels_last
        self.visual = visual.to(device, memory_format=torch.channels_last if self.channels_last else None)
        self.register_buffer("logit_scale", log_scale.detach().exp().clone())
        self.register_buffer("text_embeddings", text_embeddings)
        self.register_buffer("mean", torch.tensor(visual.image_mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(visual.image_std).view(3, 1, 1))
        self.to(device)
        for name in ("tokens", "image_features") if compute.compile else ():
            setattr(self, name, torch.compile(getattr(self, name)))

    @property
    def facts(self) -> str:
        """The model's part of a protocol."""
        return f"logit scale {self.logit_scale.item():.4g}"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens."""
        height, width = self.image_size
        return self.visual.grid_size if self.patches else (height // 32, width // 32)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the tower's input, in pixels."""
        size = self.visual.image_size
        return (size[0], size[1]) if self.patches else (size, size)

    def tokens(self, images: Tensor) -> Tensor:
        """CLS and patch tokens after ln_post and the projection, from one forward: (B, 3, H, W) -> (B, 1+P, D).

        For a ResNet the CLS token is the image features. A patch token is the output of the attention pooling if it
        attended to one position alone (Zhou et al., ECCV 2022). Tokens are never computed under autocast: where two
        models are close, attention maps of half-precision tokens are noise.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._projected_tokens(images)

    def _projected_tokens(self, images: Tensor) -> Tensor:
        if not self.patches:
            return self._position_tokens(self._tower_input(images))
        return self.visual.ln_post(self._after_block(images, -1)) @ self.visual.proj

    def _tower_input(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", align_corners=False)
        images = (images - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _position_tokens(self, images: Tensor) -> Tensor:
        blocks = self.visual.forward_intermediates(images, indices=1)
        places, pool = blocks["image_intermediates"][0].flatten(2).mT, self.visual.attnpool
        values = pool.c_proj(pool.v_proj(places + pool.positional_embedding[1:]))
        return torch.cat([blocks["image_features"][:, None], values], dim=1)

    def _after_block(self, images: Tensor, index: int) -> Tensor:
        """CLS and patch tokens after a residual block, (B, 1+P, width). The blocks behind this block are not run."""
        intermediates = self.visual.forward_intermediates(
            self._tower_input(images),
            indices=[len(self.visual.transformer.resblocks) + index],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat(
            [intermediates["image_intermediates_prefix"][0], intermediates["image_intermediates"][0]], dim=1
        )

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool tokens to raw image features, (B, 1+P, D) -> (B, D). Pooling commutes with the linear projection."""
        return tokens[:, 0] if not self.patches or self.visual.pool_type == "tok" else tokens[:, 1:].mean(dim=1)

    def image_features(self, images: Tensor) -> Tensor:
        """Raw, unnormalised image features, (B, D). With CLS pooling the last block computes the CLS token alone."""
        if not self.patches:
            return self.visual(self._tower_input(images))
        *others, last = self.visual.transformer.resblocks
        if self.visual.pool_type != "tok" or not others:
            return self.pool(self._projected_tokens(images))
        tokens = self._after_block(images, -2)
        normed = last.ln_1(tokens)
        cls = tokens[:, :1] + last.ls_1(last.attention(normed[:, :1], normed, normed))
        cls = cls + last.ls_2(last.mlp(last.ln_2(cls)))
        return self.visual.ln_post(cls[:, 0]) @ self.visual.proj

    def classify(self, image_features: Tensor) -> Tensor:
        """Logits of raw features: logit_scale times the cosine with every class prompt, (B, D) -> (B, C)."""
        return self.logit_scale * F.normalize(image_features, dim=-1) @ self.text_embeddings.T

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (B, 3, H, W) -> (B, C)."""
        return self.classify(self.image_features(images))


def _has_plain_patches(visual: Any) -> bool:
    pooled = getattr(visual, "pool_type", None) in ("tok", "avg")
    return pooled and not visual.attn_pool and not visual.final_ln_after_pool


def create(arch: str, checkpoint: Path | None = None) -> nn.Module:
    """The CLIP model of an open_clip name, in eval mode, fp32. Without a checkpoint its weights are random.

    A checkpoint also says the pixel statistics that the model was trained with. open_clip raises RuntimeError where it
    has no such name; `zsr.study.check` looks for the name first. Raises Unusable: the checkpoint is damaged, was
    written for another place, or has weights that are not finite.
    """
    if checkpoint:
        files.check_place(checkpoint)
        files.check_content(checkpoint)
    model: nn.Module = library().create_model(arch, pretrained=str(checkpoint) if checkpoint else None).eval()
    if checkpoint:
        files.check_finite(checkpoint, model.state_dict())
        set_norm_stats(model, files.load_facts(checkpoint).get("norm_stats", "clip"))
    return model


def save(
    path: Path,
    model: nn.Module,
    arch: str,
    norm_stats: NormStats = "clip",
    facts: dict[str, str] | None = None,
    placed: bool = False,
) -> None:
    """Write a file that `open_clip.create_model(arch, pretrained=path)` loads. Equal weights give equal bytes.

    facts: more facts. placed: as of `zsr.models.heads.save`.
    """
    files.save_tensors(path, model.state_dict(), {"arch": arch, "norm_stats": norm_stats} | (facts or {}), placed)


def save_tower(path: Path, model: nn.Module, norm_stats: NormStats, facts: dict[str, str] | None = None) -> None:
    """Write the image tower alone, the only part that fine-tuning changes. facts: more facts."""
    files.save_tensors(path, tower_of(model).state_dict(), {"norm_stats": norm_stats} | (facts or {}))


def load_tower(path: Path, model: nn.Module) -> None:
    """Load a file of `save_tower` into a model of the same architecture: the tower and its pixel statistics."""
    files.check_place(path)
    tensors, facts = files.load_tensors(path)
    files.check_finite(path, tensors)
    tower_of(model).load_state_dict(tensors)
    set_norm_stats(model, facts["norm_stats"])


@torch.no_grad()
def embed_texts(model: nn.Module, arch: str, prompts: list[str], distinct: bool = True) -> Tensor:
    """Text embeddings of C prompts, (C, D) fp32, unit norm, on the CPU.

    The model computes TEXT_BATCH prompts at a time, where its text tower is.

    distinct: the prompts must have different tokens where they differ. Raises ParamError: a prompt is longer than the
    text tower reads; two prompts differ, and their tokens do not.
    """
    tokenizer = _tokenizer(arch)
    tokens = tokenizer(prompts)
    _refuse_loss(prompts, tokens, tokenizer, arch, distinct)
    clip: Any = model
    place = clip.logit_scale.device  # of the text tower; a Classifier may have moved the image tower elsewhere
    rows = torch.arange(len(tokens))
    if len(tokens) > TEXT_BATCH:  # equal prompts in two batches would differ by rounding
        tokens, rows = tokens.unique(dim=0, return_inverse=True)
    parts = [clip.encode_text(part.to(place), normalize=True).float().cpu() for part in tokens.split(TEXT_BATCH)]
    return torch.cat(parts)[rows]


@cache
def _tokenizer(arch: str) -> Any:
    """The tokenizer of an open_clip name. It is made once, since reading the vocabulary takes half a second."""
    return library().get_tokenizer(arch)


def _refuse_loss(prompts: list[str], tokens: Tensor, tokenizer: Any, arch: str, distinct: bool) -> None:
    """Raise ParamError where the tokens lose the end of a prompt, or with distinct what tells two prompts apart."""
    for prompt in prompts if hasattr(tokenizer, "encode") else []:
        words = tokenizer.encode(prompt)
        if not set(words).isdisjoint(getattr(tokenizer, "all_special_ids", ())):
            raise ParamError(f"prompt '{prompt}' has the tokenizer's mark of start or end: the rest would not be read")
        length, most = len(words) + 2, tokens.shape[1]  # with the tokens of start and end
        if length > most:
            raise ParamError(f"prompt '{prompt}' has {length} tokens and {arch} reads {most}: shorten the template")
    seen: dict[tuple[int, ...], str] = {}
    for prompt, row in zip(prompts if distinct else [], map(tuple, tokens.tolist())):
        if seen.setdefault(row, prompt) != prompt:
            raise ParamError(f"prompts '{seen[row]}' and '{prompt}' are the same tokens: no model can tell them apart")


# The functions that `zsr.models.heads` calls in each module of models


def load(model: Model, weights: Path, tower: Path | None = None) -> nn.Module:
    """As `zsr.models.heads.load`."""
    whole = create(model.arch, weights)
    if tower:
        load_tower(tower, whole)
    return whole


def classifier(whole: nn.Module, text_embeddings: Tensor, compute: Compute = ON_CPU) -> Classifier:
    """As `zsr.models.heads.classifier`."""
    return Classifier(whole, text_embeddings, compute)


def first_weights(
    model: Model, weights: Path, origin: Origin, classes: int, seed: int, sha256: str, trained: bool
) -> nn.Module:
    """As `zsr.models.heads.first_weights`. CLIP has no random head, so the seed changes nothing."""
    return create(model.arch, weights)
