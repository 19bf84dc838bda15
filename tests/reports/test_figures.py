import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text

from zsr.evaluation.results import wilson
from zsr.reports import figures
from zsr.reports.style import styles


def averages(*attacks):
    head = {"group": "all", "mean": "50.0", "low": "47.5", "high": "52.0", "sd": ""}
    return [head | {"method": method, "attack": attack} for method in ("clip", "tecoa") for attack in attacks]


def cells(*attacks):
    head = {"accuracy": "50.0", "low": "40.1", "high": "60.2"}
    keys = [(m, a, s) for m in ("clip", "tecoa") for a in attacks for s in ("shapes", "letters")]
    return [head | {"method": m, "attack": a, "set": s} for m, a, s in keys]


CURVE = [{"step": str(i), "lr": "0.1", "loss": "2", "ce": "1", "pull": "1"} for i in range(3)]
MAPS, IMAGES = np.ones((2, 6, 6)), np.zeros((2, 24, 24, 3))
OF_SEEDS = [row | {"seed": str(i), "accuracy": str(40 + i)} for row in cells("clean", "pgd") for i in range(3)]
SWEEP = [
    {"method": m, "set": s, "eps": f"{e}/255", "n": "10", "correct": str(9 - e)}
    for m in ("clip", "tecoa")
    for s in ("a", "b")
    for e in (0, 1, 8)
]
KINDS = [(method, kind) for method in ("clip", "tecoa", "tga_zsr") for kind in ("clean", "attacked")]
LOOKS = {("", "image"): (IMAGES, None), **{head: (IMAGES, MAPS) for head in KINDS}}
NOTE = ("title", "note")
DRAWINGS = {
    "trade_off": lambda path: figures.trade_off(path, averages("clean", "pgd"), "all", *NOTE),
    "trade_off of no attack": lambda path: figures.trade_off(path, averages("clean"), "all", *NOTE),
    "of_rows": lambda path: figures.of_rows(path, averages("clean", "pgd"), "all", *NOTE),
    "per_set of seeds": lambda path: figures.per_set(path, OF_SEEDS, *NOTE),
    "training": lambda path: figures.training(path, {"clip": [], "tecoa": CURVE}, *NOTE),
    "training of nothing": lambda path: figures.training(path, {"clip": []}, *NOTE),
    "eps_sweep": lambda path: figures.eps_sweep(path, SWEEP, {"training": "8/255", "the tables": "1/255"}, *NOTE),
    "attention": lambda path: figures.attention(path, LOOKS, *NOTE),
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written."""
    written = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: written.append(figure))
    return written


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_drawn_at_the_size_that_pages_show(tmp_path, monkeypatch, name):
    monkeypatch.setattr(figures, "DPI", 50)
    DRAWINGS[name](tmp_path / "folder" / "a.png")
    assert plt.imread(tmp_path / "folder" / "a.png").shape[1] == 420
    assert name == "attention" or (tmp_path / "folder" / "a.svg").stat().st_size > 1000


def test_a_figure_is_the_same_bytes_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 50)
    for name in "ab":
        DRAWINGS["trade_off"](tmp_path / f"{name}.png")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


@pytest.mark.parametrize(
    "draw, rows",
    [
        (lambda path, rows: figures.trade_off(path, rows, "all", *NOTE), averages("clean", "pgd")),
        (lambda path, rows: figures.of_rows(path, rows, "all", *NOTE), averages("clean", "pgd")),
        (lambda path, rows: figures.per_set(path, rows, *NOTE), cells("clean", "pgd")),
    ],
)
def test_a_marked_number_is_hollow_and_a_note_says_so(tmp_path, drawn, draw, rows):
    rows = [row | {"accuracy": str(40 + i), "mean": str(40 + i)} for i, row in enumerate(rows)]  # none coincide
    draw(tmp_path, [row | {"marks": ""} for row in rows])
    draw(tmp_path, [row | {"marks": "underflow" if i == len(rows) - 1 else ""} for i, row in enumerate(rows)])
    counts = []
    for figure in drawn:
        hollow = sum(line.get_markerfacecolor() == "none" for axis in figure.axes for line in axis.lines)
        counts.append((hollow, figure._supxlabel.get_text().count("Hollow")))
    assert counts == [(0, 0), (1, 1)]


@pytest.mark.parametrize("sd, bounds", [("", (47.5, 52.0)), ("4.0", (46.0, 54.0))])
def test_a_bar_is_the_interval_of_one_seed_or_the_deviation_over_several(tmp_path, drawn, sd, bounds):
    one = [row | {"sd": sd} for row in averages("clean", "pgd") if row["method"] == "clip"]
    figures.trade_off(tmp_path, one, "all", *NOTE)
    cell = {"method": "m", "attack": "pgd", "set": "a", "accuracy": "50.0", "low": "47.5", "high": "52.0"}
    seeds = [cell | {"attack": attack} for attack in ("clean", "pgd")]
    if sd:
        seeds = [row | {"accuracy": str(value)} for row in seeds for value in (46, 50, 54)]
    figures.per_set(tmp_path, seeds, *NOTE)
    point, row = ([s.tolist() for c in f.axes[0].collections for s in c.get_segments()] for f in drawn)
    assert point == [[[bounds[0], 50], [bounds[1], 50]], [[50, bounds[0]], [50, bounds[1]]]]
    assert row == [[[bounds[0], 0], [bounds[1], 0]]] * 2


def test_the_maps_of_a_method_stand_side_by_side_below_its_name_and_lie_over_the_images(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    maps = {head: np.full((2, 6, 6), i / 10) for i, head in enumerate(KINDS)}
    images = {head: np.full((2, 24, 24, 3), i / 20) for i, head in enumerate(KINDS)}
    figures.attention(tmp_path / "a.png", {**LOOKS, **{head: (images[head], maps[head]) for head in KINDS}}, *NOTE)
    drawn = [axis for axis in kept[0].axes if axis.images]
    rows = [drawn[:7], drawn[7:]]
    for row in rows:
        places = [axis.get_position().x0 for axis in row]
        assert places == sorted(places) and np.ptp([axis.get_position().y0 for axis in row]) < 1e-6
        for i, axis in enumerate(row[1:]):
            picture, heat = (image.get_array() for image in axis.images)
            assert np.allclose(picture, i / 20) and np.allclose(heat, i / 10) and axis.images[1].get_alpha() < 1
    names = {text.get_text(): text for axis in kept[0].axes for text in axis.texts if text.get_text()}
    assert list(names) == ["clip", "tecoa", "tga_zsr"]
    for i, text in enumerate(names.values()):
        left, right = (rows[0][1 + 2 * i + j].get_position() for j in (0, 1))
        assert text.xy == pytest.approx(((left.x0 + right.x1) / 2, left.y1))
    assert [axis.get_title().strip() for axis in rows[0]] == ["image", *(kind for _, kind in KINDS)]


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in [*axis.texts, axis.title]]


def test_methods_with_equal_numbers_share_a_label(tmp_path, drawn):
    rows = averages("clean", "pgd")
    figures.trade_off(tmp_path, rows, "all", *NOTE)
    figures.trade_off(tmp_path, [*rows[:-1], rows[-1] | {"mean": "49.9"}], "all", *NOTE)
    assert "clip = tecoa" in texts(drawn[0]) and {"clip", "tecoa"} <= set(texts(drawn[1]))


def test_labels_hide_neither_points_nor_each_other(tmp_path, drawn):
    rows = averages("clean", "pgd")[:2]
    points = [("clean", 50, 50.1, 50, 50.3, 52), ("pgd", 20, 20, 20.1, 20.1, 21)]
    crowd = [
        rows[0] | {"method": f"method_{i}", "attack": a, "mean": str(v)} for a, *vs in points for i, v in enumerate(vs)
    ]
    figures.trade_off(tmp_path, crowd, "all", *NOTE)
    (axis,) = drawn[0].axes
    drawn[0].draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the line to the point
    marks = [axis.transData.transform((float(c), float(r))) for c, r in zip(points[0][1:], points[1][1:])]
    assert len(boxes) == 5 and not any(box.contains(*mark) for box in boxes for mark in marks)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_the_sweep_shows_intervals_and_the_eps_of_training_and_tables(tmp_path, drawn):
    figures.eps_sweep(tmp_path, SWEEP[:6], {"training": "8/255", "the tables": "8/255"}, *NOTE)
    figures.eps_sweep(tmp_path, SWEEP, {"training": "8/255", "the tables": "1/255"}, *NOTE)
    assert texts(drawn[0]) == ["clip"] and {"training", "the tables"} <= set(texts(drawn[1]))  # one line: see the note
    lines = [line.get_xdata()[0] for line in drawn[1].axes[0].lines if line.get_linestyle() == "--"]
    assert lines == pytest.approx([8, 1])
    (bars,) = drawn[0].axes[0].collections
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert all(low < value < high for (low, high), value in zip(ends[:2], (90, 80)))
    low, high = (100 * limit for limit in wilson(0.9, 10))
    assert ends[0] == pytest.approx([90 - (90 - low) / 2**0.5, 90 + (high - 90) / 2**0.5], abs=0.02)  # of two sets


def test_a_row_has_its_colour_of_the_study_in_figures_that_leave_rows_out(tmp_path, drawn):
    row = {"method": "b", "seed": "0", "test_clean": "9", "test_robust": "5"}
    grid = [row | {"lr": lr, "chosen": chosen} for lr, chosen in (("0.1", "1"), ("0.2", "0"))]
    curve = [{"step": "1", **dict.fromkeys(figures.MEASURES, "2")}]
    figures.learning_rates(tmp_path, grid, ["a", "b"], *NOTE)
    figures.effective_rates(tmp_path, {"b": curve}, ["a", "b"], *NOTE)
    colours = {line.get_color() for figure in drawn for line in figure.axes[0].lines if len(line.get_xdata())}
    assert colours == {styles(["a", "b"])["b"].colour} != {styles(["b"])["b"].colour}
