"""Places for the labels of points and lines, so that no label hides a point or another label. Matplotlib only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

SIZE = 8.5  # points, the size of a label
GAP = 1.45  # distance between the baselines of two labels, in sizes
MARK = 5  # points, half the side of a marker
RADII = (5, 9, 16, 26, 38, 52, 68, 86, 106)  # points, from the labelled point to the label
ANGLES = np.linspace(0, 2 * math.pi, 16, endpoint=False)
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
LEADER = {"arrowstyle": "-", "lw": 0.6, "color": "0.45", "shrinkA": 0, "shrinkB": 2}
DISTANT = 14  # points; a label that is further away has a line to its point


class Label(NamedTuple):
    """A point that needs a label.

    Attributes:
        x, y: the point, in the numbers of the axes.
        text: the label.
    """

    x: float
    y: float
    text: str


def at_points(axis: Axes, labels: Sequence[Label], bars: Sequence[Sequence[tuple[float, float]]] = ()) -> None:
    """Write a label beside each point, where it hides no point and no other label, and crosses few bars.

    The axes must have their final place in the figure. bars: lines of the drawing, each as its two ends.
    """
    figure = axis.get_figure(root=True)
    if not labels or figure is None:
        return
    type_size, to_pixels = 72 / figure.dpi, axis.transData.transform  # from here on, places are in points of type
    points = np.array([to_pixels((label.x, label.y)) for label in labels]) * type_size
    ends = np.reshape([to_pixels(end) for bar in bars for end in bar], (-1, 2, 2)) * type_size
    spots = (ends[:, :1] + np.linspace(0, 1, 25)[:, None] * (ends[:, 1:] - ends[:, :1])).reshape(-1, 2)
    marks = np.hstack([points - MARK, points + MARK])
    inside = np.array(axis.get_window_extent().extents) * type_size
    placed = np.empty((0, 4))
    for label, point in zip(labels, points):
        half = np.array([0.33 * len(label.text) + 0.2, 0.65]) * SIZE
        middles = point + DIRECTIONS * (np.array(RADII)[:, None, None] + half)  # radii, angles, 2
        places = [np.hstack([middle - half, middle + half]) for middle in middles.reshape(-1, 2)]
        box = min(places, key=lambda box: _cost(box, point, placed, marks, spots, inside))
        placed = np.vstack([placed, box])
        where = {"xytext": (box[:2] + box[2:]) / 2 - point, "textcoords": "offset points", "fontsize": SIZE}
        leader = LEADER if _distance(box, point) > DISTANT or _nearer(box, point, marks) else None
        text = axis.annotate(label.text, (label.x, label.y), arrowprops=leader, ha="center", va="center", **where)
        text.set(zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")])


def _cost(box, point, placed, marks, spots, inside) -> float:
    """How bad a place is: what the box hides, what the line to the point crosses, and the distance.

    box, inside: low x, low y, high x, high y. placed, marks: such boxes, (n, 4). spots: (n, 2) points of the bars.
    """
    distance, others = _distance(box, point), np.vstack([placed, marks])
    hidden = ((box[:2] < others[:, 2:]) & (others[:, :2] < box[2:])).all(axis=1).sum()
    outside = (box[:2] < inside[:2]).any() or (box[2:] > inside[2:]).any()
    crossed = 0
    if distance > DISTANT:
        leader = np.linspace(point, (box[:2] + box[2:]) / 2, 30)[:, None]
        away = (np.abs(leader - point) > MARK).any(axis=2)  # beside the point lies its own mark, and may lie others
        crossed = (((others[:, :2] < leader) & (leader < others[:, 2:])).all(axis=2) & away).any(axis=0).sum()
    struck = ((box[:2] < spots) & (spots < box[2:])).all(axis=1).sum()
    return 1000 * (hidden + 2 * outside) + 200 * crossed + 80 * _nearer(box, point, marks) + 30 * struck + distance


def _nearer(box, point, marks) -> int:
    """The number of other points that the label may seem to belong to."""
    limit = 1.5 * _distance(box, point)
    return sum(_distance(box, middle) < limit for middle in (marks[:, :2] + marks[:, 2:]) / 2) - (limit > 0)


def _distance(box, point) -> float:
    """The way from a point to the nearest edge of a box."""
    return math.hypot(*np.maximum(np.maximum(box[:2] - point, point - box[2:]), 0))


def at_ends(axis: Axes, labels: Sequence[Label], room: float = 0.3) -> None:
    """Write the labels of lines in a column right of the ends of the lines, which the axes grow to hold.

    The axes must have their final place in the figure.

    labels: the last point of each line. room: the width of the column, as a share of the axes' present width.
    """
    figure = axis.get_figure(root=True)
    if not labels or figure is None:
        return
    forward, back = axis.transScale.transform, axis.transScale.inverted().transform
    (low, _), (high, _) = (forward((x, labels[0].y)) for x in axis.get_xlim())
    low_y, high_y = axis.get_ylim()
    axis.set_xlim(right=back((high + room * (high - low), 1))[0])
    column = back((high + 0.04 * (high - low), 1))[0]
    gap = GAP * SIZE * figure.dpi / 72
    inside = axis.get_window_extent()
    order = sorted(labels, key=lambda label: label.y)
    heights = [axis.transData.transform((label.x, label.y))[1] for label in order]
    for label, height in zip(order, _spread(heights, gap, inside.y0 + gap / 2, inside.y1 - gap / 2)):
        y = axis.transData.inverted().transform((inside.x0, height))[1]
        axis.annotate(
            label.text, (label.x, label.y), (column, y), va="center", ha="left", fontsize=SIZE,
            arrowprops=LEADER | {"relpos": (0, 0.5)}, annotation_clip=False,
        )  # fmt: skip
    axis.set_ylim(low_y, high_y)


def _spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the given ones, which ascend, at least `gap` apart and between low and high if there is room."""
    result: list[float] = []
    for height in heights:
        result.append(max(height, result[-1] + gap if result else low))
    ceiling = high
    for i in range(len(result) - 1, -1, -1):
        result[i] = min(result[i], ceiling)
        ceiling = result[i] - gap
    return result
