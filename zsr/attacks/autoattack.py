"""AutoAttack: a list of attacks that fail in different ways. Croce and Hein, ICML 2020, section 5."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zsr.attacks.apgd import ascents
from zsr.attacks.batch import Noise, Round, cascade, names_of
from zsr.attacks.fab import boundaries
from zsr.attacks.square import Squares
from zsr.compute import Precision, matmul_precision
from zsr.models.passes import Model, with_gradients_in
from zsr.params import Checked, Iterations, PixelRange, Rounds

LISTS = {"paper": ("ce", "dlr"), "standard": ("ce", "dlr_targeted", "fab", "square")}
P_INIT = 0.8


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Checked):
    """AutoAttack. Any attack of the list may succeed at any point; misclassified clean images are not attacked.

    Attributes:
        version: the list of attacks. paper: the list in the literature on robust CLIP, cross-entropy alone for two
            classes. standard: the list of AutoAttack's authors.
        eps: radius of the l-infinity ball, in units of the pixel range [0, 1].
        n_iter: iterations of APGD and of FAB.
        n_queries: queries of Square.
        n_targets: number of target classes of targeted APGD and of FAB.
        early_drop: an image leaves a batch once the model is fooled. The verdicts are the same without early_drop.
        precision: precision of gradients. Passes of FAB and Square without a gradient run in fp32.
    """

    version: Literal["paper", "standard"] = "standard"
    eps: PixelRange
    n_iter: Iterations = 100
    n_queries: Iterations = 5000
    n_targets: Rounds = 9
    early_drop: bool = True
    precision: Precision = "fp32"

    def __call__(
        self, model: Model, images: Tensor, labels: Tensor, noise: Noise | None = None, batch_size: int | None = None
    ) -> Tensor:
        """Adversarial images for a classifier of pixels: (N, 3, H, W) in [0, 1] -> the same shape, in the ball.

        noise: draws for these images; None: draws by the place of an image in the batch, with seed 0. batch_size:
        images in one pass of the model; None: all images.
        """
        with matmul_precision(images.device, self.precision):
            return cascade(with_gradients_in(self.precision, model), images, labels, noise, batch_size, self._rounds)

    def attacks_run(self, n_classes: int) -> tuple[str, ...]:
        """The attacks of the list that run on a set of n_classes classes."""
        return names_of(self._rounds(n_classes))

    def protocol(self) -> str:
        """The attack's part of a protocol: the facts to report with every number."""
        attacks = ", ".join(self.attacks_run(max(self.n_targets + 1, 4)))
        queries = f", {self.n_queries} queries" if "square" in LISTS[self.version] else ""
        return (
            f"AutoAttack {self.version} ({attacks}; fewer for few classes) l-inf, eps {255 * self.eps:g}/255, "
            f"{self.n_iter} iterations{queries}, 1 restart, any iterate, summed losses"
            + ("" if self.precision == "fp32" else f", gradient {self.precision}")
        )

    def _rounds(self, n_classes: int) -> list[Round]:
        shared = {"eps": self.eps, "n_iter": self.n_iter, "early_drop": self.early_drop}
        rounds: list[Round] = []
        for attack in LISTS[self.version]:
            if attack == "fab":
                rounds += boundaries(n_classes, self.n_targets, **shared)
            elif attack == "square":
                rounds.append(Squares(eps=self.eps, n_queries=self.n_queries, p_init=P_INIT))
            else:
                rounds += ascents(attack, n_classes, 1, self.n_targets, norm="linf", **shared)
        return list(dict.fromkeys(rounds))  # for two classes DLR becomes cross-entropy, which is in the list already


ATTACK = AutoAttack
