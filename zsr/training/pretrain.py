"""CLIP pre-training of the tiny model on drawn, captioned images. It makes the base model of the embedded study."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsr import files, scratch
from zsr.data.captioned import draw_pool
from zsr.files import mix
from zsr.models.batchnorm import normalise_by
from zsr.models.heads import tower_of
from zsr.models.passes import symmetric_contrastive
from zsr.models.pretrained import Pretrained
from zsr.params import Interval, Seed, Threads, block
from zsr.scratch import Watch, unwatched
from zsr.training.batches import Part
from zsr.training.loop import Recipe, facts_of_training, fit, kept_curve

MAX_SHIFT = 2  # pixels; the pool is drawn once, and each batch shifts its images at random


@dataclass(frozen=True, kw_only=True)
class Pretraining(Recipe):
    """The recipe of the tiny CLIP.

    Attributes:
        seeds: the seeds of the base models, one model for each: of drawn images, of random weights and of all random
            numbers in a step.
        pool: number of images, which are drawn once.
        threads: number of CPU threads. From two threads on, the image tower and the text tower run side by side, each
            with half of the threads. With another number for each tower results agree only up to rounding.
    """

    seeds: tuple[Seed, ...]
    pool: Annotated[int, Interval(1, ceiling=1_000_000)]  # in memory
    threads: Threads

    @property
    def threads_each(self) -> int:
        """The number of CPU threads of a tower."""
        return max(self.threads // 2, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be at least one, none twice, got {list(self.seeds)}")


def base_of(document: Mapping[str, Any]) -> Pretraining | Pretrained:
    """The source of the base model: the block `base_model` names weights of open_clip or holds a training recipe."""
    schema = Pretrained if "pretrained" in block(document, "base_model", dict[str, Any]) else Pretraining
    return block(document, "base_model", schema)


@dataclass(frozen=True)
class Pool:
    """Images and their captions.

    Attributes:
        images: (N, 3, H, W) uint8.
        captions: row numbers in `texts` of the K captions of each image, (N, K).
        texts: token ids of the T different captions, (T, context).
    """

    images: Tensor
    captions: Tensor
    texts: Tensor

    @classmethod
    def of(
        cls, images: np.ndarray, captions: list[tuple[str, ...]], tokenizer: Callable[[list[str]], Tensor]
    ) -> "Pool":
        """Pool of images (N, H, W, 3) uint8 with K captions each. tokenizer: T texts -> token ids, (T, context)."""
        row_numbers: dict[str, int] = {}
        rows = [[row_numbers.setdefault(text, len(row_numbers)) for text in texts] for texts in captions]
        return cls(
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(rows), tokenizer(list(row_numbers))
        )


class _SideBySide(torch.autograd.Function):
    """Two computations that share no parameter, at the same time: forward and backward of each in a thread of its own.

    The operations of a small model are too small to be divided among threads. Each computation has its own operations
    in their order, so the results are the same bytes as one after the other.
    """

    @staticmethod
    def forward(
        ctx: Any, beside: Executor, first: Callable[[], Tensor], second: Callable[[], Tensor], _: Tensor
    ) -> Any:
        ctx.beside, other = beside, beside.submit(second)
        with torch.enable_grad():
            ctx.results = first(), other.result()
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        other = ctx.beside.submit(ctx.results[1].backward, gradients[1])
        ctx.results[0].backward(gradients[0])
        other.result()
        return None, None, None, None


def contrastive_terms(
    model: nn.Module, pool: Pool, samples: Tensor, beside: Executor | None = None
) -> dict[str, Tensor]:
    """CLIP's symmetric loss on a batch (Radford et al., 2021), with one random caption and shift per image.

    beside: the thread of the text tower; None: the image tower and the text tower run one after the other.

    Images with the same random caption need no special target. Their text features are equal, so a target that is
    split between them would give the same loss.
    """
    clip: Any = model  # open_clip has no types
    caption = pool.captions[samples, torch.randint(pool.captions.shape[1], (len(samples),))]
    images = _enlarged(_shifted(pool.images[samples].float() / 255), clip.visual.image_size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip.visual.image_mean, clip.visual.image_std))

    def encode_images() -> Tensor:
        return clip.encode_image((images - mean) / std, normalize=True)

    def encode_texts() -> Tensor:
        return clip.encode_text(pool.texts[caption], normalize=True)

    if beside:
        image_features, text_features = _SideBySide.apply(beside, encode_images, encode_texts, clip.logit_scale)
    else:
        image_features, text_features = encode_images(), encode_texts()
    logits = clip.logit_scale.exp().clamp(max=100) * image_features @ text_features.T
    return {"contrastive": symmetric_contrastive(logits, torch.arange(len(samples))).mean()}


def _enlarged(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Enlarge small images to the tower's input size, as `zsr.models.clip.Classifier` does."""
    shape = (size, size) if isinstance(size, int) else tuple(size)
    return images if images.shape[-2:] == shape else F.interpolate(images, shape, mode="bicubic", align_corners=False)


