"""Train one row of `methods` on data.source, once for each seed: from the base model, or from the row's start.

A study with a grid trains the row at each of its rates, and passes on the models of the rate that held-out images
choose.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from stages.command import BASE_MODEL, CHECKPOINTS, CURVES, SETS, STARTS, TEXT_EMBEDDINGS, stage
from stages.progress import Images, Training, tell, trained
from zsr import compute, files
from zsr.data import prepared
from zsr.evaluation.evaluate import Judging, judge
from zsr.evaluation.grid import Grid, best_rate, grid_of
from zsr.evaluation.records import Record, accuracies
from zsr.models import heads
from zsr.params import Diverged, Natural, StudyError, block, row
from zsr.training.finetune import TrainingTask, task_of, train_once, without_start
from zsr.training.loop import COLUMNS, mean_curve


@stage("train", "name", parallel=True)
def main(document: Mapping, code: str, name: str) -> None:
    grid, tasks = grid_of(document), _tasks(document, name)
    refusal = tasks[0].method.refusal()
    if refusal:
        raise StudyError(f"methods.{name}: {refusal}")
    if grid and tasks[0].method.trains:
        return _train_grid(document, code, name, grid, tasks)
    path = CURVES / name / "curve.csv"
    runs = [Training(f"{name}, seed {task.seed}", path) for task in tasks]
    done = [train_once(task, code, run) for task, run in zip(tasks, runs)]
    if compute.rank() == 0:
        _save(name, tasks, [tower for tower, _ in done])
        rows = mean_curve([curve for _, curve in done])
        files.write_rows(path, rows, COLUMNS)
        tell(trained(name, rows, runs))


def _tasks(document: Mapping, name: str) -> list[TrainingTask]:
    """One task for each seed. A row that does not train has one task for each base model."""
    source, start = block(document, "data.source", str), row(document, "methods", name).start
    origin, tasks = "start" if start else without_start(document), []
    for seed in block(document, "seeds", tuple[Natural, ...]):
        weights = STARTS / start / f"{seed}.safetensors" if start else files.of_seed(BASE_MODEL, seed)
        text = files.of_seed(TEXT_EMBEDDINGS / source, seed)
        paths = {"images": SETS / source / "train.safetensors", "text_embeddings": text, "weights": weights}
        tasks.append(task_of(document, "methods", name, seed, origin=origin, **paths))
    if tasks[0].method.trains or origin != "base":
        return tasks
    return list({task.weights: task for task in reversed(tasks)}.values())[::-1]


def _save(name: str, tasks: list[TrainingTask], towers: list[Path]) -> None:
    for task, tower in zip(tasks, towers):
        whole = heads.load(task.model, task.weights, tower)
        path = CHECKPOINTS / name / f"{task.seed}.safetensors"
        heads.save(path, whole, task.model, heads.norm_stats(whole), placed=True)


def _train_grid(document: Mapping, code: str, name: str, grid: Grid, tasks: list[TrainingTask]) -> None:
    """Train at every rate. Write towers, accuracies and curves of all rates, and the models of the chosen rate."""
    rows, towers = [], {}
    for lr in map(str, grid.lrs):
        curves, path = [], CURVES / name / f"{lr}.csv"
        for task in tasks:
            task = replace(task, recipe=replace(task.recipe, lr=float(lr)), held_out=grid.held_out)
            key = {"method": name, "lr": lr, "seed": task.seed}
            try:
                tower, curve = train_once(task, code, Training(f"{name}, rate {lr}, seed {task.seed}", path))
            except Diverged:  # a rate may be too high for a method; this is a result, too
                rows.append(key | accuracies("held_out", None))
                continue
            curves.append(curve)
            towers[lr, task.seed] = tower
            rows.append(key | accuracies("held_out", _judged(document, code, grid, task, tower, key)))
        if compute.rank() == 0:
            files.write_rows(path, mean_curve(curves) if curves else [], COLUMNS)
    if compute.rank() == 0:
        best = best_rate(rows)
        _save(name, tasks, [towers[best, task.seed] for task in tasks])
        for (lr, seed), tower in towers.items():
            (tensors, facts), rate = files.load_tensors(tower), CHECKPOINTS / name / "rates" / lr
            facts = {key: value for key, value in facts.items() if key == "norm_stats"}  # without those of kept work
            files.save_tensors(rate / f"{seed}.safetensors", tensors, facts, placed=True)
        chosen = [row | {"chosen": int(row["lr"] == best)} for row in rows]
        files.write_rows(CHECKPOINTS / name / "rates.csv", chosen)
        held_out = fmean(float(row["held_out_robust"]) for row in chosen if row["chosen"])
        tell(f"{name}: rate {best} of {', '.join(map(str, grid.lrs))}, {held_out:.1f} % of held-out images right")


def _judged(document: Mapping, code: str, grid: Grid, task: TrainingTask, tower: Path, key: Mapping) -> Record:
    source = block(document, "data.source", str)
    judging = Judging(
        method=key["method"],
        seed=task.seed,
        attack_name=grid.attack["module"],
        attack=grid.made_attack,
        evaluation=grid.evaluation,
        model=task.model,
        compute=task.compute,
        threads=task.threads,
        weights=task.weights,
        tower=tower,
    )
    data = {"held_out": prepared.held_out(SETS, TEXT_EMBEDDINGS, source, grid.held_out, task.seed)}
    images = Images(f"{key['method']}, rate {key['lr']}, held-out images")
    images.expect([grid.held_out])
    out = CHECKPOINTS / key["method"] / "rates" / key["lr"] / str(task.seed)
    judge(judging, data, code, lambda set_name: images.watch, out)
    return Record.load(out / "held_out.json", method=judging.method, seed=judging.seed, attack=judging.attack_name)


if __name__ == "__main__":
    main()
