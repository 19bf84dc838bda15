"""Seconds, memory and operations of training steps and evaluations of a random tower, by the project's own loops."""

import copy
import gc
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks._tower import SCALE, Tower
from benchmarks.step_cost import Meter
from zsr.compute import Compute, autocast, matmul_precision
from zsr.evaluation.evaluate import Evaluation, evaluate
from zsr.evaluation.records import Record
from zsr.methods._base import Method
from zsr.models.clip import Classifier
from zsr.scratch import Watch
from zsr.training.finetune import FineTuning, Texts, finetune

WARM_UP = {"cuda": 5, "cpu": 1}  # steps
REPEATS = {"cuda": 9, "cpu": 3}  # of a matrix product, after the warm-up
SIDE = {"cuda": 8192, "cpu": 2048}  # of the matrices
BATCHES = {"cuda": 3, "cpu": 1}  # that are evaluated and timed, after one that warms up
HELD = 4  # batches of pictures in memory; the steps go through them again and again


class Clock:
    """Moments of a device, in its own time: a GPU is not held up, and is waited for once, at the end."""

    def __init__(self, device: torch.device):
        self.device, self._moments = device, []

    def mark(self) -> None:
        if self.device.type == "cuda":
            self._moments.append(torch.cuda.Event(enable_timing=True))
            self._moments[-1].record()
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Between each moment and the next."""
        if self.device.type != "cuda":
            return [after - before for before, after in pairwise(self._moments)]
        torch.cuda.synchronize(self.device)
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self._moments)]

    def watch(self, steps, _done, _result):
        """A `zsr.scratch.Watch` that marks where every step begins, and where the last ends."""
        for step in steps:
            self.mark()
            yield step
        self.mark()


class TypedMeter(Meter):
    """Also keeps apart the operations in fp32 numbers, tf32 among them, and in half precision."""

    def __init__(self):
        super().__init__()
        self.by_type: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = self.operations
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if self.operations > before:
            self.by_type[args[0].dtype] += self.operations - before
        return result


@lru_cache
def matmul_rate(device: torch.device, dtype: torch.dtype, precision: str) -> float:
    """Operations a second of the product of two large square matrices."""
    side, warm_up, clock = SIDE[device.type], WARM_UP[device.type], Clock(device)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with matmul_precision(device, precision):
        for _ in range(warm_up + REPEATS[device.type]):
            clock.mark()
            a @ b
    clock.mark()
    return 2 * side**3 / median(clock.seconds()[warm_up:])


@dataclass(frozen=True)
class Cost:
    """Of a step. rates: name of a number type -> operations a second of a matrix product in it."""

    seconds: float
    peak_bytes: int
    operations: int
    share: float
    rates: dict[str, float]


def training_cost(tower: Tower, method: Method, recipe: FineTuning, steps: int) -> Cost:
    """A step of fine-tuning, data feeding included: median time of `steps` steps after the warm-up.

    Memory: what torch's allocator held on a GPU; on a CPU the bytes of tensors alive in the second of two steps, and
    of the tower's weights. Operations are those of that second step.
    """
    warm_up, clock = WARM_UP[tower.device.type], Clock(tower.device)
    meter = TypedMeter()

    def second_step(items, _done, _result):
        for step in items:
            meter.by_type.clear()
            meter.peak = meter.alive
            yield step

    with meter:
        _train(tower, method, recipe, 2, second_step, replace(tower.compute, compile=False))
    counted, alive = Counter(meter.by_type), meter.peak
    _forget(tower.device)
    _train(tower, method, recipe, warm_up + steps, clock.watch, tower.compute)
    seconds = median(clock.seconds()[warm_up:])
    return _cost(tower, seconds, counted, alive, recipe.precision)


def _train(tower: Tower, method: Method, recipe: FineTuning, steps: int, watch: Watch, compute: Compute) -> None:
    held = min(steps, HELD)
    source = tower.split(held * recipe.batch_size)
    recipe = replace(recipe, epochs=steps / held, save_every=steps + 1)
    texts = Texts(tower.texts(), tower.texts() if method.non_class_template else None)
    with TemporaryDirectory() as folder:
        scratch = Path(folder, "run")
        finetune(method, copy.deepcopy(tower.clip), texts, source, recipe, 0, scratch, watch, compute)


def forward_cost(tower: Tower, precision: str, batch_size: int, steps: int) -> Cost:
    """A forward without gradients, images sent to the device included."""
    device, source, clock, meter = tower.device, tower.split(batch_size), Clock(tower.device), TypedMeter()

    def forward(model: Classifier) -> None:
        with torch.no_grad(), matmul_precision(device, precision), autocast(device, precision):
            model(source.tensors(range(batch_size), device)[0])

    plain = replace(tower.compute, compile=False)
    counted = Classifier(copy.deepcopy(tower.clip), tower.texts(), plain).train()  # eval mode has an uncounted kernel
    with meter:
        forward(counted)
    del counted
    _forget(device)
    model, warm_up = Classifier(copy.deepcopy(tower.clip), tower.texts(), tower.compute).eval(), WARM_UP[device.type]
    for _ in clock.watch(range(warm_up + steps), 0, None):
        forward(model)
    return _cost(tower, median(clock.seconds()[warm_up:]), meter.by_type, meter.peak, precision)


def _forget(device: torch.device) -> None:
    """Nothing of what was measured before counts in the peak of what comes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _cost(tower: Tower, seconds: float, counted: Counter, alive: int, precision: str) -> Cost:
    device = tower.device
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else alive + tower.weights
    rates = {dtype: matmul_rate(device, dtype, precision) for dtype in counted}
    ideal = sum(operations / rates[dtype] for dtype, operations in counted.items())
    names = {torch.float32: "fp32" if precision == "fp32" or device.type == "cpu" else "tf32"}
    named = {names.get(dtype, str(dtype).removeprefix("torch.")): rate for dtype, rate in rates.items()}
    return Cost(seconds, peak, counted.total(), ideal / seconds, named)


@dataclass(frozen=True)
class Speed:
    """Of an evaluation. seconds and gradients: of an image. kept: share of images that the attack did not fool."""

    seconds: float
    gradients: float
    kept: float


def evaluation_speed(tower: Tower, attack, evaluation: Evaluation) -> Speed:
    """Of images that are right and never fooled, so an attack goes on to its end; after a batch that warms up.

    The checks of a model, once before each set, are left out.
    """
    size, device = evaluation.batch_size, tower.device
    n, clock = size * (1 + BATCHES[device.type]), Clock(device)
    split, texts = tower.firm(n)
    model = Classifier(copy.deepcopy(tower.clip), texts, tower.compute)
    model.logit_scale.fill_(SCALE)
    blank = Record(method="random", seed=0, attack="", set_name="noise", fingerprint="", protocol="")
    with TemporaryDirectory() as folder:
        once = replace(evaluation, save_every=1)
        scratch = Path(folder, "record")
        record = evaluate(model, attack, split, blank, once, scratch, clock.watch, device=device)
    return Speed(median(clock.seconds()[1:]) / size, record.gradients / n, sum(record.robust_bits) / n)
