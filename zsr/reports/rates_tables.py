"""Tables of a study with a grid of learning rates: methods at their chosen rates, TWINS minus controls, the grid."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from zsr.files import distinct, read_rows
from zsr.reports.tables import Row, daggers_of, marked, reasons, shown, signed, write

GROUPS = {"source": "target", "unseen": "unseen"}  # group of the shown averages -> its name in the tables
PARTS = ("test_clean", "test_robust", "held_out_robust")  # columns of the grid
MEASURES = ("rho", "radial", "weight_norm", "gradient_norm")  # columns of a curve
CHOSEN = "*"
Curves = Mapping[tuple[str, str], Sequence[Row]]  # (method, rate) -> rows of its steps


def study(
    folder: Path,
    averages: Sequence[Row],
    pairs: Sequence[Row],
    compared: Sequence[tuple[str, str]],
    rates: Sequence[Row],
    marks: Sequence[Row],
    held_out: int,
    title: str,
) -> None:
    """Write folder/rates.*: accuracies, differences on the same images and seeds, and every rate of the grid.

    compared: pairs of methods; the difference is first minus second. rates: the rows of metrics/results/rates.csv.
    held_out: number of images that chose the rate.
    """
    parts = {
        "accuracy in %, each method at its own rate": _accuracies(averages, rates, marks),
        "TWINS minus its controls, points": _differences(pairs, compared, marks),
        "accuracy in % at every rate": _grid(rates),
    }
    seeds = len(distinct(rates, "seed"))
    notes = [
        f"The rate of a method is the one of the grid with the highest accuracy under attack on the {held_out} images "
        f"held out of training, mean over {seeds} seeds; {CHOSEN} marks it in the grid. Test images chose nothing.",
        f"target: the test split of the set that methods were trained on. unseen: the mean over the other sets, which "
        f"they saw no more. ±: standard deviation over {seeds} seeds, each with a start of its own; of a row with one "
        "seed [low, high]: 95 % over the choice of images.",
        "Differences: on the same images and seeds; [low, high]: 95 % over the choice of images and of seeds.",
        *reasons(marks),
    ]
    write(folder, "rates", title, parts, notes)


def twins_and_controls(methods: Mapping[str, Mapping]) -> list[tuple[str, str]]:
    """All pairs (a method with both wings, a method without wings that minimises the same loss).

    methods: the methods in the catalogue of the study.
    """
    trained = {
        name: method_row
        for name, method_row in methods.items()
        if method_row.get("module") != "clip" and name != "clip"
    }
    loss = {name: method_row.get("base", method_row).get("module", name) for name, method_row in trained.items()}
    twins = [
        name
        for name, method_row in trained.items()
        if "base" in method_row and method_row.get("wings", "both") == "both"
    ]
    return [
        (twin, control) for twin in twins for control in trained if control not in twins and loss[control] == loss[twin]
    ]


def with_rates(curves: Path, rates: Sequence[Row]) -> Curves:
    """(method, rate) -> the curve of the trainings, mean over seeds. curves: the folder metrics/curves."""
    pairs = dict.fromkeys((row["method"], row["lr"]) for row in rates)
    return {(method, lr): read_rows(curves / method / f"{lr}.csv") for method, lr in pairs}


def _accuracies(averages: Sequence[Row], grid: Sequence[Row], marks: Sequence[Row]) -> tuple[list, list]:
    rates = chosen(grid)
    by_cell = {(r["group"], r["method"], r["attack"]): r for r in averages}
    columns = [(group, attack) for group in GROUPS for attack in distinct(averages, "attack")]
    body = [
        [method, rates.get(method, "")] + [marked(shown, by_cell[group, method, a], marks) for group, a in columns]
        for method in distinct(averages, "method")
    ]
    return ["method", "lr", *(f"{GROUPS[group]} {attack}" for group, attack in columns)], body


def _differences(pairs: Sequence[Row], compared: Sequence[tuple[str, str]], marks: Sequence[Row]) -> tuple[list, list]:
    by_pair = {(r["group"], r["attack"], r["first"], r["second"]): r for r in pairs}
    columns = [(group, attack) for group in GROUPS for attack in distinct(pairs, "attack")]

    def cell(group: str, attack: str, first: str, second: str) -> str:
        row, sign = by_pair.get((group, attack, first, second)), 1
        if row is None:
            row, sign = by_pair[group, attack, second, first], -1
        return signed(row, sign) + daggers_of(row.get("marks", ""), marks)

    body = [
        [f"{first} - {second}", *(cell(*column, first, second) for column in columns)] for first, second in compared
    ]
    return ["", *(f"{GROUPS[group]} {attack}" for group, attack in columns)], body


def _grid(grid: Sequence[Row]) -> tuple[list, list]:
    body = []
    for method in distinct(grid, "method"):
        for lr in distinct(grid, "lr"):
            rate_rows = [row for row in grid if (row["method"], row["lr"]) == (method, lr)]
            star = CHOSEN if int(rate_rows[0]["chosen"]) else ""
            blank = sum(row[PARTS[0]] == "" for row in rate_rows)
            cells = [
                f"diverged in {blank} of {len(rate_rows)} seeds" if blank else _mean_and_sd(rate_rows, part)
                for part in PARTS
            ]
            body.append([method, lr + star, *cells])
    return ["method", "lr", *(part.replace("_", " ") for part in PARTS)], body


def effective_rates(folder: Path, curves: Curves, rates: Mapping[str, str], shown_lr: str, title: str) -> None:
    """Write folder/effective_rate.*: means over steps of the measures that `zsr.measures.effective_rate` logged.

    rates: the chosen rate of every method.
    """
    parts = {}
    choices: dict[str, Callable[[str], str]] = {
        f"all at lr {shown_lr}": lambda _: shown_lr,
        "each at its own rate": rates.__getitem__,
    }
    for caption, lr_of in choices.items():
        body = []
        for method in rates:
            rows = curves[method, lr_of(method)]
            if not rows:
                body.append([method, lr_of(method), *["diverged"] * (len(MEASURES) + 1)])
                continue
            means = [fmean(float(row[measure]) for row in rows) for measure in MEASURES]
            turned = fmean(float(row["lr"]) * float(row["rho"]) for row in rows)
            body.append([method, lr_of(method), *(f"{mean:.3g}" for mean in means), f"{turned:.2e}"])
        parts[caption] = (["method", "lr", *MEASURES, "lr x rho"], body)
    notes = [
        "Of every convolution before BatchNorm, weight W and gradient g before weight decay: rho = ||g|| / ||W||, "
        "radial = |<W, g>| / (||W|| ||g||); means over convolutions, steps and seeds.",
        "lr x rho: what a step of plain SGD moves a filter by, in lengths of the filter; lr here is the schedule's.",
    ]
    write(folder, "effective_rate", title, parts, notes)


def elsewhere(folder: Path, rows: Sequence[Row], title: str) -> None:
    """Write folder/elsewhere.*: numbers that others measured, with the source."""
    by_cell = {(r["dataset"], r["attack"], r["method"]): float(r["top1_percent"]) for r in rows}
    sets, attacks, (base, twins) = (distinct(rows, key) for key in ("dataset", "attack", "method"))
    body = [
        [s, a, f"{by_cell[s, a, base]:.2f}", f"{by_cell[s, a, twins]:.2f}"]
        + [f"{by_cell[s, a, twins] - by_cell[s, a, base]:+.2f}"]
        for s in sets
        for a in attacks
    ]
    notes = [
        "Not measured here, and not from the paper of TWINS: Table 2 of AutoLoRa (ICLR 2024), a re-run by others; "
        "ResNet-50, robust on ImageNet at 4/255, fine-tuned and attacked at 8/255. vanilla_rft: their natural plus "
        "adversarial fine-tuning. Their TWINS is understood to be TWINS-TRADES.",
        "No number of the original paper is shown, since none could be checked.",
    ]
    write(folder, "elsewhere", title, {"accuracy in %": (["set", "attack", base, twins, "difference"], body)}, notes)


def _mean_and_sd(rows: Sequence[Row], part: str) -> str:
    values = [float(row[part]) for row in rows]
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def chosen(rates: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The rate of every method, from the rows of metrics/results/rates.csv."""
    return {row["method"]: row["lr"] for row in rates if int(row["chosen"])}
