"""Figures, drawn from tables and arrays. Matplotlib only, no model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from zsr.evaluation.results import over_seeds
from zsr.files import distinct, temporary_for

CLEAN = "clean"  # the name of the evaluation without an attack
ATTENTION_NOTE = (
    "text-guided attention, TGA-ZSR's map for the true class. Brightest: the patch that agrees most with the prompt.\n"
    "Each map is stretched to [0, 1] whatever its contrast. It is no segmentation: the object may be its darkest part."
)
MARKED = "marked by the audit, see the table of the audit"
MARKERS = ("o", "s", "^", "D", "v")
STILL = {"Software": None}  # no version in the file: equal figures are equal bytes


def _colours(methods: Sequence[str]) -> dict:
    return {method: plt.get_cmap("tab10")(i % 10) for i, method in enumerate(methods)}


def _panels(n: int, width: float, height: float):
    """A figure of n panels, five to a row, and the axes of the panels; one empty panel where n is 0."""
    columns = min(max(n, 1), 5)
    rows = math.ceil(max(n, 1) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    for unused in axes.flat[max(n, 1) :]:
        unused.axis("off")
    return figure, axes.flat


def _write(figure, path: Path) -> None:
    with temporary_for(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata=STILL)
    plt.close(figure)


def trade_off(path: Path, averages: Sequence[Mapping[str, str]], group: str, note: str) -> None:
    """Draw robust against clean accuracy, mean over a group of sets, one panel per attack.

    Bars: ± standard deviation over seeds; for one seed, the 95 % interval.
    """
    rows = {(r["method"], r["attack"]): r for r in averages if r["group"] == group}
    methods = distinct(averages, "method")
    attacks = [attack for attack in distinct(averages, "attack") if attack != CLEAN]
    figure, axes = _panels(len(attacks), 5.6, 4.4)
    for axis, attack in zip(axes, attacks):
        for method, colour in _colours(methods).items():
            x, y = rows[method, CLEAN], rows[method, attack]
            spans = {bar: _spans(row) for bar, row in (("xerr", x), ("yerr", y))}
            fill = "none" if x.get("marks") or y.get("marks") else colour
            point = float(x["mean"]), float(y["mean"])
            axis.errorbar(*point, **spans, fmt="o", color=colour, mfc=fill, capsize=2, label=method)
        axis.set(xlabel="clean accuracy, %", ylabel=f"accuracy under {attack}, %")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    hollow = any(row.get("marks") for row in rows.values())
    figure.suptitle(f"{note}\nhollow: {MARKED}" if hollow else note, fontsize=9)
    _write(figure, path)


def _spans(row: Mapping[str, str]) -> list[list[float]]:
    """The lengths of a bar below and above the mean, in matplotlib's format."""
    if row["sd"] != "":
        return [[float(row["sd"])], [float(row["sd"])]]
    mean, low, high = (float(row[key]) for key in ("mean", "low", "high"))
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]


def per_set(path: Path, cells: Sequence[Mapping[str, str]], note: str) -> None:
    """Draw the accuracy of methods on sets, one panel per attack. Bars: ± sd over seeds; for one seed, Wilson 95 %."""
    methods, attacks, sets = (distinct(cells, key) for key in ("method", "attack", "set"))
    rows = {(r["method"], r["attack"], r["set"]): _with_bounds(r) for r in over_seeds(cells)}
    figure, axes = plt.subplots(len(attacks), 1, figsize=(10, 3 * len(attacks)), squeeze=False, layout="constrained")
    width = 0.8 / len(methods)
    for axis, attack in zip(axes[:, 0], attacks):
        for i, (method, colour) in enumerate(_colours(methods).items()):
            low, value, high = (
                np.array([float(rows[method, attack, s][key]) for s in sets]) for key in ("low", "accuracy", "high")
            )
            place = np.arange(len(sets)) + (i + 0.5) * width - 0.4
            spans = np.clip([value - low, high - value], 0, None)
            bars = axis.bar(place, value, width, yerr=spans, color=colour, label=method, error_kw={"lw": 0.8})
            for bar, s in zip(bars, sets):
                bar.set_hatch("////" if rows[method, attack, s].get("marks") else None)
        axis.set_xticks(np.arange(len(sets)), sets)
        axis.set(ylabel=f"{attack}, %", ylim=(0, 100))
    hatched = any(row.get("marks") for row in rows.values())
    axes[0, 0].set_title(f"{note}\nhatched: {MARKED}" if hatched else note, fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=5, loc="outside lower center")
    _write(figure, path)


