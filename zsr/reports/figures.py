"""Figures, drawn from tables and arrays. Matplotlib only, no model.

Every figure is 840 pixels wide where it is shown, at twice the density of the screen: 8.4 inches at 200 dots per inch.
Pages show the PNG file. The SVG file beside it, with the same drawing, is for papers. Both files are the same bytes for
the same rows. A row has the colour and the marker of `zsr.reports.style`, and labels stand at points and lines.
"""

import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from zsr.evaluation.results import CLEAN, over_seeds  # noqa: E402
from zsr.files import distinct, temporary_for  # noqa: E402
from zsr.reports import labels  # noqa: E402
from zsr.reports.defences import means, name_of  # noqa: E402
from zsr.reports.labels import Label  # noqa: E402
from zsr.reports.ranking import mean_of_sets, worst_attack  # noqa: E402
from zsr.reports.style import COLOURS, Style, label, styles  # noqa: E402

ATTENTION_NOTE = (
    "Bright: patches that agree with the prompt of the true class, by the text-guided attention of TGA-ZSR; white "
    "frame: the patch that agrees most. Each map is stretched to [0, 1] whatever its contrast. It is no segmentation."
)
WIDTH, DPI = 8.4, 200  # inches, dots per inch
CHARACTERS = 132  # of a line of a note
GUTTER = 0.12  # space between the columns of two methods in the figure of attention, in columns
MARKED = "Hollow: the audit does not trust the number, see the table of the audit."
STILL = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}  # equal figures are equal bytes
plt.rcParams |= {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "grid.linewidth": 0.6, "svg.hashsalt": "zsr",
}  # fmt: skip
Rows = Sequence[Mapping[str, str]]


