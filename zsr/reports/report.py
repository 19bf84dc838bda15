"""The report of a study: one HTML page that needs no network and no other file. No torch.

`page` turns rows of metrics into tables and charts, and fills the template report.html.j2 with them. The template has
all sentences, and shows no section that has no data.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from zsr.evaluation.defence_records import COLUMNS
from zsr.evaluation.results import CLEAN, STRONGEST, WORST, counted_sets, over_seeds
from zsr.files import distinct
from zsr.reports import charts, defences
from zsr.reports.charts import Row, Rows, levels, number, spans
from zsr.reports.ranking import by_worst_case, mean_of_sets
from zsr.reports.style import styles

PACKAGE_DATA = ["report.html.j2"]
TEMPLATE = Path(__file__).with_name(PACKAGE_DATA[0])


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that a report is made of, as rows of files that git holds.

    Attributes:
        document: the content of params.yaml.
        study: the catalogue of the study, metrics/results/study.json.
        accuracy: one row per cell and seed.
        averages: one row per group of sets, method and attack.
        pairs: differences of two methods.
        attacks: differences of attacks to AutoAttack.
        marks: the marks of the audit.
        checks: the checks of the audit.
        rates: accuracy at each learning rate of a grid.
        sweeps: attack -> rows of metrics/eps_sweep.
        attention: set -> the figure of attention maps, PNG, and its rows.
        orderings: the table of orderings beside the paper's.
        differences: the differences of a study of starts.
        likeness: start -> rows of metrics/likeness.
        defended: rows of metrics/defended.
        libraries: library -> version.
        python: the version of Python.
        citation: the content of CITATION.cff.
    """

    document: Mapping[str, Any]
    study: Mapping[str, Any]
    accuracy: Rows
    averages: Rows
    pairs: Rows
    attacks: Rows
    marks: Rows
    checks: Rows
    rates: Rows = ()
    sweeps: Mapping[str, Rows] = field(default_factory=dict)
    attention: Mapping[str, tuple[bytes, Rows]] = field(default_factory=dict)
    orderings: Rows = ()
    differences: Rows = ()
    likeness: Mapping[str, Rows] = field(default_factory=dict)
    defended: Rows = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    citation: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def styles(self) -> charts.Styles:
        """The look of each method."""
        return styles(list(self.study["methods"]))

    @cached_property
    def attacked(self) -> list[str]:
        """The attacks, with the worst case where there is one."""
        return [attack for attack in distinct(self.averages, "attack") if attack != CLEAN]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its sets, the group that the study is about first. Of equal groups there is the first alone.

        A study of CLIP is about sets that training did not show, and a study with a grid about the set it did show.
        """
        known: dict[str, list[str]] = {}
        for name, sets in self.study["groups"].items():
            if sets not in known.values():
                known[name] = sets
        order = ["unseen_strict", "unseen", "source", "all"]
        order = ["source", *order] if self.rates else order
        return {name: known[name] for name in dict.fromkeys([*order, *known]) if name in known}

    @property
    def leading(self) -> str:
        """The group of the charts, which also decides the order of rows."""
        return next(iter(self.groups))

    @cached_property
    def ranked(self) -> list[str]:
        """The methods, the highest accuracy in the worst case first."""
        return by_worst_case(self.averages, self.leading)

    def reason(self, row: Row) -> str:
        """Why the audit marks a number: each mark with its cells. Empty where the number has no mark."""
        sets = [row["set"]] if "set" in row else self.study["groups"][row["group"]]
        methods = [row[key] for key in ("method", "first", "second") if key in row]
        names = [row[key] for key in ("attack", "against") if key in row]
        texts = []
        for mark in row.get("marks", "").split():
            cells = [
                f"{cell['method']} {cell['attack']} {cell['set']}: {cell['reason']}"
                for cell in self.marks
                if cell["mark"] == mark
                and (cell["method"] in methods and cell["attack"] in names and cell["set"] in sets)
            ]
            texts.append(f"{mark.replace('_', ' ')}. {'; '.join(cells)}")
        return "\n".join(texts)


# Tables


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the text.
        small: a second line, such as an interval.
        sort: the value that a click on the head of the column sorts by; None: the text.
        mark: the reason of the audit for a dagger.
        classes: names of the style sheet.
        heat: a shade from 0 to 100; None: no shade.
        look: colour and path of a marker before the text.
    """

    text: str
    small: str = ""
    sort: float | None = None
    mark: str = ""
    classes: str = ""
    heat: float | None = None
    look: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        head: the heads of the columns.
        rows: one list of cells for each row.
        spans: texts above the head, with the number of columns of each.
        title: the text above the table.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    spans: Sequence[tuple[str, int]] = ()
    title: str = ""


