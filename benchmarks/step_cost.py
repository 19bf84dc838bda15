"""What a fine-tuning step costs in forwards of the image tower:

python -m benchmarks.step_cost
python -m benchmarks.step_cost --arch ViT-B-32-quickgelu --batch-size 4

Counted floating-point operations and seconds, each over those of one forward without gradients of the same batch in
the same run. Ten steps on one batch, so constants of the frozen model are spread over ten epochs, as in the paper.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from zsr.data.split import make
from zsr.finetune import FineTuning, finetune
from zsr.models import clip
from zsr.models.classifier import Classifier
from zsr.params import Count, block, component, read

STEPS = 10


class Operations(TorchDispatchMode):
    """Counts by torch's own rules. FlopCounterMode also follows modules, with hooks that `autograd.grad` refuses."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.total += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@click.command()
@click.option("--arch", help="Of open_clip, with random weights; without it model.arch of params.yaml.")
@click.option("--batch-size", type=int, help="Without it train.batch_size.")
def main(arch: str | None, batch_size: int | None) -> None:
    document = read(Path("params.yaml"))
    torch.set_num_threads(block(document, "threads", Count))
    recipe = replace(block(document, "train", FineTuning), epochs=STEPS)
    recipe = replace(recipe, batch_size=batch_size or recipe.batch_size)
    source = make(document["data"]["source"], "train", recipe.batch_size, 0, document["data"]["image_size"])
    model = clip.create(arch or document["model"]["arch"])
    text = torch.nn.functional.normalize(torch.randn(len(source.classnames), model.visual.proj.shape[1]), dim=1)
    images, _, _ = source.tensors(range(recipe.batch_size))
    classifier = Classifier(model, text).train()  # in eval mode attention is one fused kernel, which is not counted

    def forward() -> None:
        with torch.no_grad():
            classifier(images)

    unit = _cost(forward, repeat=20)
    rows = []
    for name in document["methods"]:
        method = component(document, "methods", name)
        if method.trains:
            operations, seconds = _cost(lambda method=method: _train(method, model, text, source, recipe), repeat=1)
            rows.append([name, f"{operations / STEPS / unit[0]:.2f}", f"{seconds / STEPS / unit[1]:.1f}"])
    click.echo(tabulate(rows, ["method", "operations / forward", "seconds / forward"], "github", disable_numparse=True))


def _train(method, model, text, source, recipe) -> None:
    with TemporaryDirectory() as folder:
        finetune(method, copy.deepcopy(model), text, source, recipe, Path(folder, "run"))


def _cost(work, repeat: int) -> tuple[float, float]:
    """Operations and seconds of one call."""
    work()
    with Operations() as counter:
        work()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return counter.total, (time.perf_counter() - start) / repeat


if __name__ == "__main__":
    main()
