"""How many images a study trains on and attacks, and the hours that measured speeds make of them. No GPU, no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsr.data.config import Data
from zsr.measures.attention import AttentionStudy
from zsr.measures.eps_sweep import EpsSweep
from zsr.params import Natural, block, component, row, training_of
from zsr.training.finetune import FineTuning

# What is not measured takes the speed of what makes the same passes, or more: ft_clean has no attack, TeCoA has.
STANDS_FOR = {
    "ft_clean": "tecoa",
    "ft_adv": "tecoa",
    "vision_attention": "tga_zsr",
    "comp_tga": "tga_zsr",
    "embedding_anchor": "tga_zsr",
    "agft": "tecoa",
    "tecoa_180": "tecoa",
    "saft": "tga_zsr",
    "sim_clip": "fare",
    "cw": "pgd",
}
Rates = Mapping[str, Mapping[int, float]]  # method or attack -> batch size -> images a second


@dataclass(frozen=True)
class Work:
    """images: how many pass, one as often as it does. name: the method or attack. batch_size: the study's own."""

    task: str
    name: str
    images: int
    batch_size: int


def work_of(document: Mapping) -> list[Work]:
    """Every training, evaluation and sweep of a params document.

    A training's images are its steps times its batch. An evaluation has the images of all sets, once for each
    checkpoint; a method that neither trains nor has a start has one, the others one for each seed.
    """
    data = block(document, "data", Data)
    seeds = len(block(document, "seeds", tuple[Natural, ...]))
    works, checkpoints = [], 0
    for name in block(document, "methods", dict[str, Any]):
        trains = component(document, "methods", name).trains
        checkpoints += seeds if trains or row(document, "methods", name).start else 1
        if trains:
            recipe = training_of(document, name, FineTuning)
            steps = seeds * recipe.n_steps(data.sets[data.source].train)
            works.append(Work("training", name, steps * recipe.batch_size, recipe.batch_size))
    size = block(document, "evaluate.batch_size", int)
    images = checkpoints * sum(of.test for of in data.sets.values())
    attacks = block(document, "attacks", dict[str, Any])
    return works + [Work("evaluation", name, images, size) for name in attacks] + _studies(document, data, size)


def _studies(document: Mapping, data: Data, size: int) -> list[Work]:
    """The eps sweeps and the attention studies, which take the first checkpoint of every method."""
    methods, works = len(block(document, "methods", dict[str, Any])), []
    for name, swept in block(document, "eps_sweep", dict[str, EpsSweep]).items():
        images = methods * len(swept.eps) * sum(min(swept.images, of.test) for of in data.sets.values())
        works.append(Work("eps sweep", name, images, min(size, swept.images)))
    for shown in block(document, "attention", dict[str, AttentionStudy]).values():
        works.append(Work("attention", shown.attack, methods * shown.images, min(size, shown.images)))
    return works


def hours(work: Work, rates: Rates) -> tuple[float | None, str]:
    """Hours of a work, and what was measured in its place: at its batch size, or the nearest, scaled by images.

    (None, "") where neither it nor what stands for it was measured.
    """
    name = next((name for name in (work.name, STANDS_FOR.get(work.name)) if rates.get(name)), None)
    if name is None:
        return None, ""
    size = min(rates[name], key=lambda size: (abs(size - work.batch_size), size))
    return work.images / rates[name][size] / 3600, f"{name}, batch {size}"


def table(works: Sequence[Work], rates: Rates) -> list[dict]:
    """One row for each work and the total of those that have hours, which says how many have none."""
    rows = []
    for work in works:
        spent, measured_as = hours(work, rates)
        row = {"work": f"{work.task} {work.name}", "images": work.images, "hours": spent, "measured as": measured_as}
        rows.append(row)
    known, missing = [row for row in rows if row["hours"] is not None], [row for row in rows if row["hours"] is None]
    total = {"work": "total", "images": sum(row["images"] for row in known), "hours": sum(r["hours"] for r in known)}
    return [*rows, total | {"measured as": f"without {len(missing)} that were not measured" if missing else ""}]
