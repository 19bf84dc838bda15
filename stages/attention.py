"""Attention maps of clean and attacked images of one set: what was measured of every method, and a figure of some."""

from collections.abc import Mapping
from dataclasses import replace

from stages.command import CHECKPOINTS, METRICS, SETS, TEXT_EMBEDDINGS, catalogue, stage
from stages.progress import over, tell
from zsr import files
from zsr.attacks.pgd import SignAttack
from zsr.compute import Compute
from zsr.data import prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.measures import attention
from zsr.measures.attention import AttentionStudy, AttentionTask
from zsr.models import heads
from zsr.params import Count, block, component
from zsr.reports import figures


@stage("attention", "set_name")
def main(document: Mapping, code: str, set_name: str) -> None:
    shown = block(document, f"attention.{set_name}", AttentionStudy)
    attack = component(document, "attacks", shown.attack)
    if isinstance(attack, SignAttack):
        attack = replace(attack, success="last")  # maps show images after all steps of the attack
    methods = {m: heads.first_checkpoint(CHECKPOINTS / m) for m in catalogue()["methods"]}
    data = prepared.load(SETS, TEXT_EMBEDDINGS, set_name, min(int(path.stem) for path in methods.values()))
    maps, rows = {}, []
    for method, weights in over(f"attention maps of {set_name}", "methods", methods.items()):
        task = AttentionTask(
            attack=attack,
            n_images=shown.images,
            evaluation=block(document, "evaluate", Evaluation),
            model=block(document, "model", heads.Model),
            compute=block(document, "compute", Compute),
            threads=block(document, "threads", Count),
            set_name=set_name,
            weights=weights,
            images=data.images,
            text_embeddings=data.text,
        )
        maps[method], facts = attention.measure_once(task, data, code)
        rows.append({"method": method} | {name: round(value, 3) for name, value in facts.items()})
    files.write_rows(METRICS / "attention" / f"{set_name}.csv", rows)
    images = data.split.tensors(range(shown.images))[0]
    panels = attention.panels(images, {method: maps[method] for method in shown.methods}, shown.shown)
    note = f"{block(document, 'name', str)}. {figures.ATTENTION_NOTE} {attention.told(rows, shown.methods)}"
    title = "Where the models look, on clean and on attacked images"
    figures.attention(METRICS / "attention" / f"{set_name}.png", panels, title, note)
    tell(f"attention maps of {set_name}: {len(methods)} methods, {shown.images} images")


if __name__ == "__main__":
    main()
