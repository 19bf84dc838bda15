"""The charts of the report: Vega-Lite specifications as plain dicts. Every number comes from rows of metrics.

Vega-Lite lets labels overlap, so `place` finds a free place for each label before the chart is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from zsr.evaluation.results import CLEAN
from zsr.files import distinct
from zsr.reports.style import Style, label

Row = Mapping[str, str]
Rows = Sequence[Row]
Styles = Mapping[str, Style]
Point = tuple[float, float]
SIZES = {"narrow": (306, 290), "wide": (520, 400)}  # pixels of a plot; with its axes it fits a telephone, a desk
CONFIG = {
    "font": "system-ui, sans-serif",
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": "#e8e8e8",
        "domainColor": "#888",
        "tickColor": "#888",
    },
    "title": {"fontSize": 13, "anchor": "start", "fontWeight": 600},
    "view": {"stroke": None},
}
COLOUR = {"field": "colour", "type": "nominal", "scale": None}  # points carry the colour itself
SHAPE = {"field": "shape", "type": "nominal", "scale": None}
VERDICTS = {"appears": ("#0072b2", "o"), "reversed": ("#d55e00", "X"), "undecided": ("#8a8a8a", "s")}


def _polygon(*corners: Point) -> str:
    return "M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in corners) + "Z"


def _regular(n: int, turn: float = 0.0, inner: float = 1.0) -> str:
    """The path of a polygon of n corners on a circle; with an inner radius a star of n / 2 points."""
    angles = [2 * math.pi * i / n - math.pi / 2 + turn for i in range(n)]
    radii = [0.95 * (inner if i % 2 else 1.0) for i in range(n)]
    return _polygon(*((radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles)))


def _cross(turn: float) -> str:
    """The path of a thick plus sign, turned by an angle."""
    a, b = 0.95, 0.33
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    cos, sin = math.cos(turn), math.sin(turn)
    return _polygon(*((x * cos - y * sin, x * sin + y * cos) for x, y in corners))


SHAPES = {  # marker in matplotlib's notation -> path between -1 and 1, for Vega and for SVG
    "o": "M0.8,0A0.8,0.8,0,1,1,-0.8,0A0.8,0.8,0,1,1,0.8,0Z",
    "s": _regular(4, math.pi / 4),
    "D": _regular(4),
    "d": _polygon((0, -1), (0.55, 0), (0, 1), (-0.55, 0)),
    "^": _regular(3),
    "v": _regular(3, math.pi),
    ">": _regular(3, math.pi / 2),
    "<": _regular(3, -math.pi / 2),
    "p": _regular(5),
    "h": _regular(6),
    "H": _regular(6, math.pi / 6),
    "8": _regular(8, math.pi / 8),
    "*": _regular(10, inner=0.45),
    "P": _cross(0),
    "X": _cross(math.pi / 4),
}


# Labels


class Box(NamedTuple):
    """A rectangle, in pixels.

    Attributes:
        left: the left end.
        low: the lower end.
        right: the right end.
        high: the upper end.
    """

    left: float
    low: float
    right: float
    high: float

    def meets(self, other: "Box") -> bool:
        """Do the two rectangles share a point?"""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high

    @classmethod
    def around(cls, x: float, y: float, half_width: float, half_height: float) -> "Box":
        """The rectangle with a centre and half-sides."""
        return cls(x - half_width, y - half_height, x + half_width, y + half_height)


class Place(NamedTuple):
    """Where a label stands, in pixels.

    Attributes:
        x: the centre of the label.
        y: the centre of the label.
        end: the end of the line from the point to the label; None: the label stands at its point, without a line.
    """

    x: float
    y: float
    end: Point | None


CHARACTER, LINE = 6.1, 14.0  # width and height of a character of a label, in pixels
GAPS = (8, 13, 18, 24, 31, 39, 48, 58, 69, 82, 97, 114)  # distances of a label from its point
TURNS = 32  # directions that are tried
CROWD = 40  # points within this distance are neighbours; the point with the most neighbours is labelled first
NEAR = 9  # a label that is farther away has a line to its point


def place(points: Sequence[Point], texts: Sequence[str], size: Point) -> list[Place | None]:
    """A place for each label where it meets no point, no other label and no line; None where there is none.

    points: in pixels, y upwards. size: width and height of the plot.
    """
    if not points:
        return []
    middle = fmean(x for x, _ in points), fmean(y for _, y in points)
    marks = [Box.around(x, y, 5, 5) for x, y in points]
    taken: list[Box] = []
    places: list[Place | None] = [None] * len(points)
    for i in sorted(range(len(points)), key=lambda i: -sum(math.dist(points[i], point) < CROWD for point in points)):
        outward = math.atan2(points[i][1] - middle[1], points[i][0] - middle[0])
        options = sorted(
            (gap + 9 * (1 - math.cos(angle - outward)), gap, angle)
            for gap in GAPS
            for angle in (2 * math.pi * turn / TURNS for turn in range(TURNS))
        )
        others = [*marks[:i], *marks[i + 1 :]]
        tried = (
            _placed(points[i], texts[i], gap, angle, others, taken, size, crossing)
            for crossing in (False, True)  # lines cross only where there is no other way
            for _, gap, angle in options
        )
        found = next((label for label in tried if label), None)
        if found:
            places[i], covered = found
            taken += covered
    return places


def _placed(
    point: Point,
    text: str,
    gap: float,
    angle: float,
    marks: Sequence[Box],
    taken: Sequence[Box],
    size: Point,
    crossing: bool,
) -> tuple[Place, list[Box]] | None:
    """A label in a direction from its point, with what it covers; None where it would meet something.

    marks: those of the other points. A label without a line must be nearer to its own point than to these. crossing:
    may the line cross others?
    """
    half_width, half_height = CHARACTER * len(text) / 2 + 1, LINE / 2
    x = point[0] + math.cos(angle) * (gap + half_width)
    y = point[1] + math.sin(angle) * (gap + half_height)
    box = Box.around(x, y, half_width, half_height)
    if box.left < 0 or box.low < 0 or box.right > size[0] or box.high > size[1] or any(map(box.meets, taken)):
        return None
    end = min(max(point[0], box.left), box.right), min(max(point[1], box.low), box.high)
    length = math.dist(point, end)
    room = 0 if length > NEAR else length
    if any(map(Box.around(x, y, half_width + room, half_height + room).meets, marks)):
        return None
    line = _along(point, end) if length > NEAR else []
    if not crossing and any(part.meets(other) for part in line for other in (*taken, *marks)):
        return None
    return Place(x, y, end if length > NEAR else None), [box, *line]


def _along(point: Point, end: Point) -> list[Box]:
    """Small boxes along the line from the rim of a point's marker to a label."""
    (x, y), length = point, math.dist(point, end)
    shares = [(6 + 3 * i) / length for i in range(math.ceil(max(length - 6, 0) / 3))]
    return [Box.around(x + (end[0] - x) * share, y + (end[1] - y) * share, 1.5, 1.5) for share in shares]


