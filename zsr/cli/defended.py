"""`zsr evaluate WEIGHTS --defence NAME`: one model under one defence at test time, in the columns of a defence."""

from pathlib import Path
from types import SimpleNamespace as Options
from typing import Any

import click


def measure(weights: str, given: Options) -> None:
    """Judge the model, with the published numbers of the defence, and print the columns for every eps."""
    from zsr.cli import evaluate as plain

    plain._check(weights, given)
    from zsr.evaluation.defended import defence_by_name, neutral_text
    from zsr.models.loading import load

    defence = defence_by_name(given.defence)
    attacks = {eps: plain._attacks(given, eps) for eps in given.eps}
    _refuse(given, defence, attacks)
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    model = load(weights, given.arch, given.base, given.activation, given.norm_stats)
    templates, is_original = defence.neutral_templates(), weights in ("openai", given.base)
    origin = None if is_original or not defence.needs_origin else load(given.base or "openai", str(model.arch))
    neutral = neutral_text(model, str(model.arch), templates) if templates else None
    name = plain.name_of(weights)
    out = given.out or plain.RESULTS / name
    for eps, named in attacks.items():
        folder = out / f"{given.defence}-eps_{eps.replace('/', '_')}"
        result = _judged(model, origin, neutral, defence, named, name, folder, given)
        click.echo(f"\n{name} under {defence.title}, eps {eps}\n{result!r}\n\nRecords: {folder}")


def _judged(
    model: Any, origin: Any, neutral: Any, defence: Any, attacks: dict, name: str, folder: Path, given: Options
) -> Any:
    from zsr import files
    from zsr.cli import evaluate as plain
    from zsr.defences._base import Tower
    from zsr.evaluation.defended import defending_for, measured
    from zsr.evaluation.measure import weights_digest
    from zsr.models import loading

    towers, sets, facts, prints = {}, {}, {}, [weights_digest(model), *([weights_digest(origin)] if origin else [])]
    for set_name in [*given.sets, *([given.data_name] if given.data else [])]:
        sets[set_name], classifier, wording = plain._prepared(set_name, model, given)
        device = classifier.text_embeddings.device
        original = origin and loading.classifier(origin, classifier.text_embeddings, given.device)
        towers[set_name] = Tower(classifier, original, None if neutral is None else neutral.to(device))
        facts[set_name] = f"{classifier.facts}; {wording}"
        prints.append(plain._fingerprint("", classifier, sets[set_name]))
    largest = max(len(split.ids) for split in sets.values())
    return measured(
        towers, sets, attacks, defence, plain._evaluation(given, largest), defending_for(attacks, largest),
        name=name, facts=facts, device=device, kept=folder, fingerprint=files.digest(*prints),
        watched=lambda set_name: _bar(set_name),
    )  # fmt: skip


def _bar(set_name: str) -> Any:
    from tqdm import tqdm

    return lambda steps, done, record_so_far: tqdm(steps, desc=set_name, leave=False)


def _refuse(given: Options, defence: Any, attacks: dict[str, dict]) -> None:
    """Refuse what a defence cannot be judged by."""
    from zsr.evaluation.defended import check_attacks
    from zsr.params import ParamError

    for named in attacks.values():
        check_attacks(named, defence, "--attack")
    if given.protocol != "trusted":
        raise ParamError(f"--protocol must be trusted for a defence, got {given.protocol}")
    if given.entry:
        raise ParamError("--entry writes an entry of a model; a defence has no entry")
