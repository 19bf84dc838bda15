"""The transfer study's tables and metrics, from the rows of its runs. No torch.

rows: of `zsr.reports.transfer.row`, one per run and seed. alike: of metrics/likeness, with run, start, method, seed,
measure, input, layer and value.
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
    """What stands in titles and below every table.

    Attributes:
        title: of the study.
        notes: what stands below every table.
        eps: of the attacks, as "15/255".
        classes: how many the target set has.
    """

    title: str
    notes: tuple[str, ...]
    eps: tuple[str, ...]
    classes: int


def rows_of_cells(cells: Sequence[Row], study: Mapping) -> list[dict]:
    """One row per row of the study and seed, of the rows of metrics/results/accuracy.csv. study: its catalogue."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for cell in cells:
        if cell["attack"] in study["attacks"]:
            found.setdefault((cell["method"], cell["seed"]), {})[study["attacks"][cell["attack"]]] = cell
    rows = []
    for (method, seed), by_eps in found.items():
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
    """What stands below every table: what the numbers are not, seeds, images, protocols, marks of models."""
    attacked = [cell for cell in cells if cell["attack"] not in (CLEAN, WORST)]
    first, seeds = attacked[0], distinct(attacked, "seed")
    said = [f"{mark['method']} {mark['attack']}, {mark['mark']}: {mark['reason']}" for mark in marks]
    return (
        caution,
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(seeds)}), each of random weights, "
        "heads, order of batches and noise, on one draw of the data. checkpoint final: nothing is chosen by the test "
        "images.",
        COUNTED[first["counted"]],
        f"n, test images of {first['set']} (digest of their ids): {first['n']} ({first['ids']}).",
        *(f"{text}." for text in distinct(attacked, "protocol")),
        *(f"marked: {text}." for text in dict.fromkeys(said)),
    )


def spread(values: Sequence[float]) -> str:
    """mean ± standard deviation over seeds; of one seed the value alone."""
    return f"{fmean(values):.1f}" + (f" ± {_sd(values):.1f}" if len(values) > 1 else "")


def accuracy(folder: Path, rows: Sequence[Mapping], facts: Facts, flags: Mapping[str, str]) -> None:
    """folder/transfer.*: clean and robust accuracy and drop rate of every run. flags: run -> what is wrong with it."""
    robust = [f"robust@{eps}" for eps in facts.eps]
    parts = {}
    for caption, columns in {
        "accuracy in %": ["clean", *robust],
        "drop rate, (clean - robust) / clean, in %": [f"DR@{eps}" for eps in facts.eps],
    }.items():
        body = [
            [run["init"], run["method"], run["checkpoint"], flags.get(_name(run), "")]
            + [spread([100 * r[column] for r in of_run]) for column in columns]
            for run, of_run in _runs(rows)
        ]
        parts[caption] = (["start", "method", "checkpoint", "flag", *columns], body)
    write(folder, "transfer", facts.title, parts, facts.notes)
    files.write_rows(folder / "transfer.csv", rows)


def _name(row: Mapping) -> str:
    return f"{row['init']} {row['method']}"


def _runs(rows: Iterable[Mapping]) -> list[tuple[Mapping, list[Mapping]]]:
    """Of every run its first row and all of them."""
    found: dict[str, list[Mapping]] = {}
    for of_seed in rows:
        found.setdefault(_name(of_seed), []).append(of_seed)
    return [(of_run[0], of_run) for of_run in found.values()]


def difference_rows(rows: Sequence[Mapping], facts: Facts) -> list[dict]:
    """Every start against scratch by the same method, and every method against plain fine-tuning from the same start.

    first minus second, in shares, as `zsr.reports.transfer.difference`, with standard deviations over seeds.
    """
    runs = {(run["init"], run["method"]): of_run for run, of_run in _runs(rows)}
    pairs = [("start", (init, method), (STANDARD, method)) for init, method in runs if init != STANDARD]
    pairs += [("method", (init, method), (init, PLAIN)) for init, method in runs if method != PLAIN]
    return [
        {"compared": compared, "first": " ".join(first), "second": " ".join(second)}
        | _paired(runs[first], runs[second], eps, facts.classes)
        for compared, first, second in pairs
        if second in runs
        for eps in facts.eps
    ]


def _paired(one: Sequence[Mapping], other: Sequence[Mapping], eps: str, classes: int) -> dict:
    found, by_seed = difference(one, other, eps, classes), {r["seed"]: r for r in other}
    spreads = {
        f"{name}_sd": _sd([r[column] - by_seed[r["seed"]][column] for r in one])
        for name, column in (("robust", f"robust@{eps}"), ("drop_rate", f"DR@{eps}"))
    }
    return found | spreads | {"clean": fmean(r["clean"] for r in one) - fmean(r["clean"] for r in other)}


def _sd(values: Sequence[float]) -> float:
    if not math.isfinite(sum(values)):
        return math.nan
    return stdev(values) if len(values) > 1 else 0.0


def differences(folder: Path, rows: Sequence[Mapping], facts: Facts) -> None:
    """folder/differences.*: of `difference_rows`."""
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
    """folder/likeness.*: similarity per layer, the universal perturbation and its control, bands of frequency."""
    parts = {}
    for measure in (m for m in distinct(alike, "measure") if m in ("cka", "cca")):
        for given in distinct([r for r in alike if r["measure"] == measure], "input"):
            own = [r for r in alike if (r["measure"], r["input"]) == (measure, given)]
            caption = f"{measure.upper()} with the {reference} model of the seed, {given} images, in %"
            parts[caption] = _by(own, "layer")
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
        own = [r for r in rows if r["run"] == run]
        cells = [spread([100 * float(r["value"]) for r in own if r[column] == name]) for name in names]
        body.append([own[0]["start"], own[0]["method"], *cells])
    return ["start", "method", *names], body


def flags(alike: Sequence[Row], classes: int) -> dict[str, str]:
    """In how many seeds features have become a constant, where in any: "robust dm" -> "collapsed 2 of 4".

    What is not collapsed is the plain fine-tuned model of the same start and seed.
    """
    values = {(r["start"], r["method"], r["seed"], r["measure"]): float(r["value"]) for r in alike}
    found: dict[str, list[bool]] = {}
    for start, method, seed, measure in values:
        reference = values.get((start, PLAIN, seed, "variance"))
        if measure == "variance" and reference is not None:
            own = [values[start, method, seed, name] for name in ("variance", "cross_entropy")]
            found.setdefault(f"{start} {method}", []).append(collapsed(own[0], reference, own[1], classes))
    return {run: f"collapsed {sum(bits)} of {len(bits)}" for run, bits in found.items() if any(bits)}