# Charts


def spans(row: Row) -> Point:
    """The ends of the bar of a mean: one standard deviation over seeds, or the 95 % interval of one seed."""
    mean = float(row["mean"])
    if row["sd"] != "":
        return mean - float(row["sd"]), mean + float(row["sd"])
    return float(row["low"]), float(row["high"])


def number(row: Row) -> str:
    """The text of a mean with its standard deviation or interval."""
    low, high = spans(row)
    mean = float(row["mean"])
    return f"{mean:.1f} ± {float(row['sd']):.1f}" if row["sd"] != "" else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def look(method: str, styles: Styles) -> dict[str, str]:
    """The colour and the path of a method's marker."""
    return {"method": method, "colour": styles[method].colour, "shape": SHAPES[styles[method].marker]}


@dataclass(frozen=True)
class Axis:
    """The linear axis of a plot.

    Attributes:
        low: the value at its start.
        high: the value at its end.
        pixels: its length.
    """

    low: float
    high: float
    pixels: float

    @classmethod
    def of(cls, values: Sequence[float], pixels: float) -> "Axis":
        """The axis of percentages that shows all values, with room for labels around."""
        room = 0.14 * max(max(values) - min(values), 4.0)
        return cls(max(min(values) - room, min(0.0, *values) - 1), min(max(values) + room, 101.0), pixels)

    def pixel(self, value: float) -> float:
        """The pixel of a value."""
        return (value - self.low) / (self.high - self.low) * self.pixels

    def value(self, pixel: float) -> float:
        """The value of a pixel."""
        return round(self.low + pixel / self.pixels * (self.high - self.low), 3)

    @property
    def domain(self) -> list[float]:
        """The ends, for a scale of Vega-Lite."""
        return [round(self.low, 3), round(self.high, 3)]