def accuracy_cell(row: Row, source: Source) -> Cell:
    """The cell of a mean or of a single accuracy."""
    value = dict(row) | {"mean": row["mean"] if "mean" in row else row["accuracy"]}
    mean = float(value["mean"])
    low, high = spans(value)
    small = f"± {float(value['sd']):.1f}" if value["sd"] != "" else f"{low:.1f}–{high:.1f}"
    return Cell(f"{mean:.1f}", small, mean, source.reason(row), "number", mean)


def difference_cell(row: Row, source: Source, sign: int = 1) -> Cell:
    """The cell of a difference, bold where its interval leaves out zero. sign -1: the second minus the first."""
    mean, *ends = (sign * float(row[key]) for key in ("mean", "low", "high"))
    low, high = sorted(ends)
    decided = "" if low <= 0 <= high else " decided"
    small = f"{signed(low)} to {signed(high)}"
    return Cell(signed(mean), small, mean, source.reason(row), f"number{decided}")


def signed(value: float) -> str:
    """A difference as text, such as "+3.2" or "−0.4"."""
    return f"{round(value, 1) + 0:+.1f}".replace("-", "−")


def method_cell(method: str, source: Source) -> Cell:
    """The first cell of a method's row, with its marker."""
    return Cell(method, look=charts.look(method, source.styles))


def headline(source: Source) -> Table:
    """Averages of every method under every attack: the highest of a column is bold, its equals are shaded."""
    columns = [(group, attack) for group in source.groups for attack in (CLEAN, *source.attacked)]
    rows = {(row["group"], row["attack"], row["method"]): row for row in source.averages}
    methods = source.ranked
    body = {method: [method_cell(method, source)] for method in methods}
    for column in columns:
        best = max(methods, key=lambda method: float(rows[(*column, method)]["mean"]))
        equals = _equals(source.pairs, column, best)
        for method in methods:
            cell = replace(accuracy_cell(rows[(*column, method)], source), heat=None)
            highest = rows[(*column, method)]["mean"] == rows[(*column, best)]["mean"]
            classes = f"{cell.classes} best" if highest else f"{cell.classes} tie" if method in equals else cell.classes
            body[method].append(replace(cell, classes=classes))
    n = len(source.attacked) + 1
    above = [("", 1), *((_group_title(source, name, sets), n) for name, sets in source.groups.items())]
    return Table(["method", *(attack for _, attack in columns)], list(body.values()), above)


def _group_title(source: Source, name: str, sets: Sequence[str]) -> str:
    words = name.replace("_", " ")
    return f"{words}: {sets[0]}" if len(sets) == 1 else f"{words}: mean of {counted_sets(source.study, name)} sets"


def _equals(pairs: Rows, column: tuple[str, str], best: str) -> set[str]:
    """The methods whose difference to the best has an interval with zero."""
    found = set()
    for pair in pairs:
        if (pair["group"], pair["attack"]) == column and best in (pair["first"], pair["second"]):
            if float(pair["low"]) <= 0 <= float(pair["high"]):
                found |= {pair["first"], pair["second"]}
    return found


def per_set(source: Source) -> list[Table]:
    """For each attack the accuracy of every method on every set, shaded. Of one set alone there are no tables."""
    cells = {(row["method"], row["attack"], row["set"]): row for row in over_seeds(source.accuracy)}
    sets = distinct(source.accuracy, "set")
    if len(sets) == 1:
        return []
    return [
        Table(
            ["method", *sets],
            [
                [method_cell(m, source), *(accuracy_cell(cells[m, attack, s], source) for s in sets)]
                for m in source.ranked
            ],
            title="no attack" if attack == CLEAN else attack,
        )
        for attack in (CLEAN, *source.attacked)
    ]


def attack_differences(source: Source) -> Table | None:
    """Accuracy under each attack minus that under AutoAttack, mean over the leading group."""
    rows = [row for row in source.attacks if row["group"] == source.leading]
    names = distinct(rows, "attack") if rows else []
    by_cell = {(row["method"], row["attack"]): row for row in rows}
    body = [
        [method_cell(m, source), *(difference_cell(by_cell[m, attack], source) for attack in names)]
        for m in source.ranked
        if m in (row["method"] for row in rows)
    ]
    return Table(["method", *(f"{attack} − {STRONGEST}" for attack in names)], body) if body else None


