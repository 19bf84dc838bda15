"""A ViT-B/32 of random weights through the stages of the paper's study: fine-tuning, PGD, AutoAttack, in true size.

python -m benchmarks.vit_rehearsal build/vit
python -m benchmarks.vit_rehearsal build/vit --train 32 --test 4 --n-iter 2 --standard 2

The recipes, the attacks and the code are those of studies/paper. The pictures are drawn at 224 pixels, since the public
sets are not here. The weights are random and train for few steps at a higher rate, so accuracies mean nothing: what
counts is that every stage runs to its end, and the seconds that a stage takes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from ruamel.yaml import YAML

from stages.command import ROOT
from zsr.cli.command import WRITTEN, check_written
from zsr.cli.running import OneLine
from zsr.evaluation.records import Record
from zsr.params import read

METHODS = ("clip", "tecoa", "tga_zsr")
TOWER = "ViT-B-32-quickgelu"
STANDARD = "autoattack_standard"


@click.command(cls=OneLine)
@click.argument("folder", type=WRITTEN)
@click.option("--train", type=click.IntRange(1), default=5120, help="Number of pictures that train.")
@click.option("--test", type=click.IntRange(1), default=512, help="Number of pictures of each of two sets.")
@click.option("--epochs", type=click.IntRange(1), default=6)
@click.option("--n-iter", type=click.IntRange(1), default=100, help="Iterations of PGD and APGD.")
@click.option("--standard", type=click.IntRange(1), default=100, help="Iterations of the standard AutoAttack.")
def main(folder: Path, train: int, test: int, epochs: int, n_iter: int, standard: int) -> None:
    check_written(folder, folder=True)
    folder.mkdir(parents=True, exist_ok=True)
    document = params(folder, train, test, epochs, n_iter, standard)
    YAML(typ="safe").dump(document, folder / "params.yaml")
    (folder / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    random_weights(folder / "weights.safetensors")
    sets, attacks = list(document["data"]["sets"]), list(document["attacks"])
    stages = [["code"], ["check"], *(["data", name] for name in sets), ["base_model"], ["text_embeddings"], ["start"]]
    stages += [["train", name] for name in METHODS]
    stages += [["evaluate", name, attack] for name in METHODS for attack in attacks]
    seconds = {" ".join(stage): _run(folder, stage) for stage in stages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    click.echo(f"\n{TOWER}, random weights, {device}, torch {torch.__version__}\n\n| stage | seconds |\n| --- | --- |")
    click.echo("\n".join(f"| {name} | {value:.1f} |" for name, value in seconds.items()))
    click.echo("\n| row | attack | set | n | right clean | right attacked |\n| --- | --- | --- | --- | --- | --- |")
    for path in sorted((folder / "data/records").glob("*/0/*.json")):
        record = Record.load(path)
        right = int(record.clean_bits.sum()), int(record.hits.sum())
        click.echo(f"| {record.method} | {record.attack} | {record.set_name} | {record.n} | {right[0]} | {right[1]} |")


def params(folder: Path, train: int, test: int, epochs: int, n_iter: int, standard: int) -> dict:
    """The paper's params with drawn sets, few steps, and both versions of AutoAttack."""
    document = json.loads(json.dumps(read(ROOT / "studies/paper/params.yaml"), default=float))
    drawn = {"glyphs": {"train": train, "test": test}, "letters": {"train": 0, "test": test}}
    document["data"] |= {"source": "glyphs", "start_source": "glyphs", "sets": drawn}
    document |= {"up": "../" * len(folder.resolve().relative_to(ROOT).parts), "launcher": "python", "attention": {}}
    document["base_model"] = {"pretrained": "openai", "file": "weights.safetensors"}
    document["methods"] = {name: document["methods"][name] for name in METHODS}
    for row in document["methods"].values():
        row.pop("train", None)
    document["train"] |= {"epochs": epochs, "optimizer": "adamw", "lr": 0.0005, "warmup_steps": 10, "grad_clip": 1.0}
    attacks = document["attacks"]
    attacks |= {STANDARD: attacks["autoattack"] | {"module": "autoattack", "version": "standard", "n_iter": standard}}
    for name in ("pgd", "cw", "autoattack"):
        attacks[name]["n_iter"] = n_iter
    document |= {"eps_sweep": {}, "tables": ["accuracy"], "figures": []}
    return document


def random_weights(path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(open_clip.create_model(TOWER).state_dict(), path)


def _run(folder: Path, stage: list[str]) -> float:
    """Run a stage as DVC does, in a process of its own. Raises CalledProcessError where the stage fails."""
    begin = time.perf_counter()
    command = [sys.executable, "-B", "-m", f"stages.{stage[0]}", *stage[1:]]
    subprocess.run(command, cwd=folder, check=True, env=_environment())
    return time.perf_counter() - begin


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


if __name__ == "__main__":
    main()
