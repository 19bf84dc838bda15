"""One model under one attack on every set: one record per set, each kept outside DVC as soon as it is done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch
from torch import nn

from stages.command import progress, scratch
from zsr import distributed, storage
from zsr.data.prepared import Prepared
from zsr.data.split import Split
from zsr.evaluate import Evaluation, attacks_run, evaluate, protocol
from zsr.models.classifier import Classifier
from zsr.models.numerics import Compute
from zsr.params import Count, block, component, under_protocol
from zsr.records import Record, merged
from zsr.watch import Watch


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
    attack, compute = component(document, "attacks", attack_name), block(document, "compute", Compute)
    settings = repr((judged.weights, attack, replace(evaluation, save_every=1, workers=1), judged.seed, compute))
    computer = storage.computer_digest()  # before there are threads, which would look for modules side by side

    def record_of(name: str) -> Record:
        data = sets[name]
        model = Classifier(judged.model, data.text_embeddings, compute)
        inputs = storage.digest(data.inputs, data.split.ids.tobytes(), computer, settings)
        stated = protocol(model, attack, data.split.images.shape[1], data.wording, evaluation)
        cell = {"method": judged.method, "seed": judged.seed, "attack": attack_name, "set_name": name}
        listed = attacks_run(attack, attack_name, len(data.text_embeddings))
        facts = {"protocol": stated, "attacks_run": listed, "counted": evaluation.counted}
        kept = scratch("evaluate", attack_name, f"{name}-{inputs}.json")  # of equal weights, whatever their method
        watch = progress(f"{judged.method} {attack_name} {name}", "batch")
        blank = Record(**cell, fingerprint=inputs, **facts)
        run = partial(evaluate, model, attack, data.split, blank, evaluation, device=compute.place())
        return _shared(run, data.split, kept, watch)

    with ThreadPool(1 if distributed.world_size() > 1 else evaluation.workers) as pool:
        for name, record in zip(sets, pool.imap(record_of, sets)):
            if distributed.rank() == 0:
                record.save(out / f"{name}.json")


def _shared(run: Callable[..., Record], split: Split, kept: Path, watch: Watch) -> Record:
    """The record of a split, which the processes of the run share out among them; the first keeps the whole of it."""
    which, of = shard = distributed.rank(), distributed.world_size()
    if of == 1:
        with storage.claimed(kept):
            return run(kept, watch)
    if distributed.of_first(kept.exists() and len(Record.load(kept).ids) == len(split.ids)):
        return distributed.of_first(which == 0 and run(kept, watch))
    own = kept.with_name(f"{kept.stem}-{which}of{of}.json")
    record = merged(distributed.gathered(run(own, watch, shard=shard)), split.ids.tolist())
    if which == 0:
        record.save(kept)
    own.unlink(missing_ok=True)  # a process may have no image of a small set
    return record