def _with_bounds(cell: dict) -> dict:
    """The cell with the ends of its bar: one sd around the mean over seeds, or the interval of the one seed."""
    if cell["sd"] == "":
        return cell
    return cell | {"low": cell["accuracy"] - cell["sd"], "high": cell["accuracy"] + cell["sd"]}


def training(path: Path, curves: Mapping[str, Sequence[Mapping[str, str]]], note: str) -> None:
    """Draw the loss terms of every trained method against the step, one panel per method, mean over seeds."""
    trained = {method: rows for method, rows in curves.items() if rows}
    figure, axes = _panels(len(trained), 3.2, 3.2)
    for axis, (method, rows) in zip(axes, trained.items()):
        terms = [name for name in rows[0] if name not in ("step", "lr", "loss")]
        for term in terms:
            axis.plot([int(r["step"]) for r in rows], [float(r[term]) for r in rows], lw=1, label=term)
        axis.set(xlabel="step", title=method)
        axis.legend(fontsize=7)
    figure.suptitle(note, fontsize=10)
    _write(figure, path)


def eps_sweep(path: Path, rows: Sequence[Mapping[str, str]], note: str) -> None:
    """Draw accuracy against eps, mean over sets, one line per method. rows: method, set, eps, n, correct."""
    figure, axes = _panels(1, 7.5, 4.8)
    for method, colour in _colours(distinct(rows, "method")).items():
        method_rows = [row for row in rows if row["method"] == method]
        eps = distinct(method_rows, "eps")
        means = [np.mean([int(r["correct"]) / int(r["n"]) for r in method_rows if r["eps"] == e]) for e in eps]
        axes[0].plot(
            [255 * _fraction(e) for e in eps], [100 * m for m in means], "o-", ms=3, color=colour, label=method
        )
    axes[0].set(xlabel="eps, in 1/255", ylabel="accuracy, %, mean over sets", ylim=(0, 100))
    axes[0].grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(note, fontsize=9)
    _write(figure, path)


MEASURES = {  # measures of `zsr.measures.effective_rate` and their formulas
    "rho": "||g|| / ||W||",
    "radial": "|<W, g>| / (||W|| ||g||)",
    "weight_norm": "||W||",
    "gradient_norm": "||g||",
}


def effective_rates(path: Path, curves: Mapping[str, Sequence[Mapping[str, str]]], note: str) -> None:
    """Draw the measures of `zsr.measures.effective_rate` against the step: a panel per measure, a line per method."""
    figure, axes = _panels(len(MEASURES), 3.6, 3.4)
    for axis, (measure, formula) in zip(axes, MEASURES.items()):
        for method, colour in _colours(list(curves)).items():
            steps, values = ([float(row[key]) for row in curves[method] if measure in row] for key in ("step", measure))
            axis.plot(steps, values, lw=1, color=colour, label=method)
        axis.set(xlabel="step", title=f"{measure}: {formula}", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(note, fontsize=9)
    _write(figure, path)


def learning_rates(path: Path, grid: Sequence[Mapping[str, str]], note: str) -> None:
    """Draw clean and robust accuracy on test images against the learning rate.

    The point of the rate that was chosen on held-out images is filled.

    grid: rows {method, lr, seed, test_clean, test_robust, chosen}.
    """
    figure, axes = _panels(2, 5.0, 4.0)
    for axis, part in zip(axes, ("test_clean", "test_robust")):
        for method, colour in _colours(distinct(grid, "method")).items():
            method_rows = [row for row in grid if row["method"] == method]
            rates = [
                lr
                for lr in distinct(method_rows, "lr")
                if all(row[part] != "" for row in method_rows if row["lr"] == lr)
            ]
            values = [[float(row[part]) for row in method_rows if row["lr"] == lr] for lr in rates]
            best = next(row["lr"] for row in method_rows if int(row["chosen"]))
            x, means = list(map(float, rates)), [np.mean(accuracies) for accuracies in values]
            bars = [np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0 for accuracies in values]
            axis.errorbar(x, means, bars, fmt="o-", ms=5, mfc="none", lw=1, capsize=2, color=colour, label=method)
            axis.plot(float(best), means[rates.index(best)], "o", ms=5, color=colour)
        axis.set(xscale="log", xlabel="learning rate", ylabel=f"{part.replace('_', ' ')} accuracy, %")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"{note}; filled: the rate chosen on held-out images; where training diverged, no point", fontsize=9
    )
    _write(figure, path)


