"""Figures, from files in git alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from stages.command import CURVES, METRICS, RESULTS, stage
from zsr.params import Positive, block
from zsr.reports import figures, reading
from zsr.reports.ranking import group_of
from zsr.reports.tables import rows_of_cells, with_rates

OUT = Path("figures")
BARS = "Bars: ± standard deviation over seeds; of one seed the 95 % interval over the choice of images."
SPREAD = "Mean ± standard deviation over seeds."
WORST = "Under attack an image counts when it survives every attack of the study."
OF_GROUP = {
    "unseen": "Mean over the sets that fine-tuning does not show.",
    "all": "Mean over all sets.",
    "source": "The set that was trained on.",
}


def _rows(name: str) -> list[dict[str, str]]:
    return reading.results(RESULTS / f"{name}.csv")


def _methods() -> list[str]:
    return list(reading.study(RESULTS / "study.json")["methods"])


def _trade_off(group: str) -> Callable[[str, Mapping], None]:
    def draw(study: str, document: Mapping) -> None:
        averages = _rows("averages")
        shown = group or group_of(averages)
        title = "What each method keeps: accuracy on clean and on attacked images"
        note = f"{study}. {OF_GROUP[shown]} {WORST} {BARS}"
        figures.trade_off(OUT / "trade_off.png", averages, shown, title, note)

    return draw


def _rows_figure(study: str, document: Mapping) -> None:
    averages = _rows("averages")
    group = group_of(averages)
    note = f"{study}. {OF_GROUP[group]} Dashed: {averages[0]['method']}. {BARS}"
    figures.of_rows(OUT / "rows.png", averages, group, "Accuracy of each row, clean and under attack", note)


def _per_set(study: str, document: Mapping) -> None:
    note = f"{study}. {WORST} {BARS}"
    figures.per_set(OUT / "per_set.png", _rows("accuracy"), "Accuracy on each set, clean and under attack", note)


def _training(study: str, document: Mapping) -> None:
    curves = {method: reading.curve(CURVES / method / "curve.csv") for method in _methods()}
    note = f"{study}. Every term as weighted in the sum, mean over seeds."
    figures.training(OUT / "training.png", curves, "The terms of the loss during training", note)


def _eps_sweep(study: str, document: Mapping) -> None:
    evaluated = reading.study(RESULTS / "study.json")["attacks"]
    trained = block(document, "train.attack.eps", str)
    for path in reading.of_names(METRICS / "eps_sweep", document["eps_sweep"]):
        rows = reading.results(path)
        marked = {"training": trained, "the tables": evaluated[path.stem]}
        counts = sorted({int(row["n"]) for row in rows})
        images = f"the first {counts[0]} images of each set" if len(counts) == 1 else "the first images of each set"
        note = (
            f"{study}. Mean over sets, {images}, one seed. Bars: 95 % intervals over the choice of images. "
            "Dashed: the eps of training and of the tables. Grey: the other methods."
        )
        title = f"Accuracy under {path.stem.upper()} of growing strength"
        figures.eps_sweep(OUT / f"eps_sweep_{path.stem}.png", rows, marked, title, note)


def _rates(study: str, document: Mapping) -> None:
    note = f"{study}. {OF_GROUP['source']} {SPREAD}"
    figures.learning_rates(OUT / "rates.png", _rows("rates"), _methods(), "Accuracy at every learning rate", note)


def _effective_rate(study: str, document: Mapping) -> None:
    shown = str(block(document, "grid.shown_lr", Positive))
    curves = {method: rows for (method, lr), rows in with_rates(CURVES, _rows("rates")).items() if lr == shown}
    note = f"{study}. W: the weights of a convolution, g: their gradient. Means over convolutions and seeds."
    title = f"How far a step turns the weights, at lr {shown}"
    figures.effective_rates(OUT / "effective_rate.png", curves, _methods(), title, note)


def _robustness(study: str, document: Mapping) -> None:
    facts = reading.study(RESULTS / "study.json")
    rows, eps = rows_of_cells(_rows("accuracy"), facts), list(facts["attacks"].values())
    title = "Accuracy under attacks of growing strength, by start of training"
    figures.robustness(OUT / "robustness.png", rows, eps, title, f"{study}. eps 0: clean. {SPREAD}")


def _likeness(study: str, document: Mapping) -> None:
    for path in reading.of_names(METRICS / "likeness", document["likeness"]):
        title = f"Likeness with the {path.stem} model (CKA), by start of training"
        note = f"{study}. Clean images. {SPREAD}"
        figures.likeness(OUT / f"likeness_{path.stem}.png", reading.results(path), title, note)


def _defences(study: str, document: Mapping) -> None:
    title = "Defences at test time: what attacks that do not see a defence hide"
    note = (
        f"{study}. Mean over sets. On the dashed line attacks that see the defence find nothing more. none: the tower "
        "without a defence. Bars: the 95 % interval of the worst case over the choice of images."
    )
    figures.defences(OUT / "defences.png", reading.defended(METRICS / "defended", document["defences"]), title, note)


FIGURES: dict[str, Callable[[str, Mapping], None]] = {
    "trade_off": _trade_off(""),
    "trade_off_source": _trade_off("source"),
    "rows": _rows_figure,
    "per_set": _per_set,
    "training": _training,
    "eps_sweep": _eps_sweep,
    "rates": _rates,
    "effective_rate": _effective_rate,
    "robustness": _robustness,
    "likeness": _likeness,
    "defences": _defences,
}


@stage("figures")
def main(document: Mapping, code: str) -> None:
    study = reading.titled(block(document, "name", str), reading.study(RESULTS / "study.json"))
    for name in document["figures"]:
        FIGURES[name](study, document)
    click.echo(f"{OUT}: {', '.join(sorted(path.name for path in OUT.glob('*.png')))}")


if __name__ == "__main__":
    main()
