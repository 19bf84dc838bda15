"""One training of a tower and its linear head, kept outside DVC when it is done: a seed added costs itself alone."""

from dataclasses import dataclass
from pathlib import Path

from stages.command import progress, scratch
from zsr import storage
from zsr.data.split import Split, digest
from zsr.finetune import FineTuning, finetune_plain
from zsr.methods._base import Method
from zsr.models import backbones
from zsr.models.backbones import Backbone
from zsr.models.numerics import Compute
from zsr.models.plain import PlainClassifier
from zsr.train import COLUMNS


@dataclass(frozen=True)
class Lesson:
    """What a model is taught. name: of the start or the run. split: file of the training split."""

    name: str
    split: Path
    method: Method
    recipe: FineTuning
    seed: int
    compute: Compute


def learnt(model: PlainClassifier, backbone: Backbone, lesson: Lesson) -> tuple[PlainClassifier, list[dict[str, str]]]:
    """The model trained, in eval mode on the CPU, and its curve."""
    settings = repr((lesson.method, lesson.recipe, lesson.seed, lesson.compute))
    weights = [tensor.numpy().tobytes() for tensor in model.state_dict().values()]
    inputs = storage.digest(*weights, digest(lesson.split), storage.computer_digest(), settings)
    kept = scratch("training", lesson.name, inputs)
    tower, curve, unfinished = kept / "tower.safetensors", kept / "curve.csv", kept / "unfinished"
    with storage.claimed(kept):
        if not curve.exists():
            watch = progress(f"training {lesson.name}, seed {lesson.seed}", "step")
            split = Split.load(lesson.split)
            rows = finetune_plain(
                lesson.method, model, split, lesson.recipe, lesson.seed, unfinished, watch, lesson.compute
            )
            backbones.save(tower, model)
            storage.write_rows(curve, rows, COLUMNS)
            unfinished.unlink(missing_ok=True)
    return backbone.load(tower), storage.read_rows(curve)
