"""The transfer study's tables and metrics, from the rows of its runs. No torch.

rows: rows of `zsr.reports.transfer.row`, one per run and seed. alike: rows of metrics/likeness, with run, start,
method, seed, measure, input, layer and value.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from zsr import files
from zsr.files import distinct
from zsr.reports.results import CLEAN, WORST
from zsr.reports.tables import COUNTED, write
from zsr.reports.transfer import STANDARD, Run, collapsed, difference, row, start_and_method

PLAIN = "ft"  # the method that others are compared with

Row = Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """The texts of titles and notes, and the facts of the study, that every table needs.

    Attributes:
        title: the title of the study.
        notes: the notes below every table.
        eps: the eps of the attacks, such as "15/255".
        classes: number of classes of the target set.
    """

    title: str
    notes: tuple[str, ...]
    eps: tuple[str, ...]
    classes: int


def rows_of_cells(cells: Sequence[Row], study: Mapping) -> list[dict]:
    """One row per method and seed, from the rows of metrics/results/accuracy.csv. study: the catalogue of the study."""
    cells_by_run: dict[tuple[str, str], dict[str, Row]] = {}
    for cell in cells:
        if cell["attack"] in study["attacks"]:
            cells_by_run.setdefault((cell["method"], cell["seed"]), {})[study["attacks"][cell["attack"]]] = cell
    rows = []
    for (method, seed), by_eps in cells_by_run.items():
        first, n = next(iter(by_eps.values())), int(next(iter(by_eps.values()))["n"])
        start, section = start_and_method(study["methods"][method])
        described = Run(
            init=start,
            method=section,
            backbone=study["arch"],
            dataset=first["set"],
            seed=int(seed),
        )
        robust = {eps: int(cell["correct"]) / n for eps, cell in by_eps.items()}
        rows.append(row(described, int(first["clean_correct"]) / n, robust, n))
    return rows


def notes(caution: str, cells: Sequence[Row], marks: Sequence[Row]) -> tuple[str, ...]:
    """The notes below every table: caution, seeds, images, protocols, marks of models."""
    attacked = [cell for cell in cells if cell["attack"] not in (CLEAN, WORST)]
    first, seeds = attacked[0], distinct(attacked, "seed")
    mark_texts = [f"{mark['method']} {mark['attack']}, {mark['mark']}: {mark['reason']}" for mark in marks]
    return (
        caution,
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(seeds)}), each of random weights, "
        "heads, order of batches and noise, on one draw of the data. checkpoint final: nothing is chosen by the test "
        "images.",
        COUNTED[first["counted"]],
        f"n, test images of {first['set']} (digest of their ids): {first['n']} ({first['ids']}).",
        *(f"{text}." for text in distinct(attacked, "protocol")),
        *(f"marked: {text}." for text in dict.fromkeys(mark_texts)),
    )


def spread(values: Sequence[float]) -> str:
    """The text "mean ± standard deviation" over seeds; for one seed the value alone."""
    return f"{fmean(values):.1f}" + (f" ± {_sd(values):.1f}" if len(values) > 1 else "")


def accuracy(folder: Path, rows: Sequence[Mapping], facts: Facts, flags: Mapping[str, str]) -> None:
    """Write folder/transfer.*: clean and robust accuracy and drop rate of every run. flags: run -> a warning."""
    robust = [f"robust@{eps}" for eps in facts.eps]
    parts = {}
    for caption, columns in {
        "accuracy in %": ["clean", *robust],
        "drop rate, (clean - robust) / clean, in %": [f"DR@{eps}" for eps in facts.eps],
    }.items():
        body = [
            [run["init"], run["method"], run["checkpoint"], flags.get(_name(run), "")]
            + [spread([100 * r[column] for r in run_rows]) for column in columns]
            for run, run_rows in _runs(rows)
        ]
        parts[caption] = (["start", "method", "checkpoint", "flag", *columns], body)
    write(folder, "transfer", facts.title, parts, facts.notes)
    files.write_rows(folder / "transfer.csv", rows)


def _name(row: Mapping) -> str:
    return f"{row['init']} {row['method']}"


def _runs(rows: Iterable[Mapping]) -> list[tuple[Mapping, list[Mapping]]]:
    """The first row and all rows of every run."""
    rows_by_name: dict[str, list[Mapping]] = {}
    for seed_row in rows:
        rows_by_name.setdefault(_name(seed_row), []).append(seed_row)
    return [(run_rows[0], run_rows) for run_rows in rows_by_name.values()]


def difference_rows(rows: Sequence[Mapping], facts: Facts) -> list[dict]:
    """Every start against scratch by the same method, and every method against plain fine-tuning from the same start.

    A row is first minus second, in shares, by `zsr.reports.transfer.difference`, with standard deviations over seeds.
    """
    runs = {(run["init"], run["method"]): run_rows for run, run_rows in _runs(rows)}
    pairs = [("start", (init, method), (STANDARD, method)) for init, method in runs if init != STANDARD]
    pairs += [("method", (init, method), (init, PLAIN)) for init, method in runs if method != PLAIN]
    return [
        {"compared": compared, "first": " ".join(first), "second": " ".join(second)}
        | _paired(runs[first], runs[second], eps, facts.classes)
        for compared, first, second in pairs
        if second in runs
        for eps in facts.eps
    ]


def _paired(first: Sequence[Mapping], second: Sequence[Mapping], eps: str, classes: int) -> dict:
    result, by_seed = difference(first, second, eps, classes), {r["seed"]: r for r in second}
    spreads = {
        f"{name}_sd": _sd([r[column] - by_seed[r["seed"]][column] for r in first])
        for name, column in (("robust", f"robust@{eps}"), ("drop_rate", f"DR@{eps}"))
    }
    return result | spreads | {"clean": fmean(r["clean"] for r in first) - fmean(r["clean"] for r in second)}


def _sd(values: Sequence[float]) -> float:
    if not math.isfinite(sum(values)):
        return math.nan
    return stdev(values) if len(values) > 1 else 0.0


def differences(folder: Path, rows: Sequence[Mapping], facts: Facts) -> None:
    """Write folder/differences.*, from the rows of `difference_rows`."""
    header = ["first", "second", "eps", "clean", "robust", "drop rate", "loses more", "saturated"]
    captions = {
        "start": f"a start against {STANDARD}, same method",
        "method": f"a method against {PLAIN}, same start",
    }
    parts = {
        caption: (header, [_shown(r) for r in rows if r["compared"] == compared])
        for compared, caption in captions.items()
    }
    notes = [
        "first minus second, in points, on the same images, paired by seed; ±: standard deviation over seeds. loses "
        "more: in how many seeds the first has the higher drop rate. saturated: both are below twice chance, so "
        "nothing can be said.",
        *facts.notes,
    ]
    write(folder, "differences", f"{facts.title}: differences", parts, notes)
    files.write_rows(folder / "differences.csv", rows, header=["compared"])


def _shown(row: Mapping) -> list[str]:
    pairs = [(100 * row[name], 100 * row[f"{name}_sd"]) for name in ("robust", "drop_rate")]
    return [
        row["first"],
        row["second"],
        row["eps"],
        f"{100 * row['clean']:+.1f}",
        *(f"{mean:+.1f} ± {sd:.1f}" for mean, sd in pairs),
        f"{row['agree']} of {row['seeds']}",
        "saturated" if row["saturated"] else "",
    ]


def likeness(folder: Path, alike: Sequence[Row], reference: str, facts: Facts) -> None:
    """Write folder/likeness.*: similarity per layer, the universal perturbation and its control, bands of frequency."""
    parts = {}
    for measure in (m for m in distinct(alike, "measure") if m in ("cka", "cca")):
        for given in distinct([r for r in alike if r["measure"] == measure], "input"):
            input_rows = [r for r in alike if (r["measure"], r["input"]) == (measure, given)]
            caption = f"{measure.upper()} with the {reference} model of the seed, {given} images, in %"
            parts[caption] = _by(input_rows, "layer")
    for measure, caption in {
        "accuracy": "accuracy in % under one perturbation for all images, and on one band of frequency",
        "fooled": "images in % whose class a perturbation for all images changes",
    }.items():
        parts[caption] = _by([r for r in alike if r["measure"] == measure], "input")
    notes = [
        f"universal: made on the {reference} model of the seed, shown to every run; random_signs: the same size at "
        "every pixel with signs drawn at random. ±: standard deviation over seeds.",
        *facts.notes,
    ]
    write(folder, "likeness", f"{facts.title}: likeness", parts, notes)


def _by(rows: Sequence[Row], column: str) -> tuple[list, list]:
    names, body = distinct(rows, column), []
    for run in distinct(rows, "run"):
        run_rows = [r for r in rows if r["run"] == run]
        cells = [spread([100 * float(r["value"]) for r in run_rows if r[column] == name]) for name in names]
        body.append([run_rows[0]["start"], run_rows[0]["method"], *cells])
    return ["start", "method", *names], body


def flags(alike: Sequence[Row], classes: int) -> dict[str, str]:
    """The runs whose features have become a constant in a seed: "robust dm" -> "collapsed 2 of 4".

    The reference is the plain fine-tuned model of the same start and seed, which is taken as not collapsed.
    """
    values = {(r["start"], r["method"], r["seed"], r["measure"]): float(r["value"]) for r in alike}
    collapses: dict[str, list[bool]] = {}
    for start, method, seed, measure in values:
        reference = values.get((start, PLAIN, seed, "variance"))
        if measure == "variance" and reference is not None:
            measured = [values[start, method, seed, name] for name in ("variance", "cross_entropy")]
            collapses.setdefault(f"{start} {method}", []).append(
                collapsed(measured[0], reference, measured[1], classes)
            )
    return {run: f"collapsed {sum(bits)} of {len(bits)}" for run, bits in collapses.items() if any(bits)}