def _fraction(text: str) -> float:
    top, bottom = text.split("/")
    return float(top) / float(bottom)


def attention(
    path: Path,
    images: tuple[np.ndarray, np.ndarray],
    panels: Mapping[str, tuple],
    captions: Mapping[str, str],
    note: str,
) -> None:
    """Draw maps of clean and attacked images side by side, one row per method under a row of the images.

    images: (clean, attacked) arrays (N, H, W, 3) in [0, 1]; panels: method -> (clean, attacked) maps (N, h, w).
    """
    n = len(images[0])
    rows = {"image": images} | dict(panels)
    figure = plt.figure(figsize=(2 * n, 1.35 * len(rows) + 0.6), layout="constrained")
    figure.suptitle(note, fontsize=9)
    parts = figure.subfigures(len(rows), 1)
    assert isinstance(parts, np.ndarray)  # there are at least two rows: the images and one method
    for part, (name, pair) in zip(parts, rows.items()):
        part.suptitle(captions[name], fontsize=8, x=0.01, ha="left")
        style = {} if name == "image" else {"cmap": "viridis", "vmin": 0, "vmax": 1}
        for i, axis in enumerate(part.subplots(1, 2 * n)):
            axis.imshow(pair[i % 2][i // 2], interpolation="nearest", **style)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(("clean", "attacked")[i % 2] if name == "image" else "", fontsize=7)
    _write(figure, path)


def robustness(path: Path, rows: Sequence[Mapping], eps: Sequence[str], note: str) -> None:
    """Draw robust accuracy against eps, clean at 0, one panel per method, one line per start. Bars: ± sd over seeds.

    rows: rows of `zsr.reports.transfer.row`. eps: texts such as "15/255".
    """
    methods, starts = distinct(rows, "method"), distinct(rows, "init")
    figure, axes = _method_panels(len(methods))
    places = [0.0, *(float(text.split("/")[0]) for text in eps)]
    for axis, method in zip(axes, methods):
        for colour, start in enumerate(starts):
            start_rows = [r for r in rows if (r["method"], r["init"]) == (method, start)]
            cells = [[100 * r[column] for r in start_rows] for column in ("clean", *(f"robust@{e}" for e in eps))]
            if start_rows:
                _line(axis, places, cells, colour, start)
        axis.set(title=method, xlabel="eps, in 1/255", ylim=(0, 100))
    axes[0].set_ylabel("accuracy, %")
    _finish(figure, axes, path, note)


def likeness(path: Path, alike: Sequence[Mapping[str, str]], note: str) -> None:
    """Draw CKA with the pre-trained model on clean images, by layer, one panel per method, one line per start."""
    rows = [r for r in alike if (r["measure"], r["input"]) == ("cka", "clean")]
    layers, starts = distinct(rows, "layer"), distinct(rows, "start")
    figure, axes = _method_panels(max(len(distinct(rows, "method")), 1))
    for axis, method in zip(axes, distinct(rows, "method")):
        for colour, start in enumerate(starts):
            start_rows = [r for r in rows if (r["method"], r["start"]) == (method, start)]
            cells = [[float(r["value"]) for r in start_rows if r["layer"] == layer] for layer in layers]
            if start_rows:
                _line(axis, list(range(len(layers))), cells, colour, start)
        axis.set_xticks(range(len(layers)), layers, rotation=30, fontsize=8)
        axis.set(title=method, ylim=(0, 1.02))
    axes[0].set_ylabel("CKA")
    _finish(figure, axes, path, note)


def _method_panels(n: int):
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
    _write(figure, path)
