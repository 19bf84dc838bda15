"""A row of the study in this folder, judged as the stage `evaluate` judges it: the same records, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zsr.params import ParamError, StudyError, block, component, nearest, read, under_protocol
from zsr.scratch import ROOT, Watch

PARAMS = Path("params.yaml")
BASE_MODEL = Path("data/base_model")
CHECKPOINTS, SETS, TEXT = Path("data/checkpoints"), Path("data/sets"), Path("data/text_embeddings")


def is_row(name: str) -> bool:
    """Is there a study in this folder, with a row of this name?"""
    if not PARAMS.is_file() or Path(name).exists():
        return False
    rows = read(PARAMS).get("methods")
    return isinstance(rows, dict) and name in rows


def checkpoint(name: str) -> Path:
    """The checkpoint of a row, of its first seed."""
    from zsr.models.heads import first_checkpoint

    folder = CHECKPOINTS / name
    if not any(folder.glob("*.safetensors")):
        raise StudyError(f"{folder} has no checkpoint; run dvc repro train@{name}, or dvc pull train@{name}")
    return first_checkpoint(folder)


def base_model(weights: str) -> Path | str:
    """The base model of the study that a checkpoint began with; "" where it is not here."""
    from zsr.files import of_seed

    path = of_seed(BASE_MODEL, int(Path(weights).stem))
    return path if path.exists() else ""


def evaluate(name: str, sets: tuple[str, ...], attacks: tuple[str, ...], out: Path | None) -> None:
    """Judge a row under rows of `attacks`, on sets of the study, with the numbers of params.yaml."""
    import click

    from zsr.cli.command import check_written
    from zsr.cli.evaluate import RESULTS

    out = out or RESULTS / name
    check_written(out, folder=True)
    from zsr.data import prepared
    from zsr.evaluation.evaluate import judge
    from zsr.evaluation.measure import Result
    from zsr.evaluation.records import Record
    from zsr.study import check

    check(PARAMS)
    document = under_protocol(read(PARAMS))
    attacks = attacks or tuple(document["attacks"])
    sets = sets or tuple(prepared.names(TEXT))
    _among("--attack", attacks, document["attacks"])
    _among("--sets", sets, prepared.names(TEXT))
    weights = checkpoint(name)
    loaded = {one: prepared.load(SETS, TEXT, one, int(weights.stem)) for one in sets}
    records = []
    for attack in attacks:
        judging = _judging(document, name, attack, weights)
        judge(judging, loaded, _code(document, attack), _bar(f"{name} {attack}"), out / attack)
        records += [Record.load(out / attack / f"{one}.json") for one in sets]
    click.echo(f"\n{name}, as the study judges it\n{Result(tuple(records))!r}\n\nRecords: {out}")


def _judging(document: dict, name: str, attack: str, weights: Path) -> Any:
    from zsr.compute import Compute
    from zsr.evaluation.evaluate import Evaluation, Judging
    from zsr.models.heads import Model
    from zsr.params import Threads

    return Judging(
        method=name,
        seed=int(weights.stem),
        attack_name=attack,
        attack=component(document, "attacks", attack),
        evaluation=block(document, "evaluate", Evaluation),
        model=block(document, "model", Model),
        compute=block(document, "compute", Compute),
        threads=block(document, "threads", Threads),
        weights=weights,
    )


def _code(document: dict, attack: str) -> str:
    """The digest of the code of the stage `evaluate`, so that kept work of the pipeline serves here, and back."""
    from zsr.models.heads import MODULES
    from zsr.scratch import code_digest

    module = document["attacks"][attack].get("module", attack)
    modules = [MODULES[document["model"].get("head", "text")], module if "." in module else f"zsr.attacks.{module}"]
    stage = ["stages.evaluate"] if (ROOT / "stages/evaluate.py").is_file() else []
    return code_digest([*stage, *modules])


def _bar(label: str) -> Callable[[str], Watch]:
    from tqdm import tqdm

    def of(set_name: str) -> Watch:
        return lambda steps, done, record_so_far: tqdm(steps, desc=f"{label} {set_name}", leave=False)

    return of


def _among(option: str, names: tuple[str, ...], known: Any) -> None:
    for name in names:
        if name not in known:
            raise ParamError(f"{option}: the study has no '{name}'{nearest(name, known)} (it has: {', '.join(known)})")