def _shifted(images: Tensor) -> Tensor:
    """Shift each image by up to MAX_SHIFT pixels; pixels at the edges are repeated."""
    n, _, height, width = images.shape
    padded = F.pad(images, [MAX_SHIFT] * 4, mode="replicate")
    dy, dx = torch.randint(2 * MAX_SHIFT + 1, (2, n))
    rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
    columns = (dx[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None], rows, columns]


@dataclass(frozen=True, kw_only=True)
class PretrainingTask:
    """All inputs of the pre-training. They are also the key of the kept work in the scratch folder.

    Attributes:
        recipe: the training recipe, with the number of images.
        seed: the seed of the model, of `recipe.seeds`.
        arch: the name of the model in open_clip.
        image_size: side of the images, in pixels.
    """

    recipe: Pretraining
    seed: int
    arch: str
    image_size: int


def pretrain_once(task: PretrainingTask, code: str, watch: Watch = unwatched) -> tuple[Path, list[dict[str, str]]]:
    """The file of the trained model and its curve. Both come from kept work if there is any, else from training now.

    code: digest of the code, see `zsr.scratch.key`.
    """
    from zsr.models import clip

    torch.set_num_threads(task.recipe.threads_each)
    name = scratch.key(task, code)
    with scratch.claimed("pretraining", name) as folder:
        weights, curve, unfinished = (folder / file for file in ("model.safetensors", "curve.csv", "unfinished"))

        def make() -> None:
            images_and_captions = draw_pool(task.recipe.pool, task.seed, task.image_size)
            pool = Pool.of(*images_and_captions, clip.library().get_tokenizer(task.arch))
            model, rows = pretrain(lambda: clip.create(task.arch), pool, task.recipe, task.seed, unfinished, watch)
            text = files.rows_text(rows)
            clip.save(weights, model, task.arch, facts=facts_of_training(name, text))
            files.write_atomic(curve, text.encode())
            unfinished.unlink(missing_ok=True)

        return weights, scratch.kept(curve, partial(kept_curve, weights, name), make)


def pretrain(
    create: Callable[[], nn.Module],
    pool: Pool,
    recipe: Pretraining,
    seed: int,
    unfinished: Path,
    watch: Watch = unwatched,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a CLIP model from scratch; returns the model and its curve.

    create: makes the untrained model. unfinished, watch, errors: see `zsr.training.loop.fit`. Positional embeddings of
    a ViT start large, with a standard deviation of 0.5, since such a small tower then learns faster.
    """
    torch.manual_seed(mix(seed))
    model = create()
    visual = tower_of(model)
    if hasattr(visual, "positional_embedding"):
        nn.init.normal_(visual.get_parameter("positional_embedding"), std=0.5)
    normalise_by(visual, "batch")

    tokens, texts = pool.texts.unique(return_inverse=True)
    used = replace(pool, texts=texts)

    def losses(_step: int, part: Part) -> dict[str, Tensor]:
        return contrastive_terms(model, used, part.samples, beside if recipe.threads > 1 else None)

    with _only_tokens(model, tokens), _text_thread(recipe) as beside:
        rows = fit(model, losses, len(pool.images), recipe, seed, unfinished, watch)
    return model.eval(), rows


def _text_thread(recipe: Pretraining) -> Executor:
    return ThreadPoolExecutor(1, initializer=partial(torch.set_num_threads, recipe.threads_each))


@contextmanager
def _only_tokens(model: nn.Module, tokens: Tensor) -> Iterator[None]:
    """Inside, the token embedding has the rows of `tokens` only; afterwards the other rows are as they were before.

    Captions use a few hundred of 49,408 tokens, and steps on the other rows would take a third of the time. The order
    of tokens stays, and the model finds the end of a text by the greatest token.
    """
    clip: Any = model  # open_clip has no types
    whole = clip.token_embedding
    clip.token_embedding = nn.Embedding.from_pretrained(whole.weight.detach()[tokens], freeze=False)
    try:
        yield
    finally:
        with torch.no_grad():
            whole.weight[tokens] = clip.token_embedding.weight
        clip.token_embedding = whole
