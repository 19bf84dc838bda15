"""Verdicts under PGD at three batch sizes, on the models that `dvc repro` left: python -m benchmarks.batch_sizes"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from tabulate import tabulate

from zsr.cli.running import OneLine
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation, evaluate
from zsr.evaluation.records import Record
from zsr.models import heads
from zsr.models.clip import Classifier
from zsr.params import Count, block, component, read

SIZES = (64, 7, 1)


@click.command(cls=OneLine)
@click.argument("methods", nargs=-1)
@click.option("--images", default=100, help="Of each set.")
def main(methods: tuple[str, ...], images: int) -> None:
    """Count images whose verdict differs from that at batch size 64."""
    document = read(Path("params.yaml"))
    torch.set_num_threads(block(document, "threads", Count))
    attack, evaluation = component(document, "attacks", "pgd"), block(document, "evaluate", Evaluation)
    rows = []
    for method in methods or document["methods"]:
        checkpoint = heads.first_checkpoint(Path("data/checkpoints", method))
        model = heads.load(block(document, "model", heads.Model), checkpoint)
        for name in document["data"]["sets"]:
            data = prepared.load(Path("data/sets"), Path("data/text_embeddings"), name)
            split, classifier = data.split.first(images), Classifier(model, data.text_embeddings)
            bits = []
            for size in SIZES:
                blank = Record(method=method, seed=0, attack="pgd", set_name=name, fingerprint="", protocol="")
                with TemporaryDirectory() as folder:
                    setting = replace(evaluation, batch_size=size)
                    bits.append(evaluate(classifier, attack, split, blank, setting, Path(folder, "record")).adv_bits)
            rows.append([method, name, len(split.ids), *(sum(a != b for a, b in zip(bits[0], x)) for x in bits[1:])])
    totals = [sum(row[i] for row in rows) for i in (2, 3, 4)]
    header = ["method", "set", "images", *(f"differ at batch {size}" for size in SIZES[1:])]
    click.echo(tabulate([*rows, ["all", "", *totals]], header, "github"))


if __name__ == "__main__":
    main()
