"""What a fine-tuning step costs in forwards of the image tower, and the memory it takes:

python -m benchmarks.step_cost
python -m benchmarks.step_cost --arch ViT-B-32-quickgelu --batch-size 4

Counted floating-point operations and seconds, each over those of one forward without gradients of the same batch in
the same run. Ten steps on one batch, so constants of the frozen model are spread over ten epochs, as in the paper.
Memory: the most bytes of tensors alive at once in a step, gradients of the weights included, less those of weights,
optimiser, anchors and data, over the bytes of the image tower's weights.
"""

import copy
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zsr.cli.running import OneLine
from zsr.data.sources import make
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.params import Count, block, component, read, training_of
from zsr.training.finetune import FineTuning, Texts, finetune

STEPS = 10


class Meter(TorchDispatchMode):
    """Counts operations by torch's own rules, and the bytes of tensors alive that were made under it."""

    def __init__(self):
        super().__init__()
        self.operations = self.alive = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.operations += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


@click.command(cls=OneLine)
@click.option("--arch", help="Of open_clip, with random weights; without it model.arch of params.yaml.")
@click.option("--batch-size", type=int, help="Without it train.batch_size.")
@click.option("--methods", multiple=True, help="Without it all of params.yaml.")
def main(arch: str | None, batch_size: int | None, methods: tuple[str, ...]) -> None:
    document = read(Path("params.yaml"))
    torch.set_num_threads(block(document, "threads", Count))
    arch = arch or document["model"]["arch"]
    model = clip.create(arch)
    size = batch_size or block(document, "train", FineTuning).batch_size
    source = make(document["data"]["source"], "train", size, 0, model.visual.image_size[0])
    text = clip.embed_texts(model, arch, source.prompts(document["data"]["template"]))
    images, _, _ = source.tensors(range(size))
    unit, weights = forward_cost(Classifier(model, text), images), sum(p.nbytes for p in model.visual.parameters())
    rows = []
    for name in methods or document["methods"]:
        method = component(document, "methods", name)
        recipe = replace(training_of(document, name, FineTuning), epochs=STEPS, batch_size=size)
        if method.trains:
            texts = Texts.of(method, text, source, partial(clip.embed_texts, model, arch))
            work = partial(_train, method, model, texts, source, recipe)
            peaks: list[int] = []
            with Meter() as meter:
                work(peaks, meter)
            start = time.perf_counter()
            work([])
            seconds = time.perf_counter() - start
            memory = max(peaks) / weights + 1  # what a step finds includes the gradients of the one before
            figures = meter.operations / STEPS / unit[0], seconds / STEPS / unit[1], memory
            rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    header = ["method", "operations / forward", "seconds / forward", "peak memory / weights"]
    click.echo(f"{arch}, batch {size}, {len(source.classnames)} classes; a forward takes {unit[1]:.3f} s")
    click.echo(tabulate(rows, header, "github", disable_numparse=True))


def _train(method, model, texts, source, recipe, peaks: list[int], meter: Meter | None = None) -> None:
    """STEPS steps; with a meter, adds to peaks the bytes of every step but the first, which makes the optimiser."""

    def watch(items, _done, _result):
        for step in items:
            if meter:
                before = meter.peak = meter.alive
            yield step
            if meter and step:
                peaks.append(meter.peak - before)

    with TemporaryDirectory() as folder:
        finetune(method, copy.deepcopy(model), texts, source, recipe, 0, Path(folder, "run"), watch)


def forward_cost(classifier: Classifier, images: torch.Tensor) -> tuple[float, float]:
    """Operations and seconds of one forward of the whole tower without gradients."""
    classifier.train()  # in eval mode attention is one fused kernel, which is not counted
    times = []
    with torch.no_grad():
        for _ in range(20):
            start = time.perf_counter()
            classifier.tokens(images)
            times.append(time.perf_counter() - start)
        with Meter() as meter:
            classifier.tokens(images)
    return meter.operations, sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
