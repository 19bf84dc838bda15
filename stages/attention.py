"""Attention maps of clean and attacked images of one set under every method: the figure, and what was measured."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from stages.command import CATALOGUE, CHECKPOINTS, METRICS, SETS, TEXT_EMBEDDINGS, stage
from zsr import files
from zsr.attacks.batch import Noise
from zsr.attacks.pgd import SignAttack
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.measures import attention
from zsr.measures.attention import AttentionStudy
from zsr.models import heads
from zsr.params import Count, block, component
from zsr.reports import figures


@stage("attention", "set_name")
def main(document: Mapping, code: str, set_name: str) -> None:
    torch.set_num_threads(block(document, "threads", Count))
    shown = block(document, f"attention.{set_name}", AttentionStudy)
    evaluation = block(document, "evaluate", Evaluation)
    attack, compute = component(document, "attacks", shown.attack), block(document, "compute", Compute)
    if isinstance(attack, SignAttack):
        attack = replace(attack, success="last")  # maps show images after all steps of the attack
    methods = {m: heads.first_checkpoint(CHECKPOINTS / m) for m in files.read_json(CATALOGUE)["methods"]}
    data = prepared.load(SETS, TEXT_EMBEDDINGS, set_name, min(int(path.stem) for path in methods.values()))
    images, labels, ids = data.split.tensors(range(shown.images), compute.place())
    model, noise, maps, rows = block(document, "model", heads.Model), Noise(evaluation.seed, set_name, ids), {}, []
    for method, weights in methods.items():
        whole = heads.load(model, weights)
        classifier = heads.classifier(model, whole, data.text_embeddings, compute)
        maps[method], facts = attention.measure(classifier, attack, images, labels, noise, evaluation.batch_size)
        rows.append({"method": method} | {name: round(value, 3) for name, value in facts.items()})
    files.write_rows(METRICS / "attention" / f"{set_name}.csv", rows)
    panels = attention.panels(images.cpu(), maps, rows, shown.columns)
    title = f"{block(document, 'name', str)}: {figures.ATTENTION_NOTE}"
    figures.attention(METRICS / "attention" / f"{set_name}.png", *panels, title)


if __name__ == "__main__":
    main()
