"""One method under one attack on every set, once for each seed of its fine-tuning."""

from pathlib import Path

import click

from stages.command import EXISTING, WRITTEN
from stages.launch import parallel_stage
from stages.verdicts import Judged, judge
from zsr import storage
from zsr.data import prepared
from zsr.data.world import SetSize
from zsr.models import clip
from zsr.params import block, read


@parallel_stage
@click.argument("method")
@click.argument("attack")
@click.option("--checkpoints", type=EXISTING, required=True, help="Folder of one checkpoint per seed.")
@click.option("--sets", type=EXISTING, required=True)
@click.option("--text", type=EXISTING, required=True)
@click.option("--out", type=WRITTEN, required=True, help="Folder of one folder of records per seed.")
def main(method: str, attack: str, params: Path, checkpoints: Path, sets: Path, text: Path, out: Path) -> None:
    document = read(params)
    names = block(document, "data.sets", dict[str, SetSize])
    data = {name: prepared.load(sets, text, name) for name in names}
    for checkpoint in sorted(checkpoints.iterdir(), key=lambda path: int(path.stem)):
        model = clip.create(block(document, "model.arch", str), checkpoint)
        judged = Judged(method, int(checkpoint.stem), storage.digest(checkpoint), model)
        judge(document, judged, attack, data, out / checkpoint.stem)


if __name__ == "__main__":
    main()