def quirks(source: Source) -> Table | None:
    """The row of each quirk minus the row that it is compared with, under each attack, mean over all sets."""
    named, names = source.document["quirks"], (CLEAN, *source.attacked)
    by_pair = {(row["attack"], row["first"], row["second"]): row for row in source.pairs if row["group"] == "all"}
    body = []
    for method, quirk in named.items():
        ends = method, quirk["against"]
        turned = (names[0], *ends) not in by_pair
        pair = ends[::-1] if turned else ends
        cells = [difference_cell(by_pair[(name, *pair)], source, -1 if turned else 1) for name in names]
        body.append([Cell(quirk["id"]), method_cell(method, source), method_cell(quirk["against"], source), *cells])
    return Table(["quirk", "row", "minus", *names], body) if body else None


def counts_of_orderings(source: Source) -> Table | None:
    """How many orderings of the paper appear here, under each attack."""
    if not source.orderings:
        return None
    verdicts = list(charts.VERDICTS)
    body = []
    for attack in [*distinct(source.orderings, "attack"), "all together"]:
        rows = [row for row in source.orderings if attack in (row["attack"], "all together")]
        found = [sum(row["here"] == verdict for row in rows) for verdict in verdicts]
        numbers = [Cell(str(n), sort=n, classes="number") for n in (*found, len(rows))]
        body.append([Cell("no attack" if attack == CLEAN else attack), *numbers])
    return Table(["attack", *verdicts, "pairs"], body)


def plain(rows: Rows, columns: Sequence[str]) -> Table | None:
    """A table of texts."""
    return Table(columns, [[Cell(row[column]) for column in columns] for row in rows]) if rows else None


def likeness(source: Source) -> list[Table]:
    """CKA with a start on clean images, in percent, by layer, mean over seeds."""
    tables = []
    for start, rows in source.likeness.items():
        shown = [row for row in rows if (row["measure"], row["input"]) == ("cka", "clean")]
        layers, body = distinct(shown, "layer"), []
        for run in distinct(shown, "run"):
            values = [
                100 * fmean(float(row["value"]) for row in shown if (row["run"], row["layer"]) == (run, layer))
                for layer in layers
            ]
            cells = [Cell(f"{value:.0f}", sort=value, classes="number", heat=value) for value in values]
            body.append([method_cell(run, source), *cells])
        tables += [Table(["method", *layers], body, title=f"CKA in % with the start {start}")] if body else []
    return tables


def differences(source: Source) -> Table | None:
    """Differences of starts and methods of the transfer study, in points, with deviations over seeds."""
    columns = {"clean": "", "robust": "robust_sd", "drop_rate": "drop_rate_sd"}
    body = []
    for row in source.differences:
        cells = [
            Cell(
                signed(100 * float(row[name])),
                f"± {100 * float(row[sd]):.1f}" if sd else "",
                float(row[name]),
                classes="number",
            )
            for name, sd in columns.items()
        ]
        agree = Cell(f"{row['agree']} of {row['seeds']}", sort=float(row["agree"]), classes="number")
        above = "saturated" if row["saturated"] == "True" else ""
        body.append(
            [
                Cell(row["first"]),
                Cell(row["second"]),
                Cell(row["eps"], sort=levels(row["eps"])),
                *cells,
                agree,
                Cell(above),
            ]
        )
    return (
        Table(["first", "minus", "eps", "clean", "robust", "drop rate", "drops more in", "note"], body)
        if body
        else None
    )


def defended(source: Source) -> Table | None:
    """Accuracy of every defence at test time in its columns, mean over sets, the highest worst case first."""
    body = []
    for row in defences.means(source.defended):
        numbers = [float(row[column]) for column in (*COLUMNS, "undefended")]
        cells = [Cell(f"{value:.1f}", sort=value, classes="number", heat=value) for value in numbers]
        place = COLUMNS.index("worst")
        interval = f"{float(row['low']):.1f}–{float(row['high']):.1f}"
        cells[place] = replace(cells[place], small=interval, mark=row["reasons"])
        medians = [
            f"{what}: {', '.join(f'{c} {v}' for c, v in of.items())}" for what, of in defences.decided_by(row).items()
        ]
        cost = Cell(row["forwards_per_verdict"], sort=float(row["forwards_per_verdict"]), classes="number")
        about = [Cell(defences.conditions(row)), cost, Cell("; ".join(medians), classes="text")]
        body.append([Cell(defences.name_of(row)), method_cell(row["method"], source), *cells, *about])
    head = ["defence", "tower", *COLUMNS, "tower alone", "violates", "passes of a verdict", "decides by"]
    return Table(head, body) if body else None


