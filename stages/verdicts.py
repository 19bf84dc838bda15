"""One model under one attack on every set: one record per set, each kept outside DVC as soon as it is done."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
from torch import nn

from stages.command import progress, scratch
from zsr import storage
from zsr.data.prepared import Prepared
from zsr.evaluate import Evaluation, attacks_run, evaluate, protocol
from zsr.models.classifier import Classifier
from zsr.params import Count, block, component, under_protocol
from zsr.records import Record


@dataclass(frozen=True)
class Judged:
    """method, seed: as the record names them. weights: digest of the model's. model: an open_clip model."""

    method: str
    seed: int
    weights: str
    model: nn.Module


def judge(document: Mapping, judged: Judged, attack_name: str, sets: Mapping[str, Prepared], out: Path) -> None:
    """Writes out/<set>.json for every set."""
    document = under_protocol(document)
    evaluation, threads = block(document, "evaluate", Evaluation), block(document, "threads", Count)
    torch.set_num_threads(max(threads // evaluation.workers, 1))
    attack = component(document, "attacks", attack_name)
    settings = repr((judged.weights, attack, replace(evaluation, save_every=1, workers=1), judged.seed))
    computer = storage.computer_digest()  # before there are threads, which would look for modules side by side

    def record_of(name: str) -> Record:
        data = sets[name]
        model = Classifier(judged.model, data.text_embeddings)
        inputs = storage.digest(data.embedded, data.split.ids.tobytes(), computer, settings)
        stated = protocol(model, attack, data.split.images.shape[1], data.template, evaluation)
        cell = {"method": judged.method, "seed": judged.seed, "attack": attack_name, "set_name": name}
        listed = attacks_run(attack, attack_name, len(data.text_embeddings))
        facts = {"protocol": stated, "attacks_run": listed, "counted": evaluation.counted}
        kept = scratch("evaluate", attack_name, f"{name}-{inputs}.json")  # of equal weights, whatever their method
        with storage.claimed(kept):
            watch = progress(f"{judged.method} {attack_name} {name}", "batch")
            blank = Record(**cell, fingerprint=inputs, **facts)
            return evaluate(model, attack, data.split, blank, evaluation, kept, watch)

    with ThreadPool(evaluation.workers) as pool:
        pool.map(lambda name: record_of(name).save(out / f"{name}.json"), sets, chunksize=1)
