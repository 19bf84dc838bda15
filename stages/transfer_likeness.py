"""What every run of the transfer study has of the pre-trained model of its seed."""

from pathlib import Path

import click
import torch
from torch import Tensor

from stages.command import EXISTING, WRITTEN, progress, scratch, stage
from zsr import storage
from zsr.data.split import Split, digest
from zsr.likeness import Likeness, Probe, measure
from zsr.models.backbones import Backbone
from zsr.models.numerics import Compute
from zsr.params import Count, Natural, block, read
from zsr.transfer_params import Trained


@stage
@click.option("--starts", type=EXISTING, required=True, help="Folder: start, one file of weights per seed.")
@click.option("--towers", type=EXISTING, required=True, help="Folder: run, one file of weights per seed.")
@click.option("--target", type=EXISTING, required=True, help="Folder of the target set.")
@click.option("--out", type=WRITTEN, required=True)
def main(params: Path, starts: Path, towers: Path, target: Path, out: Path) -> None:
    document = read(params)
    torch.set_num_threads(block(document, "threads", Count))
    wanted, backbone = block(document, "likeness", Likeness), block(document, "backbone", Backbone)
    compute, rows = block(document, "compute", Compute), []
    device, files = compute.place(), [target / f"{name}.safetensors" for name in ("test", "train")]
    test, train = (Split.load(file) for file in files)
    probe = Probe(*tensors(test.first(wanted.images), device), *tensors(train, device))
    facts = storage.digest(*map(digest, files), storage.computer_digest(), repr((wanted, compute)))
    runs = [
        (name, run, seed)
        for name, run in block(document, "runs", dict[str, Trained]).items()
        for seed in block(document, "seeds", tuple[Natural, ...])
    ]
    for name, run, seed in progress("likeness", "model")(runs, 0):
        of, to = towers / name / f"{seed}.safetensors", starts / wanted.reference / f"{seed}.safetensors"
        kept = scratch("likeness", storage.digest(of, to, facts))
        with storage.claimed(kept):
            if not kept.exists():
                pair = [backbone.load(path).to(device).requires_grad_(False) for path in (of, to)]
                storage.write_json(kept, measure(*pair, probe, wanted, seed))
        key = {"run": name, "start": run.start, "method": run.method, "seed": seed}
        rows += [key | row for row in storage.read_json(kept)]
    storage.write_rows(out, rows)


def tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels of the whole split."""
    images, labels, _ = split.tensors(range(len(split.ids)), device)
    return images, labels


if __name__ == "__main__":
    main()