def _panels(n: int, columns: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, at most `columns` to a row of this height, and the axes of the panels; at least one."""
    columns, n = min(max(n, 1), columns), max(n, 1)
    rows = math.ceil(n / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height * rows + 0.7), squeeze=False, layout="constrained", **shared
    )
    for unused in axes.flat[n:]:
        unused.axis("off")
    return figure, list(axes.flat[:n])


def _outer_labels(axes: Sequence[Axes], columns: int, across: str, up: str) -> None:
    """Write the label of x below the last row of panels, and the label of y left of each row."""
    for i, axis in enumerate(axes):
        axis.tick_params(labelbottom=True)
        if i // columns == (len(axes) - 1) // columns:
            axis.set_xlabel(across)
        if i % columns == 0:
            axis.set_ylabel(up)


def _titled(figure: Figure, title: str, note: str) -> None:
    """Write the title above and the note below, and fix the places of the axes. Labels come after this."""
    figure.suptitle(title, fontsize=11.5, fontweight="bold", x=0.012, ha="left")
    text = "\n".join(textwrap.fill(line, CHARACTERS) for line in note.splitlines())
    figure.supxlabel(text, fontsize=8, x=0.012, ha="left", color="0.25")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _write(figure: Figure, path: Path) -> None:
    """Write the figure as path, which ends in .png, and beside it as SVG. `savefig` would draw both twice."""
    figure.set_dpi(DPI)
    with temporary_for(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary, metadata=STILL[".png"])
    with temporary_for(path.with_suffix(".svg")) as temporary:
        FigureCanvasSVG(figure).print_svg(temporary, metadata=STILL[".svg"])
    plt.close(figure)


def _coinciding(looks: Mapping[str, Hashable]) -> dict[str, str]:
    """The first name of all that look alike -> the label of them all, such as "tecoa = vision_attention"."""
    alike: dict[Hashable, list[str]] = {}
    for name, look in looks.items():
        alike.setdefault(look, []).append(name)
    return {names[0]: label(*names) for names in alike.values()}


# Methods


def trade_off(path: Path, averages: Rows, group: str, title: str, note: str) -> None:
    """Draw worst-case against clean accuracy, mean over a group of sets, a point per method.

    Bars: ± standard deviation over seeds; for one seed, the 95 % interval.
    """
    rows = {(r["method"], r["attack"]): r for r in averages if r["group"] == group}
    methods, attack = distinct(averages, "method"), worst_attack(averages)
    figure, (axis,) = _panels(1, 1, 5.0)
    axis.set(xlabel="clean accuracy, %", ylabel=f"accuracy under attack ({attack.replace('_', ' ')}), %")
    style, points, bars = styles(methods), [], []
    pairs = {method: (rows[method, CLEAN], rows[method, attack]) for method in methods if attack != CLEAN}
    for method, text in _coinciding({m: tuple(_look(row) for row in pair) for m, pair in pairs.items()}).items():
        x, y = pairs[method]
        point = float(x["mean"]), float(y["mean"])
        across, up = _spans(x), _spans(y)
        axis.errorbar(*point, **_pen(style[method], x.get("marks") or y.get("marks")), xerr=across, yerr=up)
        points.append(Label(*point, text))
        bars.append([(point[0] - across[0][0], point[1]), (point[0] + across[1][0], point[1])])
        bars.append([(point[0], point[1] - up[0][0]), (point[0], point[1] + up[1][0])])
    hollow = any(row.get("marks") for pair in pairs.values() for row in pair)
    axis.margins(0.08)
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    _titled(figure, title, f"{note} {MARKED}" if hollow else note)
    labels.at_points(axis, points, bars)
    _write(figure, path)


def defences(path: Path, rows: Rows, title: str, note: str) -> None:
    """Draw the worst case of defences at test time against their accuracy under oblivious attacks, a panel per tower.

    rows: of metrics/defended/*.csv. A defence has one look on all towers. The point `none` is the tower alone.
    """
    averages = means(rows)
    towers, style = distinct(averages, "method"), styles(sorted({name_of(row) for row in averages}))
    figure, axes = _panels(len(towers), 2, 4.3, sharex=True, sharey=True)
    labelled: list[tuple[list[Label], list]] = []
    for axis, tower in zip(axes, towers):
        of_tower = [row for row in averages if row["method"] == tower]
        alone = float(of_tower[0]["undefended"])
        axis.errorbar(alone, alone, **_pen(Style("#000000", "o", "none")))
        points, bars = [Label(alone, alone, "none")], []
        for row in of_tower:
            x, y, low, high = (float(row[key]) for key in ("oblivious", "worst", "low", "high"))
            axis.errorbar(x, y, yerr=[[max(y - low, 0)], [max(high - y, 0)]], **_pen(style[name_of(row)], row["marks"]))
            points.append(Label(x, y, name_of(row)))
            bars.append([(x, low), (x, high)])
        axis.axline((0, 0), slope=1, color="0.5", lw=0.9, ls="--", zorder=0)
        axis.set_title(tower)
        labelled.append((points, bars))
    farthest = [max(float(row["oblivious"]), float(row["undefended"])) for row in averages]
    across, up = (max(values) * 1.12 for values in (farthest, [float(row["high"]) for row in averages]))
    axes[0].set(xlim=(-across / 8, across), ylim=(-up / 8, up))  # room for labels of points near 0
    _outer_labels(axes, 2, "accuracy under oblivious attacks, %", "worst case, %")
    hollow = any(row["marks"] for row in averages)
    _titled(figure, title, f"{note} Hollow: the table of defences says why a number has a mark." if hollow else note)
    for axis, (points, bars) in zip(axes, labelled):
        labels.at_points(axis, points, bars)
    _write(figure, path)


def _look(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("mean", "low", "high", "sd"))


def _pen(style: Style, marked: object = "", size: float = 7) -> dict[str, Any]:
    """The arguments of `errorbar` for a row: its colour and marker, hollow where the audit has marked the number."""
    size = size * {"*": 1.7, "o": 1.0, "D": 0.9, "s": 0.95}.get(style.marker, 1.15)
    edge = {"mec": style.colour if marked else "white", "mew": 1.2 if marked else 0.6}
    line = {"color": style.colour, "elinewidth": 1.0, "capsize": 2.5}
    return line | edge | {"fmt": style.marker, "ms": size, "mfc": "none" if marked else style.colour}


def _spans(row: Mapping[str, str]) -> list[list[float]]:
    """The lengths of a bar below and above the mean, in matplotlib's format."""
    if row["sd"] != "":
        return [[float(row["sd"])], [float(row["sd"])]]
    mean, low, high = (float(row[key]) for key in ("mean", "low", "high"))
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]


def of_rows(path: Path, averages: Rows, group: str, title: str, note: str) -> None:
    """Draw clean and worst-case accuracy, mean over a group of sets, a line per row: for studies with many rows.

    Bars: ± standard deviation over seeds; for one seed, the 95 % interval. Dashed: the first row, to compare with.
    """
    methods, attack = distinct(averages, "method"), worst_attack(averages)
    rows = {(r["method"], r["attack"]): r for r in averages if r["group"] == group}
    figure, axes = _panels(2, 2, 0.19 * len(methods) + 0.6, sharey=True)
    style, attacks = styles(methods), (CLEAN, attack)
    for axis, shown in zip(axes, attacks):
        for place, method in enumerate(methods):
            row = rows[method, shown]
            pen = _pen(style[method], row.get("marks"), size=6)
            axis.errorbar(float(row["mean"]), place, xerr=_spans(row), **pen)
        axis.axvline(float(rows[methods[0], shown]["mean"]), color="0.3", lw=0.9, ls="--", zorder=0)
        axis.set(title=shown.replace("_", " "), xlabel="accuracy, %", ylim=(len(methods) - 0.4, -0.6))
        axis.set_yticks(range(len(methods)), methods)
        axis.tick_params(axis="y", length=0)
    hollow = any(rows[method, shown].get("marks") for method in methods for shown in attacks)
    _titled(figure, title, f"{note} {MARKED}" if hollow else note)
    _write(figure, path)


def per_set(path: Path, cells: Rows, title: str, note: str) -> None:
    """Draw clean and worst-case accuracy on every set, one panel per method.

    Bars: ± standard deviation over seeds; for one seed, Wilson's 95 % interval.
    """
    methods, sets, attack = distinct(cells, "method"), distinct(cells, "set"), worst_attack(cells)
    rows = {(r["method"], r["attack"], r["set"]): _with_bounds(r) for r in over_seeds(cells)}
    style, attacks = styles(methods), list(dict.fromkeys((CLEAN, attack)))
    looks = {m: tuple((rows[m, a, s]["accuracy"], rows[m, a, s]["sd"]) for a in attacks for s in sets) for m in methods}
    panels = _coinciding(looks)
    figure, axes = _panels(len(panels), 5, 0.16 * len(sets) + 0.75, sharex=True, sharey=True)
    for axis, (method, text) in zip(axes, panels.items()):
        for shown in attacks:
            for place, name in enumerate(sets):
                _set_point(axis, rows[method, shown, name], place, style[method], pale=shown == CLEAN)
        axis.set(title=text.replace(" = ", " =\n"), xlim=(-3, 103), ylim=(len(sets) - 0.4, -1.5), xticks=(0, 50, 100))
        axis.set_yticks(range(len(sets)), sets)
        axis.tick_params(length=0)
    for shown in attacks:
        place = rows[next(iter(panels)), shown, sets[0]]["accuracy"] if sets else 0
        side = "left" if place < 50 else "right"
        axes[0].text(place, -0.9, shown.replace("_", " "), va="center", ha=side, fontsize=7.5, color="0.3")
    _outer_labels(axes, 5, "accuracy, %", "")
    marked = any(row.get("marks") for row in rows.values() if row["attack"] in attacks)
    _titled(figure, title, f"{note} {MARKED}" if marked else note)
    _write(figure, path)


def _set_point(axis: Axes, row: Mapping, place: int, style: Style, pale: bool) -> None:
    spans = np.clip([[row["accuracy"] - float(row["low"])], [float(row["high"]) - row["accuracy"]]], 0, None)
    look = style._replace(marker="o") if pale else style
    pen = _pen(look, row.get("marks"), size=5) | {"capsize": 0, "alpha": 0.45 if pale else 1}
    axis.errorbar(row["accuracy"], place, xerr=spans, **pen)


def _with_bounds(cell: dict) -> dict:
    """The cell with the ends of its bar: one sd around the mean over seeds, or the interval of the one seed."""
    if cell["sd"] == "":
        return cell
    return cell | {"low": cell["accuracy"] - cell["sd"], "high": cell["accuracy"] + cell["sd"]}


def training(path: Path, curves: Mapping[str, Rows], title: str, note: str) -> None:
    """Draw the loss terms of every trained method against the step, one panel per method, mean over seeds."""
    trained = {method: rows for method, rows in curves.items() if rows}
    terms = list(dict.fromkeys(term for rows in trained.values() for term in _terms(rows)))
    colour = {term: COLOURS[i % len(COLOURS)] for i, term in enumerate(terms)}
    figure, axes = _panels(len(trained), 3, 2.0)
    for axis, (method, rows) in zip(axes, trained.items()):
        for term in _terms(rows):
            steps, values = [int(r["step"]) for r in rows], [float(r[term]) for r in rows]
            axis.plot(steps, values, lw=0.9, color=colour[term], label=term.replace("_", " "))
        axis.set_title(method)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7.5, frameon=False, labelcolor="linecolor", handlelength=0.9, borderaxespad=0.1)
    _outer_labels(axes, 3, "step", "loss")
    _titled(figure, title, note)
    _write(figure, path)


def _terms(rows: Rows) -> list[str]:
    return [name for name in rows[0] if name not in ("step", "lr", "loss")]


# Accuracy against eps


def eps_sweep(path: Path, rows: Rows, marked_eps: Mapping[str, str], title: str, note: str) -> None:
    """Draw accuracy against eps, mean over sets with its 95 % interval, one line per method.

    Args:
        path: the PNG file.
        rows: method, set, eps, n, correct.
        marked_eps: label -> eps, drawn as a vertical line, such as "training" -> "13/255".
        title: the title.
        note: the text below.
    """
    sweeps, methods = {}, distinct(rows, "method")
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        by_eps = {eps: [row for row in own if row["eps"] == eps] for eps in distinct(own, "eps")}
        sweeps[method] = tuple((255 * _fraction(eps), *mean_of_sets(same)) for eps, same in by_eps.items())
    panels, style = _coinciding(sweeps), styles(methods)
    figure, axes = _panels(len(panels), 5, 1.95, sharex=True, sharey=True)
    for axis, (method, text) in zip(axes, panels.items()):
        for other in panels:
            eps, mean, low, high = map(np.array, zip(*sweeps[other]))
            if other == method:
                pen = _pen(style[method], size=5) | {"fmt": style[method].marker + "-", "lw": 1.4, "zorder": 3}
                axis.errorbar(eps, mean, np.clip([mean - low, high - mean], 0, None), **pen)
            else:
                axis.plot(eps, mean, color="0.8", lw=0.8, zorder=1)
        axis.set(title=text.replace(" = ", " =\n"), ylim=(-3, 103), xticks=eps)
        _mark_eps(axis, marked_eps, named=axis is axes[0])
    _outer_labels(axes, 5, "eps, in 1/255", "accuracy, %")
    _titled(figure, title, note)
    _write(figure, path)


def _mark_eps(axis: Axes, marked: Mapping[str, str], named: bool) -> None:
    """Draw a vertical line at each eps. One line where two are equal. named: with the names of the eps at the lines."""
    places: dict[str, list[str]] = {}
    for text, eps in marked.items():
        places.setdefault(eps, []).append(text)
    for eps, texts in places.items():  # the note names the one line
        axis.axvline(255 * _fraction(eps), color="0.3", lw=0.9, ls="--", zorder=0)
        if named and len(places) > 1:
            axis.annotate(
                " and ".join(texts), (255 * _fraction(eps), 0.97), (2, 0), textcoords="offset points",
                xycoords=axis.get_xaxis_transform(), fontsize=7.5, rotation=90, va="top", color="0.3",
            )  # fmt: skip


def _fraction(text: str) -> float:
    top, bottom = text.split("/")
    return float(top) / float(bottom)


# Learning rates


MEASURES = {  # measures of `zsr.measures.effective_rate` and their formulas
    "rho": "||g|| / ||W||",
    "radial": "|<W, g>| / (||W|| ||g||)",
    "weight_norm": "||W||",
    "gradient_norm": "||g||",
}


def effective_rates(path: Path, curves: Mapping[str, Rows], names: Sequence[str], title: str, note: str) -> None:
    """Draw the measures of `zsr.measures.effective_rate` against the step: a panel per measure, a line per method.

    names: all rows of the study, whose order decides the colours.
    """
    figure, axes = _panels(len(MEASURES), 2, 2.8)
    style = styles(names)
    ends: list[list[Label]] = []
    for axis, (measure, formula) in zip(axes, MEASURES.items()):
        ends.append([])
        for method, rows in curves.items():
            steps, values = ([float(row[key]) for row in rows if measure in row] for key in ("step", measure))
            axis.plot(steps, values, lw=1, color=style[method].colour)
            ends[-1] += [Label(steps[-1], values[-1], method)] if steps else []
        axis.set(xlabel="step", title=f"{measure.replace('_', ' ')}: {formula}", yscale="log")
    _titled(figure, title, note)
    for axis, panel_ends in zip(axes, ends):
        labels.at_ends(axis, panel_ends, room=0.4)
    _write(figure, path)


def learning_rates(path: Path, grid: Rows, names: Sequence[str], title: str, note: str) -> None:
    """Draw clean and robust accuracy on test images against the learning rate.

    The point of the rate that was chosen on held-out images is filled.

    grid: rows {method, lr, seed, test_clean, test_robust, chosen}. names: all rows of the study, whose order decides
    the colours.
    """
    figure, axes = _panels(2, 2, 4.2)
    style, parts = styles(names), ("test_clean", "test_robust")
    ends: list[list[Label]] = []
    for axis, part in zip(axes, parts):
        ends.append([_rate_line(axis, grid, part, method, style[method]) for method in distinct(grid, "method")])
        axis.set(xscale="log", xlabel="learning rate", ylabel=f"{part.replace('_', ' ')} accuracy, %")
    _titled(figure, title, f"{note} Filled: the rate chosen on held-out images. Where training diverged, no point.")
    for axis, part_ends in zip(axes, ends):
        labels.at_ends(axis, part_ends, room=0.4)
    _write(figure, path)


def _rate_line(axis: Axes, grid: Rows, part: str, method: str, style: Style) -> Label:
    """Draw the line of a method, and give its label."""
    rows = [row for row in grid if row["method"] == method]
    by_rate = {lr: [row[part] for row in rows if row["lr"] == lr] for lr in distinct(rows, "lr")}
    values = {lr: [float(text) for text in texts] for lr, texts in by_rate.items() if "" not in texts}
    best = next(row["lr"] for row in rows if int(row["chosen"]))
    x, means = list(map(float, values)), [fmean(accuracies) for accuracies in values.values()]
    pen = _pen(style, marked=True, size=5) | {"fmt": f"{style.marker}-", "lw": 1}
    axis.errorbar(x, means, [_deviation(accuracies) for accuracies in values.values()], **pen)
    axis.plot(float(best), fmean(values[best]), style.marker, ms=pen["ms"], color=style.colour)
    return Label(x[-1], means[-1], method)


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


# Attention


def attention(path: Path, columns: Mapping[tuple[str, str], tuple], title: str, note: str) -> None:
    """Draw images below one another, with the maps of several methods side by side, each laid over its image.

    A white frame marks the brightest patch of a map.

    columns: (method, kind) -> (images, maps): images (N, H, W, 3) and maps (N, h, w) in [0, 1], or None for images
    without maps. The name of a method stands above its columns, which follow one another.
    """
    n = max(len(images) for images, _ in columns.values())
    heads, widths = list(columns), [1.0]
    for (left, _), (right, _) in zip(heads, heads[1:]):
        widths += [1.0] if left == right else [GUTTER, 1.0]
    figure, grid = plt.subplots(
        n, len(widths), figsize=(WIDTH, (WIDTH - 0.2) / sum(widths) * n + 1.3), squeeze=False, width_ratios=widths
    )  # fmt: skip
    for axis in grid.flat:
        axis.axis("off")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    used = {head: axes for head, axes in zip(heads, (grid[:, i] for i, width in enumerate(widths) if width == 1.0))}
    for head, axes in used.items():
        images, maps = columns[head]
        for i, axis in enumerate(axes[: len(images)]):
            if maps is None:
                axis.imshow(images[i], interpolation="nearest")
            else:
                _overlay(axis, images[i], maps[i])
        kind = axes[0].set_title(f"\n{head[1]}", fontsize=labels.SIZE, fontweight="normal")  # below the method's name
        kind.set_linespacing(1.6)
    _titled(figure, title, note)
    for method in dict.fromkeys(method for method, _ in heads):
        boxes = [used[head][0].get_position() for head in heads if head[0] == method]
        middle, top = (boxes[0].x0 + boxes[-1].x1) / 2, boxes[0].y1
        place = {"xycoords": "figure fraction", "textcoords": "offset points", "ha": "center", "va": "bottom"}
        grid[0, 0].annotate(method, (middle, top), (0, 1.9 * labels.SIZE), fontweight="bold", **place)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata=STILL[".png"])
    plt.close(figure)


def _overlay(axis: Axes, image: np.ndarray, heat: np.ndarray) -> None:
    """Draw a map over a grey picture, and a frame around the brightest patch of the map."""
    height, width = image.shape[:2]
    patch = height / heat.shape[0], width / heat.shape[1]
    axis.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.5, interpolation="nearest", extent=extent)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    corner = column * patch[1] - 0.5, row * patch[0] - 0.5
    axis.add_patch(plt.Rectangle(corner, patch[1], patch[0], fill=False, ec="white", lw=1.4))


# The transfer study


def robustness(path: Path, rows: Sequence[Mapping], eps: Sequence[str], title: str, note: str) -> None:
    """Draw robust accuracy against eps, clean at 0, one panel per method, one line per start. Bars: ± sd over seeds.

    rows: rows of `zsr.reports.transfer.row`. eps: texts such as "15/255".
    """
    methods, style = distinct(rows, "method"), styles(distinct(rows, "init"))
    columns = ("clean", *(f"robust@{e}" for e in eps))
    places = [0.0, *(float(text.split("/")[0]) for text in eps)]
    lines: dict[str, dict[str, list]] = {method: {} for method in methods}
    for method in methods:
        for start in style:
            start_rows = [r for r in rows if (r["method"], r["init"]) == (method, start)]
            if start_rows:
                lines[method][start] = [[100 * r[column] for r in start_rows] for column in columns]
    ticks = places, [f"{place:g}" for place in places]
    _panels_of_starts(path, lines, ticks, ("eps, in 1/255", "accuracy, %", (-3, 103)), style, (title, note))


def likeness(path: Path, alike: Rows, title: str, note: str) -> None:
    """Draw CKA with the pre-trained model on clean images, by layer, one panel per method, one line per start."""
    rows = [r for r in alike if (r["measure"], r["input"]) == ("cka", "clean")]
    layers, methods, style = distinct(rows, "layer"), distinct(rows, "method"), styles(distinct(rows, "start"))
    lines: dict[str, dict[str, list]] = {method: {} for method in methods}
    for method in methods:
        for start in style:
            start_rows = [r for r in rows if (r["method"], r["start"]) == (method, start)]
            if start_rows:
                cells = [[float(r["value"]) for r in start_rows if r["layer"] == layer] for layer in layers]
                lines[method][start] = cells
    ticks = [float(i) for i in range(len(layers))], layers
    _panels_of_starts(path, lines, ticks, ("layer", "CKA", (0, 1.02)), style, (title, note))


def _panels_of_starts(
    path: Path,
    lines: Mapping[str, Mapping[str, list]],
    ticks: tuple[list[float], list[str]],
    axes_texts: tuple[str, str, tuple[float, float]],
    style: Mapping[str, Style],
    texts: tuple[str, str],
) -> None:
    """One panel per method, one line per start. lines: method -> start -> the values of seeds at every tick.

    axes_texts: label of x, label of y, limits of y. texts: title and note.
    """
    (places, names), (across, up, limits) = ticks, axes_texts
    figure, axes = _panels(len(lines), 2, 2.6, sharey=True)
    for axis, (method, starts) in zip(axes, lines.items()):
        for start, cells in starts.items():
            pen = _pen(style[start], size=5) | {"fmt": f"{style[start].marker}-", "lw": 1.2}
            axis.errorbar(places, [fmean(values) for values in cells], [_deviation(values) for values in cells], **pen)
        axis.set(title=method, ylim=limits)
        axis.set_xticks(places, names)
    _outer_labels(axes, 2, across, up)
    _titled(figure, *texts)
    for axis, starts in zip(axes, lines.values()):
        labels.at_ends(axis, [Label(places[-1], fmean(cells[-1]), start) for start, cells in starts.items()], room=0.35)
    _write(figure, path)