# Charts


def sweep_rows(rows: Rows) -> list[dict]:
    """Points of accuracy against eps, mean over sets with the 95 % interval, from the rows of a sweep."""
    points: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        points.setdefault((row["method"], row["eps"]), []).append(row)
    return [_sweep_point(method, eps, same) for (method, eps), same in points.items()]


def _sweep_point(method: str, eps: str, rows: Rows) -> dict:
    mean, low, high = (round(value, 2) for value in mean_of_sets(rows))
    text = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    return {"method": method, "x": levels(eps), "y": mean, "low": low, "high": high, "at": f"eps {eps}", "text": text}


def rows_by_eps(source: Source) -> list[dict]:
    """Points of accuracy against eps, from the averages of a study whose attacks differ in eps alone."""
    eps_of = {CLEAN: "0/255"} | dict(source.study["attacks"])
    if len(set(eps_of.values())) < 3:
        return []
    rows = [row for row in source.averages if row["group"] == source.leading and row["attack"] in eps_of]
    points = []
    for row in rows:
        low, high = spans(row)
        x = levels(eps_of[row["attack"]])
        at = f"eps {eps_of[row['attack']]}"
        points.append(
            {
                "method": row["method"],
                "x": x,
                "y": float(row["mean"]),
                "low": low,
                "high": high,
                "at": at,
                "text": number(row),
            }
        )
    return points


def eps_charts(source: Source) -> dict[str, dict]:
    """Title -> a chart of accuracy against eps; the eps of training has an upright line."""
    trained: dict = {"x": levels(str(source.document["train"]["attack"]["eps"])), "text": "eps of training"}
    x = "eps, in grey levels of 255"
    curves = {}
    for attack, rows in source.sweeps.items():
        images = max(int(row["n"]) for row in rows)
        title = f"{attack}, mean over {len(distinct(rows, 'set'))} sets, the first {images} images of each"
        curves[title] = sweep_rows(rows)
    if points := rows_by_eps(source):
        curves["all test images"] = points
    return {
        title: charts.lines(points, source.styles, x, "accuracy, %", rule=trained) for title, points in curves.items()
    }


def rate_charts(source: Source) -> dict[str, dict]:
    """Title -> a chart of accuracy against the learning rate; the chosen rate is filled."""
    titles = {"test_clean": "no attack", "test_robust": "under attack"}
    result = {}
    for column, title in titles.items():
        points = []
        for method in distinct(source.rates, "method") if source.rates else []:
            same = [row for row in source.rates if row["method"] == method]
            for lr in distinct(same, "lr"):
                seeds = [row for row in same if row["lr"] == lr]
                if all(row[column] != "" for row in seeds):
                    mean, chosen = fmean(float(row[column]) for row in seeds), seeds[0]["chosen"] == "1"
                    points.append(
                        {
                            "method": method,
                            "x": float(lr),
                            "y": round(mean, 2),
                            "at": f"rate {lr}",
                            "text": f"{mean:.1f}",
                            "chosen": chosen,
                        }
                    )
        if points:
            result[title] = charts.lines(points, source.styles, "learning rate", "accuracy, %", log=True)
    return result


def ordering_charts(source: Source) -> list[dict]:
    """One chart for each attack: our difference of each pair against the paper's."""
    ours = {(row["attack"], row["first"], row["second"]): row for row in source.pairs if row["group"] == "all"}
    result = []
    for attack in distinct(source.orderings, "attack") if source.orderings else []:
        points = []
        for row in (row for row in source.orderings if row["attack"] == attack):
            pair, paper = ours[attack, row["first"], row["second"]], float(row["paper"])
            sign = 1 if paper >= 0 else -1
            names = (row["first"], row["second"])[::sign]
            mean, *ends = (sign * float(pair[key]) for key in ("mean", "low", "high"))
            low, high = sorted(ends)
            text = f"{signed(mean)} [{signed(low)}, {signed(high)}]"
            points.append(
                {
                    "pair": " − ".join(names),
                    "paper": abs(paper),
                    "ours": mean,
                    "low": low,
                    "high": high,
                    "here": row["here"],
                    "text": text,
                }
            )
        result.append(charts.orderings(points, "no attack" if attack == CLEAN else attack))
    return result


# The page


