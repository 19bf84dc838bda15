"""The base class of defences at test time: what happens between the pixels and the logits of a trained tower.

A defence trains nothing. It takes the images of one batch, and treats every image alone.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from zsr.attacks.batch import Noise
from zsr.models.heads import PixelClassifier
from zsr.params import Checked

AS_IS = "as_is"  # the adaptive attack on the surrogate itself, which every defence has
ATTACK_DRAWS = 1000  # attacks see draws from this index on, and verdicts see draws below
# RobustBench's conditions of a defence whose robustness a standard attack can measure: gradients are useful, the
# forward is deterministic, the forward holds no loop of optimisation.
Condition = Literal["useful_gradients", "deterministic", "no_inner_loop"]


class Tower:
    """A trained classifier that counts its passes, and what a defence needs besides: the original CLIP, the wording.

    A defence calls a `Tower` as it would call the classifier.

    Attributes:
        model: the classifier under the defence.
        origin: the classifier before fine-tuning; `model` itself where nothing was fine-tuned.
        neutral: text embedding of the prompt templates without a class name, (D,); None where no defence asks.
        forwards: number of passes of a tower without a gradient, counted per image.
        gradients: number of passes of a tower with a gradient, counted per image.
    """

    def __init__(
        self, model: PixelClassifier, origin: PixelClassifier | None = None, neutral: Tensor | None = None
    ) -> None:
        self.model, self._origin, self.neutral = model, origin, neutral
        self.forwards = self.gradients = 0

    @property
    def origin(self) -> "Tower":
        """The classifier before fine-tuning, whose passes count here, too."""
        return self if self._origin is None else _Origin(self._origin, self)

    @property
    def text_embeddings(self) -> Tensor:
        """Text embeddings of the class prompts, (C, D), unit norm."""
        return self.model.text_embeddings

    @property
    def logit_scale(self) -> Tensor:
        """The factor of cosines in the logits, a positive number."""
        return self.model.logit_scale

    def image_features(self, images: Tensor) -> Tensor:
        """Raw, unnormalised image features, (B, 3, H, W) -> (B, D)."""
        self.count(images)
        return self.model.image_features(images)

    def classify(self, image_features: Tensor) -> Tensor:
        """Logits of raw features, (B, D) -> (B, C)."""
        return self.model.classify(image_features)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits without a defence, (B, 3, H, W) -> (B, C)."""
        self.count(images)
        return self.model(images)

    def count(self, images: Tensor) -> None:
        """Count a pass of these images."""
        if images.requires_grad and torch.is_grad_enabled():
            self.gradients += len(images)
        else:
            self.forwards += len(images)


class _Origin(Tower):
    """The original CLIP beside a fine-tuned tower."""

    def __init__(self, model: PixelClassifier, counter: Tower) -> None:
        super().__init__(model, None, counter.neutral)
        self._counter = counter

    def count(self, images: Tensor) -> None:
        self._counter.count(images)


@dataclass(frozen=True, kw_only=True)
class Defence(Checked):
    """A defence at test time. Its hyper-parameters are fields, and their defaults are the published values.

    Images are (B, 3, H, W), pixels in [0, 1]; logits are (B, C). A defence draws its random numbers by
    `noise.uniform(shape, self.stream(draw))` or `noise.normal`, so they belong to the image and to the draw. A defence
    reads no quantity of the batch: the logits of an image do not depend on the other images.

    Attributes:
        name: the name of the module, with which the random numbers are drawn.
        title: the name of the defence in a protocol.
        deterministic: do the logits not depend on `draw`?
        violates: the conditions of RobustBench that the defence violates.
        variants: names of the adaptive attacks on the defence; an image counts where it withstands all of them.
        needs_features: False where the logits of the tower suffice, so that any model of pixels will do.
        needs_text: True where the defence reads class prompts, which a linear head does not have.
        needs_origin: True where the defence reads the original CLIP beside a fine-tuned tower.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    deterministic: ClassVar[bool]
    violates: ClassVar[tuple[Condition, ...]]
    variants: ClassVar[tuple[str, ...]] = (AS_IS,)
    needs_features: ClassVar[bool] = True
    needs_text: ClassVar[bool] = False
    needs_origin: ClassVar[bool] = False

    def neutral_templates(self) -> tuple[str, ...]:
        """Prompt templates whose mean text embedding, without a class name, is in `Tower.neutral`; (): not read."""
        return ()

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits that are judged, (B, C). The caller takes no gradient; the defence may take gradients itself.

        The audit differentiates these logits by the pixels as they are, from end to end.
        """
        raise NotImplementedError

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The values of `logits`, (B, C), with a gradient by the pixels that an attack can use."""
        raise NotImplementedError

    def adaptive(
        self, model: Tower, images: Tensor, noise: Noise, draw: int, variant: str
    ) -> tuple[Tensor, Tensor | None]:
        """The logits that an adaptive attack raises its loss on, (B, C), and a term that it raises besides, (B,).

        variant: one of `variants`. AS_IS is the surrogate without a term.
        """
        assert variant == AS_IS, f"{self.name} has no adaptive attack {variant}"
        return self.surrogate(model, images, noise, draw), None

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """Numbers that the defence decides by, by name, each (B,). A record states their medians for each column."""
        return {}

    def stream(self, draw: int, part: str = "") -> str:
        """The name of the random numbers of a draw. part: tells apart several tensors of one draw."""
        return "/".join(filter(None, (self.name, str(draw), part)))

    def protocol(self) -> str:
        """The defence's part of a protocol: the facts to report with every number."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        facts = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values)
        return f"{self.title}{f' ({facts})' if facts else ''}"


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, values: Tensor) -> Tensor:
        return values.detach().clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def straight_through(inputs: Tensor, values: Tensor) -> Tensor:
    """Exactly `values`, whose gradient goes on to `inputs` unchanged; both (B, ...), of equal shape.

    The backward pass takes the step from inputs to values for the identity: BPDA, Athalye et al., ICML 2018, section 4.
    """
    return _StraightThrough.apply(inputs, values)
