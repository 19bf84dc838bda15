"""What the stage `collect` costs at the size of the paper's study: python -m benchmarks.collect_cost

The records are synthetic: ten methods under four attacks on the sixteen sets of studies/paper, as many images as there
are, random verdicts. They are made in one process, which takes longer than the stage, and the stage runs in another,
whose CPU time and memory are printed. The process that starts both stays small, since Linux counts the memory of a
process towards the peak of its children.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.command import CATALOGUE, RECORDS, ROOT, TEXT_EMBEDDINGS
from zsr import files
from zsr.evaluation.records import Record
from zsr.params import read

PARAMS = ROOT / "studies/paper/params.yaml"
CLEAN = 0.7  # share of images that are right without an attack
LEFT = {"pgd": 0.32, "cw": 0.33, "autoattack": 0.30, "square": 0.50}  # share that is right under each attack
GRADIENTS = 100  # that every image costs under each attack, and so many forwards
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def main() -> None:
    document = read(PARAMS)
    methods, sizes = list(document["methods"]), {name: of["test"] for name, of in document["data"]["sets"].items()}
    with TemporaryDirectory() as folder:
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(Path(folder), methods, sizes))
        maker.start()
        maker.join()
        assert maker.exitcode == 0, "the records could not be made"
        seconds, peak = cost(Path(folder))
    print(
        f"collect: {len(methods) * len(LEFT) * len(sizes)} records, {len(methods)} methods x {len(LEFT)} attacks x "
        f"{sum(sizes.values()):,} images: {seconds:.1f} s of CPU, {peak / 1e9:.2f} GB of memory at most"
    )


def make(folder: Path, methods: list[str], sizes: Mapping[str, int]) -> None:
    """All that the stage reads. sizes: images of every set."""
    from zsr.params import build
    from zsr.study import Study, catalogue

    document = read(PARAMS)
    facts = catalogue(build(Study, document, ""), document) | {"attacks": dict.fromkeys(LEFT, "1/255")}
    shutil.copy(PARAMS, folder)
    files.write_json(folder / CATALOGUE, facts)
    write_index(folder, sizes)
    random = np.random.default_rng(0)
    for name, n in sizes.items():
        ids = random.integers(0, 2**63, n)  # as those of public sets
        for method in methods:
            write_records(folder, method, name, ids, random)


def write_index(folder: Path, sets: Mapping[str, int]) -> None:
    """What the stage `sets` leaves."""
    from zsr.data import prepared
    from zsr.data.registry import entries

    index = {name: {"images": "", "text_embeddings": "", "classes": entries()[name].num_classes} for name in sets}
    prepared.write_index(folder / TEXT_EMBEDDINGS, index)


def write_records(folder: Path, method: str, set_name: str, ids: np.ndarray, random: np.random.Generator) -> None:
    """One record for each attack. An image that is hard under one attack is hard under all of them."""
    n, hardness = len(ids), random.random(len(ids))
    for attack, left in LEFT.items():
        Record(
            method=method,
            seed=0,
            attack=attack,
            set_name=set_name,
            fingerprint=files.digest(method, attack, set_name),
            protocol=f"synthetic verdicts under {attack}",
            attacks_run=(attack,),
            ids=ids,
            clean_bits=hardness < CLEAN,
            adv_bits=hardness + random.normal(0, 0.02, n) < left,
            zero_bits=np.zeros(n, bool),
            broken_bits=np.zeros(n, bool),
            forwards=GRADIENTS * n,
            gradients=GRADIENTS * n if attack != "square" else 0,
            pixels=3 * 224 * 224 * n,
        ).save(folder / RECORDS / f"{method}-{attack}" / "0" / f"{set_name}.json")


def cost(folder: Path) -> tuple[float, int]:
    """CPU seconds and peak memory in bytes of the stage in a folder that has no code.yaml."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen([sys.executable, "-B", "-m", "stages.collect"], cwd=folder, env=environment)
    _, status, used = os.wait4(stage.pid, 0)
    assert status == 0, "the stage failed"
    return used.ru_utime + used.ru_stime, used.ru_maxrss * UNIT


if __name__ == "__main__":
    main()