def protocol(source: Source) -> dict[str, Any]:
    """The facts that travel with the numbers: those of all attacks, those of each attack, and the sets."""
    parts = {
        row["attack"]: row["protocol"].split("; ") for row in source.accuracy if row["attack"] not in (CLEAN, WORST)
    }
    shared = [part for part in next(iter(parts.values()), []) if all(part in other for other in parts.values())]
    own = {attack: [part for part in texts if part not in shared] for attack, texts in parts.items()}
    rows = {row["set"]: row for row in source.accuracy}
    body = []
    for name, row in rows.items():
        groups = [group for group, sets in source.study["groups"].items() if name in sets and group != "all"]
        classes = source.study.get("classes", {}).get(name, "")
        body.append(
            [
                Cell(name),
                Cell(row["n"], sort=float(row["n"]), classes="number"),
                Cell(str(classes), sort=float(classes or 0), classes="number"),
                Cell(", ".join(groups).replace("_", " ")),
                Cell(row["ids"]),
            ]
        )
    columns = ["attack", "eps", "steps and start"]
    table = Table(
        columns,
        [[Cell(a), Cell(str(source.study["attacks"][a])), Cell("; ".join(own[a]), classes="text")] for a in own],
    )
    sets = Table(["set", "test images", "classes", "groups", "digest of image numbers"], body)
    return {"shared": shared, "attacks": table, "sets": sets, "seeds": distinct(source.accuracy, "seed")}


def audit(source: Source) -> dict[str, Any]:
    """The tables of the audit."""
    columns = ["method", "attack", "set", "mark", "reason"]
    checks = [
        [
            Cell(row["check"].replace("_", " ")),
            Cell(row["rule"], classes="text"),
            *(Cell(row[k], sort=float(row[k]), classes="number") for k in ("cells", "marked")),
        ]
        for row in source.checks
    ]
    marks = [
        [
            method_cell(row["method"], source),
            *(
                Cell(
                    row[key].replace("_", " ") if key == "mark" else row[key], classes="text" if key == "reason" else ""
                )
                for key in columns[1:]
            ),
        ]
        for row in source.marks
    ]
    return {
        "marks": Table(columns, marks) if marks else None,
        "checks": Table(["check", "what it looks for", "cells", "marked"], checks),
    }


def attention(source: Source) -> dict[str, dict[str, Any]]:
    """Set -> the figure of its attention maps, as a data URI, and the table of what was measured."""
    columns = {
        "shift_attack": "moves under attack",
        "shift_noise": "moves under noise",
        "peak_on_object": "peak on object, %",
        "object_share": "by chance, %",
    }
    result = {}
    for name, (figure, rows) in source.attention.items():
        body = []
        for row in rows:
            values = [float(row[key]) * (1 if key.startswith("shift") else 100) for key in columns]
            texts = [f"{value:.2f}" if i < 2 else f"{value:.0f}" for i, value in enumerate(values)]
            cells = [Cell(text, sort=value, classes="number") for text, value in zip(texts, values)]
            body.append([method_cell(row["method"], source), *cells])
        uri = f"data:image/png;base64,{base64.b64encode(figure).decode()}"
        result[name] = {"figure": uri, "table": Table(["method", *columns.values()], body)}
    return result


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def page(source: Source, script: str) -> str:
    """The text of the page. script: the JavaScript of Vega-Lite and Vega-Embed."""
    assert "</script" not in script
    averages, group, looks = source.averages, source.leading, source.styles
    ranked = sorted(averages, key=lambda row: source.ranked.index(row["method"]))
    return _template().render(
        source=source,
        script=script,
        looks=[charts.look(method, looks) for method in source.study["methods"]],
        headline=headline(source),
        trade_offs={
            name: [charts.trade_off(averages, group, attack, looks, size) for attack in source.attacked]
            for name, size in charts.SIZES.items()
        },
        per_set=per_set(source),
        attacks=charts.attacks(ranked, group, looks) if len(source.attacked) > 1 else None,
        attack_looks=charts.attack_looks(source.attacked),
        attack_differences=attack_differences(source),
        eps_charts=eps_charts(source),
        attention=attention(source),
        quirks=quirks(source),
        rates=rate_charts(source),
        differences=differences(source),
        likeness=likeness(source),
        defended=defended(source),
        conditions=defences.CONDITIONS.values(),
        orderings=counts_of_orderings(source),
        ordering_charts=ordering_charts(source),
        ordering_rows=plain(source.orderings, ["attack", "first", "second", "paper", "ours", "here"]),
        audit=audit(source),
        protocol=protocol(source),
    )
