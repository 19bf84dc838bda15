"""What a training step and an evaluation cost beside TGA-ZSR's Table 8, and the hours of the whole study:

python -m benchmarks.table8
python -m benchmarks.table8 --methods all --json cost.json
python -m benchmarks.table8 --device cpu --batch-size 4 --steps 2

By the project's own loops on pictures of noise, 200 classes, as studies/paper/params.yaml says. The weights are random,
which changes no time. See benchmarks/_speeds.py for how it is measured, benchmarks/_study_hours.py for what is counted.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from tabulate import tabulate

from benchmarks._study_hours import table, work_of
from benchmarks._table8_rows import beside, extrapolated, matmul_rates, rates, speed_cells, step_cells
from zsr import files
from zsr.attacks.clean import Clean
from zsr.cli.command import WRITTEN, check_written
from zsr.cli.running import OneLine
from zsr.compute import Compute
from zsr.evaluation.evaluate import Evaluation
from zsr.params import Count, block, component, read, training_of, under_protocol
from zsr.training.finetune import FineTuning

STUDIES = ("studies/paper", "studies/paper-1k")
METHODS = ("clip", "tecoa", "fare", "pmg_aft", "tga_zsr")
BATCH_SIZES = (128, 256)
FEW = (2, 6)  # iterations of an attack on a CPU, of which those of the study are extrapolated
EVALUATED = ("pgd", "autoattack")
NOTE_STEPS = """
clip: a forward without gradients. peak MB: 10^6 bytes, torch's allocator on a GPU, tensors alive on a CPU. share: the
time that the counted operations take at the matmul rates above, over the time of the step. Pictures come from memory
that is not read for the first time. Constants of the frozen model, a forward per image once, come before and are left
out.
"""
NOTE_SPEEDS = """
The prompts are such that images are right and never fooled (kept: the share that was not), so an attack goes on to its
end. That is an upper bound: an image that is wrong by itself, or falls, costs less, and almost all do under a model
without defence. clean is two forwards an image, as in every evaluation. {scaled}
"""
NOTE_HOURS = """
Of evaluations an upper bound (see above). One process; without downloads, decoding, loading, the text side and figures.
"""


@click.command(cls=OneLine)
@click.option("--arch", help="Of open_clip, with random weights; without it model.arch of studies/paper/params.yaml.")
@click.option("--batch-size", "sizes", type=click.IntRange(1), multiple=True, help="Without it 128 and 256.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--precision", type=click.Choice(["tf32", "bf16", "fp32"]), help="Of losses; without it train.precision.")
@click.option("--compile/--no-compile", "compiled", default=False)
@click.option("--channels-last/--no-channels-last", default=False)
@click.option("--methods", multiple=True, default=METHODS, help="Once for each method, or all.")
@click.option("--steps", type=click.IntRange(1), default=20, help="That are timed, after some that warm up.")
@click.option(
    "--attack-batch", type=click.IntRange(1), help="Without it evaluate.batch_size; on a CPU as --batch-size."
)
@click.option("--json", "out", type=WRITTEN, help="Everything that is printed, and more digits.")
def main(
    arch: str | None,
    sizes: tuple[int, ...],
    device: str,
    precision: str | None,
    compiled: bool,
    channels_last: bool,
    methods: tuple[str, ...],
    steps: int,
    attack_batch: int | None,
    out: Path | None,
) -> None:
    if out:
        check_written(out)
    from benchmarks._tower import Tower  # takes seconds

    document = under_protocol(read(Path(STUDIES[0], "params.yaml")))
    names, sizes = list(document["methods"]) if "all" in methods else methods, sizes or BATCH_SIZES
    changed = {} if precision is None else {"precision": precision}
    recipes = {name: replace(training_of(document, name, FineTuning), **changed) for name in names}
    torch.set_num_threads(min(block(document, "threads", Count), os.cpu_count() or 1))
    compute = Compute(device=device, compile=compiled, channels_last=channels_last)
    tower = Tower.make(arch or block(document, "model.arch", str), compute)
    content: dict[str, Any] = {"facts": facts_of(tower, block(document, "train", FineTuning).precision, precision)}
    content["steps"] = rows = beside(
        [_step(document, tower, name, recipes[name], size, steps) for size in sizes for name in names]
    )
    on_gpu = tower.device.type == "cuda"
    size = attack_batch or (block(document, "evaluate.batch_size", Count) if on_gpu else min(sizes))
    content["evaluations"] = speeds = _evaluations(document, tower, size)
    content["hours"] = {
        study: table(work_of(read(Path(study, "params.yaml"))), rates(rows, speeds)) for study in STUDIES
    }
    _show(content)
    if out:
        files.write_json(out, content)


def facts_of(tower, common: str, chosen: str | None) -> dict[str, str]:
    """What the numbers depend on beside the code."""
    on_gpu = tower.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(tower.device) if on_gpu else f"CPU {_processor()}",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "arch": tower.arch,
        "precision of losses": chosen or common,
        "compile": str(tower.compute.compile),
        "channels_last": str(tower.compute.channels_last),
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _step(document: Mapping, tower, name: str, recipe: FineTuning, size: int, steps: int) -> dict[str, Any]:
    from benchmarks._speeds import forward_cost, training_cost

    method = component(document, "methods", name)
    if method.trains:
        cost = training_cost(tower, method, replace(recipe, batch_size=size), steps)
        attack = f"{recipe.attack.n_iter} steps in {recipe.attack.precision}" if method.attacked else "none"
    else:
        cost, attack = forward_cost(tower, recipe.precision, size, steps), ""
    trained = {"attack": attack, "optimizer": recipe.optimizer if method.trains else ""}
    return (
        {"method": name, "batch": size}
        | trained
        | {
            "seconds": cost.seconds,
            "images_per_second": size / cost.seconds,
            "peak_mb": cost.peak_bytes / 1e6,
            "teraflop": cost.operations / 1e12,
            "share": cost.share,
            "matmul_tflops": {name: rate / 1e12 for name, rate in cost.rates.items()},
        }
    )


def _evaluations(document: Mapping, tower, size: int) -> list[dict[str, Any]]:
    from benchmarks._speeds import evaluation_speed

    evaluation = replace(block(document, "evaluate", Evaluation), batch_size=size)
    attacks = {"clean": Clean()} | {name: component(document, "attacks", name) for name in EVALUATED}
    rows = []
    for name, attack in attacks.items():
        wanted = getattr(attack, "n_iter", 0)
        shortened = tower.device.type == "cpu" and wanted > max(FEW)
        tried = [replace(attack, n_iter=n) for n in FEW] if shortened else [attack]
        speeds = [evaluation_speed(tower, each, evaluation) for each in tried]
        seconds, gradients = speeds[-1].seconds, speeds[-1].gradients
        if shortened:
            seconds, gradients = (
                extrapolated(FEW, [getattr(speed, key) for speed in speeds], wanted) for key in ("seconds", "gradients")
            )
        row = {"attack": name, "n_iter": wanted, "batch": size, "images_per_second": 1 / seconds}
        measured = list(FEW) if shortened else [wanted]
        kept = min(speed.kept for speed in speeds)
        rows.append(row | {"gradients": gradients, "kept": kept, "measured_n_iter": measured})
    return rows


def _show(content: Mapping) -> None:
    click.echo("\n".join(f"- {name}: {value}" for name, value in content["facts"].items()))
    for name, rate in matmul_rates(content["steps"]).items():
        click.echo(f"- matmul rate in {name}: {rate:.4g} TFLOP/s")
    click.echo(f"\n## Training steps\n\n{_markdown([step_cells(row) for row in content['steps']])}\n{NOTE_STEPS}")
    scaled = [row for row in content["evaluations"] if len(row["measured_n_iter"]) > 1]
    told = f"On a CPU {FEW[0]} and {FEW[1]} iterations were measured and the rest extrapolated." if scaled else ""
    speeds = [speed_cells(row) for row in content["evaluations"]]
    click.echo(f"## Evaluation\n\n{_markdown(speeds)}\n{NOTE_SPEEDS.format(scaled=told)}")
    for study, rows in content["hours"].items():
        cells = [row | {"hours": "" if row["hours"] is None else f"{row['hours']:.3g}"} for row in rows]
        click.echo(f"## Hours of {study}/\n\n{_markdown(cells)}\n")
    click.echo(NOTE_HOURS.strip())


def _markdown(rows: Sequence[Mapping]) -> str:
    return tabulate(rows, "keys", "github", disable_numparse=True)


if __name__ == "__main__":
    main()
