"""The transfer study's figures, drawn from the rows of its runs. Matplotlib only, no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from zsr.files import distinct
from zsr.reports.figures import STILL, plt

MARKERS = ("o", "s", "^", "D", "v")


def robustness(path: Path, rows: Sequence[Mapping], eps: Sequence[str], note: str) -> None:
    """Robust accuracy against eps, clean at 0, one panel per method, one line per start. Bars: ± sd over seeds.

    rows: of `zsr.reports.transfer.row`. eps: as "15/255".
    """
    methods, starts = distinct(rows, "method"), distinct(rows, "init")
    figure, axes = _panels(len(methods))
    places = [0.0, *(float(text.split("/")[0]) for text in eps)]
    for axis, method in zip(axes, methods):
        for colour, start in enumerate(starts):
            own = [r for r in rows if (r["method"], r["init"]) == (method, start)]
            cells = [[100 * r[column] for r in own] for column in ("clean", *(f"robust@{e}" for e in eps))]
            if own:
                _line(axis, places, cells, colour, start)
        axis.set(title=method, xlabel="eps, in 1/255", ylim=(0, 100))
    axes[0].set_ylabel("accuracy, %")
    _finish(figure, axes, path, note)


def likeness(path: Path, alike: Sequence[Mapping[str, str]], note: str) -> None:
    """CKA with the pre-trained model on clean images, layer by layer, one panel per method, one line per start."""
    rows = [r for r in alike if (r["measure"], r["input"]) == ("cka", "clean")]
    layers, starts = distinct(rows, "layer"), distinct(rows, "start")
    figure, axes = _panels(max(len(distinct(rows, "method")), 1))
    for axis, method in zip(axes, distinct(rows, "method")):
        for colour, start in enumerate(starts):
            own = [r for r in rows if (r["method"], r["start"]) == (method, start)]
            cells = [[float(r["value"]) for r in own if r["layer"] == layer] for layer in layers]
            if own:
                _line(axis, list(range(len(layers))), cells, colour, start)
        axis.set_xticks(range(len(layers)), layers, rotation=30, fontsize=8)
        axis.set(title=method, ylim=(0, 1.02))
    axes[0].set_ylabel("CKA")
    _finish(figure, axes, path, note)


def _panels(n: int):
    figure, axes = plt.subplots(1, n, figsize=(3.1 * n, 3.5), squeeze=False, sharey=True, layout="constrained")
    return figure, axes[0]


def _line(axis, places: Sequence[float], cells: Sequence[Sequence[float]], colour: int, label: str) -> None:
    spreads = [stdev(values) if len(values) > 1 else 0.0 for values in cells]
    style = {"marker": MARKERS[colour % len(MARKERS)], "ms": 4, "capsize": 2, "color": f"C{colour}", "label": label}
    axis.errorbar(places, [fmean(values) for values in cells], yerr=spreads, **style)
    axis.grid(alpha=0.3)


def _finish(figure, axes, path: Path, note: str) -> None:
    axes[0].legend(fontsize=8, title="start")
    figure.suptitle(note, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata=STILL)
    plt.close(figure)
