"""Figures, from files in git alone."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from stages.command import CURVES, METRICS, NAME, RESULTS, stage
from zsr import files
from zsr.params import Positive, block
from zsr.reports import figures
from zsr.reports.tables import rows_of_cells, with_rates

OUT = Path("figures")
BARS = "bars: ± sd over seeds; of one seed 95 % over the choice of images"
SPREAD = "mean over seeds; bars: ± sd"


def _rows(name: str) -> list[dict[str, str]]:
    return files.read_rows(RESULTS / f"{name}.csv")


def _training(title: str, document: Mapping) -> None:
    methods = files.read_json(RESULTS / "study.json")["methods"]
    curves = {method: files.read_rows(CURVES / method / "curve.csv") for method in methods}
    figures.training(OUT / "training.png", curves, f"{title}: loss terms of training, as weighted in the sum")


def _eps_sweep(title: str, document: Mapping) -> None:
    for path in files.listed(METRICS / "eps_sweep", ".csv", stem=NAME):
        note = f"{title}: {path.stem}, the first images of each set, one seed"
        figures.eps_sweep(OUT / f"eps_sweep_{path.stem}.png", files.read_rows(path), note)


def _effective_rate(title: str, document: Mapping) -> None:
    shown = str(block(document, "grid.shown_lr", Positive))
    curves = {method: rows for (method, lr), rows in with_rates(CURVES, _rows("rates")).items() if lr == shown}
    note = f"{title}: at lr {shown}, mean over convolutions and seeds"
    figures.effective_rates(OUT / "effective_rate.png", curves, note)


def _robustness(title: str, document: Mapping) -> None:
    study = files.read_json(RESULTS / "study.json")
    rows = rows_of_cells(_rows("accuracy"), study)
    figures.robustness(OUT / "robustness.png", rows, list(study["attacks"].values()), f"{title}; {SPREAD}")


def _likeness(title: str, document: Mapping) -> None:
    for path in files.listed(METRICS / "likeness", ".csv", stem=NAME):
        note = f"likeness with {path.stem}; {title}; {SPREAD}"
        figures.likeness(OUT / f"likeness_{path.stem}.png", files.read_rows(path), note)


FIGURES: dict[str, Callable[[str, Mapping], None]] = {
    "trade_off": lambda title, _: figures.trade_off(
        OUT / "trade_off.png", _rows("averages"), "all", f"{title}\nmean over all sets; {BARS}"
    ),
    "trade_off_source": lambda title, _: figures.trade_off(
        OUT / "trade_off.png", _rows("averages"), "source", f"{title}\nthe set that was trained on; {BARS}"
    ),
    "per_set": lambda title, _: figures.per_set(
        OUT / "per_set.png", _rows("accuracy"), f"{title}: accuracy per set; {BARS}"
    ),
    "training": _training,
    "eps_sweep": _eps_sweep,
    "rates": lambda title, _: figures.learning_rates(
        OUT / "rates.png", _rows("rates"), f"{title}: the set that was trained on, at every learning rate\n{SPREAD}"
    ),
    "effective_rate": _effective_rate,
    "robustness": _robustness,
    "likeness": _likeness,
}


@stage("figures")
def main(document: Mapping, code: str) -> None:
    for name in document["figures"]:
        FIGURES[name](block(document, "name", str), document)
    click.echo(f"{OUT}: {', '.join(sorted(path.name for path in OUT.glob('*.png')))}")


if __name__ == "__main__":
    main()
