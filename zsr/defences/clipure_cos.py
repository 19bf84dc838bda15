"""CLIPure-Cos: steps of image features towards a text without a class. Zhang et al., "CLIPure", ICLR 2025.

With the published step of 30 every step turns the features by 88 degrees, in the plane of the features and the text, to
the other side of the text. Two steps undo each other, so the published ten steps are the identity for every image whose
cosine with the text is above 0.033. They are no identity for the gradient: each step divides it by about 30.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsr.attacks.batch import Noise
from zsr.defences._base import Condition, Defence, Tower, straight_through
from zsr.params import IterationsOrNone, NonNegative, Template

TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class CLIPureCos(Defence):
    """Normalised gradient steps of the features on their cosine with the embedding of a prompt without a class.

    Attributes:
        n_iter: number of steps; 0: the features stay as they are.
        step_size: length of a step of unit features, before they get unit length again.
        norm: the norm that gradients are divided by: image, that of each image; batch, as published, one norm of all
            images, so that an image's logits depend on the other images (quirk P1).
        templates: prompt templates with {}; the mean of their embeddings without a class name is the text. Empty:
            OpenAI's templates for ImageNet, as published.
    """

    n_iter: IterationsOrNone = 10
    step_size: NonNegative = 30.0
    norm: Literal["image", "batch"] = "image"
    templates: tuple[Template, ...] = ()
    name: ClassVar[str] = "clipure_cos"
    title: ClassVar[str] = "CLIPure-Cos"
    deterministic: ClassVar[bool] = True
    violates: ClassVar[tuple[Condition, ...]] = ("useful_gradients", "no_inner_loop")
    needs_text: ClassVar[bool] = True

    def neutral_templates(self) -> tuple[str, ...]:
        """As of `Defence`."""
        if self.templates:
            return self.templates
        from zsr.models.clip import library

        return tuple(template("{}") for template in library().OPENAI_IMAGENET_TEMPLATES)

    def logits(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The logits of the features after all steps, (B, C), through the graph of the published code."""
        features, text = model.image_features(images), _text(model)
        return model.classify(self.purified(features, text))

    def surrogate(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> Tensor:
        """The same logits. The steps turn features by an angle that the gradient takes for a constant.

        For an even number of steps this angle is mostly 0, and the gradient is that without a defence.
        """
        features, text = model.image_features(images), _text(model)
        with torch.no_grad():
            purified = self.purified(features, text)
            turn = angle(purified, features, text) - angle(features, features, text)
        return model.classify(straight_through(turned(features, text, turn), purified))

    def statistics(self, model: Tower, images: Tensor, noise: Noise, draw: int) -> dict[str, Tensor]:
        """The cosine of features and text, which decides between identity and reflection."""
        return {"cosine": F.normalize(model.image_features(images), dim=1) @ _text(model)}

    def purified(self, features: Tensor, text: Tensor) -> Tensor:
        """The features after all steps, (B, D), with the length that they had. text: (D,), unit norm."""
        for _ in range(self.n_iter):
            length = features.norm(dim=1, keepdim=True)
            unit = features / length
            gradient = ((unit @ text)[:, None] * unit - text).detach()  # of minus the cosine, times the length
            norm = gradient.norm(dim=1, keepdim=True) if self.norm == "image" else gradient.norm()
            features = length * F.normalize(unit - self.step_size * gradient / norm.clamp(min=TINY), dim=1)
        return features


def _text(model: Tower) -> Tensor:
    assert model.neutral is not None, "clipure_cos needs the embedding of a prompt without a class"
    return F.normalize(model.neutral, dim=0)


def angle(vectors: Tensor, features: Tensor, text: Tensor) -> Tensor:
    """Angle of vectors in the planes of features and text, from the text towards the features, (B, D) -> (B,)."""
    rest = features - (features @ text)[:, None] * text
    return torch.atan2((vectors * F.normalize(rest, dim=1)).sum(dim=1), vectors @ text)


def turned(features: Tensor, text: Tensor, turn: Tensor) -> Tensor:
    """Features turned by angles away from the text, in the planes of features and text: (B, D), (D,), (B,) -> (B, D).

    A turn by 0 is exact, and so is its gradient.
    """
    rest = features - (features @ text)[:, None] * text
    side = F.normalize(rest, dim=1) * (features @ text)[:, None] - text * rest.norm(dim=1, keepdim=True)
    return torch.cos(turn)[:, None] * features + torch.sin(turn)[:, None] * side


DEFENCE = CLIPureCos