def trade_off(averages: Rows, group: str, attack: str, styles: Styles, size: tuple[int, int]) -> dict:
    """Accuracy under an attack against accuracy without, mean over a group of sets: points with bars and labels.

    size: width and height of the plot in pixels, which the places of labels hold for.
    """
    rows = {(row["method"], row["attack"]): row for row in averages if row["group"] == group}
    points = [_point(rows[method, CLEAN], rows[method, attack], styles) for method in distinct(averages, "method")]
    ends = [[value for point in points for value in (point[f"{axis}_low"], point[f"{axis}_high"])] for axis in "xy"]
    across, up = Axis.of(ends[0], size[0]), Axis.of(ends[1], size[1])
    _add_labels(points, across, up)
    ticks = {"tickCount": 7, "labelExpr": "datum.value < 0 || datum.value > 100 ? '' : datum.label"}
    titles = {"x": "accuracy without an attack, %", "y": f"accuracy under {attack}, %"}
    x, y = (
        _number(name, titles[name], axis=ticks, scale={"domain": axis.domain, "nice": False})
        for name, axis in (("x", across), ("y", up))
    )
    fill = {"condition": {"test": "datum.audit != ''", "value": "white"}} | COLOUR
    tooltip = [{"field": field} for field in ("method", "clean", "attacked", "audit")]
    looks = {"stroke": COLOUR, "fill": fill, "shape": SHAPE, "tooltip": tooltip}
    label_at = {"x": x | {"field": "label_x"}, "y": y | {"field": "label_y"}, "text": {"field": "label"}}
    line = {"x": x, "y": y, "x2": {"field": "end_x"}, "y2": {"field": "end_y"}}
    layers = [
        _layer("rule", line, color="#777") | {"transform": [{"filter": "isValid(datum.end_x)"}]},
        _layer("rule", {"x": x | {"field": "x_low"}, "x2": {"field": "x_high"}, "y": y, "color": COLOUR}, opacity=0.5),
        _layer("rule", {"x": x, "y": y | {"field": "y_low"}, "y2": {"field": "y_high"}, "color": COLOUR}, opacity=0.5),
        _layer("point", {"x": x, "y": y} | looks, size=110, strokeWidth=1.5, opacity=1),
        _layer("text", label_at, fontSize=11, stroke="white", strokeWidth=3),
        _layer("text", label_at, fontSize=11, color="#222"),
    ]
    return _chart(attack, points, layers, size[0], size[1])


def _point(clean: Row, attacked: Row, styles: Styles) -> dict[str, Any]:
    (x_low, x_high), (y_low, y_high) = spans(clean), spans(attacked)
    marks = dict.fromkeys(f"{clean.get('marks', '')} {attacked.get('marks', '')}".split())
    return look(clean["method"], styles) | {
        "x": float(clean["mean"]),
        "y": float(attacked["mean"]),
        "x_low": x_low,
        "x_high": x_high,
        "y_low": y_low,
        "y_high": y_high,
        "clean": number(clean),
        "attacked": number(attacked),
        "audit": ", ".join(marks),
    }


def _add_labels(points: Sequence[dict], across: Axis, up: Axis) -> None:
    """Give points a label and its place. Of points at one place, the first has the names of all."""
    at: dict[Point, list[dict]] = {}
    for point in points:
        at.setdefault((point["x"], point["y"]), []).append(point)
    pixels = [(across.pixel(x), up.pixel(y)) for x, y in at]
    texts = [label(*(point["method"] for point in same)) for same in at.values()]
    for same, text, found in zip(at.values(), texts, place(pixels, texts, (across.pixels, up.pixels))):
        if found:
            same[0].update(label=text, label_x=across.value(found.x), label_y=up.value(found.y))
            if found.end:
                same[0].update(end_x=across.value(found.end[0]), end_y=up.value(found.end[1]))


def lines(rows: Sequence[Mapping], styles: Styles, x: str, y: str, log: bool = False, rule: Row | None = None) -> dict:
    """Lines of accuracy against a number, one for each method. The pointer on a point brings out its method.

    Args:
        rows: {method, x, y, at, text}; "low" and "high" where a point has a bar; "chosen": false where it is hollow.
        styles: the looks of methods.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        log: is the horizontal axis logarithmic?
        rule: {x, text} of an upright line.
    """
    across = _number("x", x, axis={"tickCount": 7}, scale={"type": "log" if log else "linear"})
    up = _number("y", y)
    opacity = {"condition": {"param": "method", "value": 1}, "value": 0.15}
    tooltip = [{"field": field, "title": title} for field, title in (("method", "method"), ("at", "at"), ("text", "%"))]
    fill = {"condition": {"test": "datum.chosen === false", "value": "white"}} | COLOUR
    looks = {"stroke": COLOUR, "fill": fill, "shape": SHAPE, "opacity": opacity, "tooltip": tooltip}
    bar = {"x": across, "y": up | {"field": "low"}, "y2": {"field": "high"}, "color": COLOUR}
    path = {"x": across, "y": up, "color": COLOUR, "detail": {"field": "method"}, "opacity": opacity}
    pointed = {"type": "point", "fields": ["method"], "on": "pointerover", "clear": "pointerout"}
    layers = [
        _layer("rule", bar, opacity=0.5) | {"transform": [{"filter": "isValid(datum.low)"}]},
        _layer("line", path, strokeWidth=1.5),
        _layer("point", {"x": across, "y": up} | looks, size=70) | {"params": [{"name": "method", "select": pointed}]},
    ]
    if rule:
        data, text = {"data": {"values": [rule]}}, {"x": across, "text": {"field": "text"}}
        layers += [
            _layer("rule", {"x": across}, strokeDash=[5, 4], color="#444") | data,
            _layer("text", text, align="left", dx=4, y=8, fontSize=12, color="#444") | data,
        ]
    return _chart(None, [dict(row) | look(row["method"], styles) for row in rows], layers, "container", 330)


