import numpy as np
import pytest

from zsr.reports import figures


def averages(*attacks):
    head = {"group": "all", "mean": "50.0", "low": "47.5", "high": "52.0", "sd": ""}
    return [head | {"method": method, "attack": attack} for method in ("clip", "tecoa") for attack in attacks]


def cells(*attacks):
    head = {"accuracy": "50.0", "low": "40.1", "high": "60.2"}
    keys = [(m, a, s) for m in ("clip", "tecoa") for a in attacks for s in ("shapes", "letters")]
    return [head | {"method": m, "attack": a, "set": s} for m, a, s in keys]


CURVE = [{"step": str(i), "lr": "0.1", "loss": "2", "ce": "1", "pull": "1"} for i in range(3)]
MAPS = np.zeros((2, 6, 6)), np.ones((2, 6, 6))
IMAGES = np.zeros((2, 24, 24, 3)), np.ones((2, 24, 24, 3))
OF_SEEDS = [row | {"seed": str(i), "accuracy": str(40 + i)} for row in cells("clean", "pgd") for i in range(3)]
SWEEP = [
    {"method": m, "set": s, "eps": f"{e}/255", "n": "10", "correct": str(9 - e)}
    for m in ("clip", "tecoa")
    for s in ("a", "b")
    for e in (0, 1, 8)
]
DRAWINGS = {
    "trade_off": lambda path: figures.trade_off(path, averages("clean", "pgd"), "all", "note"),
    "trade_off of no attack": lambda path: figures.trade_off(path, averages("clean"), "all", "note"),
    "per_set": lambda path: figures.per_set(path, cells("clean", "pgd"), "note"),
    "per_set of seeds": lambda path: figures.per_set(path, OF_SEEDS, "note"),
    "training": lambda path: figures.training(path, {"clip": [], "tecoa": CURVE}, "note"),
    "training of nothing": lambda path: figures.training(path, {"clip": []}, "note"),
    "eps_sweep": lambda path: figures.eps_sweep(path, SWEEP, "note"),
    "attention": lambda path: figures.attention(path, IMAGES, {"clip": MAPS}, {"image": "i", "clip": "c"}, "note"),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_drawn_and_is_the_same_bytes_every_time(tmp_path, name):
    for file in ("a.png", "b.png"):
        DRAWINGS[name](tmp_path / "folder" / file)
    first = (tmp_path / "folder" / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG") and first == (tmp_path / "folder" / "b.png").read_bytes()


@pytest.mark.parametrize(
    "draw, rows",
    [
        (lambda path, rows: figures.trade_off(path, rows, "all", "note"), averages("clean", "pgd")),
        (lambda path, rows: figures.per_set(path, rows, "note"), cells("clean", "pgd")),
    ],
)
def test_a_marked_number_looks_different(tmp_path, monkeypatch, draw, rows):
    """Of one marked row: one hollow point or one hatched bar, and a note that says so."""
    drawn = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    draw(tmp_path, [row | {"marks": ""} for row in rows])
    draw(tmp_path, [row | {"marks": "underflow" if i == len(rows) - 1 else ""} for i, row in enumerate(rows)])
    counts = []
    for figure in drawn:
        hatched = sum(patch.get_hatch() is not None for axis in figure.axes for patch in axis.patches)
        hollow = sum(line.get_markerfacecolor() == "none" for axis in figure.axes for line in axis.lines)
        texts = [text.get_text() for text in [figure._suptitle, *(axis.title for axis in figure.axes)] if text]
        counts.append((hatched + hollow, sum("marked by the audit" in text for text in texts)))
    assert counts[0] == (0, 0) and counts[1] == (1, 1)


@pytest.mark.parametrize("sd, bounds", [("", (47.5, 52.0)), ("4.0", (46.0, 54.0))])
def test_a_bar_is_the_interval_of_one_seed_or_the_deviation_over_several(tmp_path, monkeypatch, sd, bounds):
    drawn = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    figures.trade_off(tmp_path, [row | {"sd": sd} for row in averages("clean", "pgd")], "all", "note")
    cell = {"method": "m", "attack": "pgd", "set": "a", "accuracy": "50.0", "low": "47.5", "high": "52.0"}
    seeds = [cell] if sd == "" else [cell | {"accuracy": str(value)} for value in (46, 50, 54)]
    figures.per_set(tmp_path, seeds, "note")
    bars = [line for figure in drawn for line in figure.axes[0].collections]
    segments = [segment.tolist() for line in bars for segment in line.get_segments()]
    across = [[[bounds[0], 50], [bounds[1], 50]], [[50, bounds[0]], [50, bounds[1]]]]
    assert segments[:4] == across * 2  # clean and robust accuracy of both methods
    assert [[y for _, y in segment] for segment in segments[4:]] == [list(bounds)]