def levels(eps: str) -> float:
    """The number of grey levels of an eps such as "13/255"."""
    top, _, bottom = eps.partition("/")
    return round(255 * float(top) / float(bottom or 1), 4)


def attack_looks(names: Sequence[str]) -> list[dict[str, str]]:
    """The marker of each attack, as `look` has it for methods."""
    return [{"method": name, "shape": SHAPES["o^sDvPpX*"[i % 9]]} for i, name in enumerate(names)]


def attacks(averages: Rows, group: str, styles: Styles) -> dict:
    """Accuracy under each attack, mean over a group: one line of marks for each method, one kind of mark an attack."""
    names = [name for name in distinct(averages, "attack") if name != CLEAN]
    kinds = {kind["method"]: kind["shape"] for kind in attack_looks(names)}
    points = [
        look(row["method"], styles)
        | {"attack": row["attack"], "shape": kinds[row["attack"]], "x": float(row["mean"]), "text": number(row)}
        | {"audit": ", ".join(row.get("marks", "").split())}
        for row in averages
        if row["group"] == group and row["attack"] in kinds
    ]
    y = {"field": "method", "type": "nominal", "sort": None, "title": None, "axis": {"grid": True, "labelLimit": 200}}
    x = _number("x", "accuracy, %", axis={"tickCount": 7})
    tooltip = [{"field": "method"}, {"field": "attack"}, {"field": "text", "title": "%"}, {"field": "audit"}]
    ends = {"x": x | {"aggregate": "min"}, "x2": {"aggregate": "max", "field": "x"}, "y": y, "color": COLOUR}
    looks = {"x": x, "y": y, "color": COLOUR, "shape": SHAPE, "tooltip": tooltip}
    layers = [
        _layer("rule", ends, strokeWidth=2, opacity=0.4),
        _layer("point", looks, size=80, strokeWidth=1.5, opacity=1),
    ]
    return _chart(None, points, layers, "container", {"step": 24})


def orderings(rows: Sequence[Mapping], title: str) -> dict:
    """Our difference of two methods against the paper's, one point a pair. The paper's is positive.

    rows: {pair, paper, ours, low, high, text, here}.
    """
    looks = {verdict: {"colour": colour, "shape": SHAPES[marker]} for verdict, (colour, marker) in VERDICTS.items()}
    x = _number("paper", "difference in the paper, points", axis={"tickCount": 5})
    y = _number("ours", "difference here, points")
    tooltip = [{"field": field} for field in ("pair", "paper", "here")] + [{"field": "text", "title": "ours"}]
    bar = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": COLOUR}
    layers = [
        _layer("rule", {"y": {"datum": 0}}, color="#444") | {"data": {"values": [{}]}},
        _layer("rule", bar, opacity=0.4),
        _layer("point", {"x": x, "y": y, "color": COLOUR, "shape": SHAPE, "tooltip": tooltip}, filled=True, opacity=1),
    ]
    return _chart(title, [dict(row) | looks[row["here"]] for row in rows], layers, SIZES["narrow"][0], 220)


def _number(name: str, title: str, **more: Any) -> dict:
    return {"field": name, "type": "quantitative", "title": title} | more


def _layer(mark: str, encoding: dict, **style: Any) -> dict:
    return {"mark": {"type": mark} | style, "encoding": encoding}


def _chart(
    title: str | None, points: Sequence[Mapping], layers: Sequence[dict], width: int | str, height: int | dict
) -> dict:
    fit = {"autosize": {"type": "fit-x", "contains": "padding"}} if width == "container" else {}
    plot = {"width": width, "height": height, "data": {"values": points}, "layer": layers}
    return {"title": title, "config": CONFIG, "background": None} | fit | plot
