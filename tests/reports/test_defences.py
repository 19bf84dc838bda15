"""The table, the figure, the section and the leaderboard rows of defences at test time, from rows of real records."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.reports.test_report import parsed
from zsr import files
from zsr.evaluation.defence_records import DefenceRecord
from zsr.evaluation.defence_records import rows as rows_of
from zsr.evaluation.records import Mark
from zsr.evaluation.results import Sample, average, wilson
from zsr.reports import defences, figures, leaderboard, reading

PROTOCOL = "TTC (eps 0.05); oblivious: PGD l-inf, eps 13/255, 10 iterations; prompt 'this is {}'; acts at 32 px"


def counts(right: int, of: int = 20) -> np.ndarray:
    return np.arange(of) < right


def record(defence: str, tower: str, set_name: str, clean: int, oblivious: int, adaptive: int, **more) -> DefenceRecord:
    """A record of 20 images; the images that count under an attack are the last ones of those that are right."""
    columns = {"clean": counts(clean), "oblivious": counts(oblivious), "adaptive": counts(adaptive)}
    facts = {"defence": defence, "method": tower, "set_name": set_name, "seed": 0, "fingerprint": "f"}
    facts |= {"attacks": ("pgd",), "adaptive_attacks": ("pgd/as_is", "square/as_is"), "ids": range(20)}
    facts |= {"undefended_clean": counts(18), "undefended": counts(1), "protocol": PROTOCOL}
    return DefenceRecord(**facts | columns | {"passes": {"clean": (60, 40), "adaptive": (0, 2000)}} | more)


def rows() -> list[dict[str, str]]:
    mark = {"marks": (Mark("zero_gradient", "the gradient vanishes at 8 of 8 images"),)}
    numbers = {"statistics": {"r": {"clean": [0.1] * 20, "oblivious": [0.3] * 20, "adaptive": [0.25] * 20}}}
    records = {
        "still_clip": [
            record("still_clip", "clip", "a", 18, 17, 15, **mark),
            record("still_clip", "clip", "b", 16, 15, 14),
        ],
        "ttc_clip": [
            record("ttc_clip", "clip", one, 16, 12, n, violates=("deterministic", "no_inner_loop"), **numbers)
            for one, n in (("a", 6), ("b", 4))
        ],
        "ttc_tecoa": [record("ttc_tecoa", "tecoa", one, 14, 11, 10) for one in "ab"],
        "weak_tecoa": [record("weak_tecoa", "tecoa", one, 14, 11, 1) for one in "ab"],
    }
    return [
        {key: str(value) for key, value in row.items()}
        for of_defence in records.values()
        for row in rows_of(of_defence)
    ]


@pytest.fixture
def written(tmp_path) -> str:
    defences.table(tmp_path, rows(), "Defences, a study")
    return (tmp_path / "defences.md").read_text().replace("\N{NO-BREAK SPACE}", " ")


def cells(text: str, part: str) -> list[list[str]]:
    lines = text.partition(f"**{part}")[2].lstrip("\n").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = lines[start : next(i for i, line in enumerate(lines[start:], start) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_defences_stand_in_the_order_of_their_worst_case_and_the_best_that_is_trusted_is_bold(written):
    header, _, *body = cells(written, "mean over 2 sets")
    assert header == ["defence", "tower", "clean", "oblivious", "adaptive", "worst", "tower alone"]
    assert [line[:2] for line in body] == [["still", "clip"], ["ttc", "tecoa"], ["ttc", "clip"], ["weak", "tecoa"]]
    assert body[0][2:5] == ["85.0", "80.0", "72.5"] and body[0][5].startswith("72.5 [") and body[0][5].endswith("†1")
    assert [line[5].startswith("**") for line in body] == [False, True, False, False]
    assert body[2][2:5] == ["80.0", "60.0", "25.0"] and body[2][6] == "5.0"


def test_the_number_is_the_worst_case_also_where_it_lies_below_every_column(tmp_path):
    lower = [row | {"worst": "2.5"} if row["defence"] == "ttc_clip" else row for row in rows()]
    defences.table(tmp_path, lower, "Defences, a study")
    text = (tmp_path / "defences.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    body = cells(text, "mean over 2 sets")[2:]
    assert body[-1][:2] == ["ttc", "clip"] and body[-1][5].startswith("2.5 [")
    assert [line[2][:3] for line in cells(text, "worst case on every set")[2:] if line[:2] == ["ttc", "clip"]] == [
        "2 ["
    ]
    (table,) = [table for table in parsed(defended=lower).tables if table[0][0]["text"] == "defence"]
    assert [cell["text"] for cell in table[-1][:2]] == ["ttc", "clip"] and table[-1][5]["text"].startswith("2.5")


def test_a_note_has_the_reason_of_a_mark_and_no_other_mark_is_told(written):
    notes = " ".join(written.split())
    assert "- †1 zero gradient. still_clip: the gradient vanishes at 8 of 8 images." in notes and "†2" not in notes
    assert "- ttc_clip: TTC (eps 0.05); oblivious: PGD" in notes
    twice = {"defence": "ttc_clip", "reasons": "a: first; b: other; a: second"}
    assert [row["reason"] for row in defences.mark_rows([twice])] == ["first", "other"]


def test_conditions_cost_and_medians_are_those_of_the_records(written):
    lines = {tuple(line[:2]): line[2:] for line in cells(written, "conditions and cost")[2:]}
    assert lines["ttc", "clip"] == ["2, 3", "1", "5.0", "100.0"] and lines["still", "clip"][0] == "none"
    assert cells(written, "what a defence decides by")[2:] == [["ttc", "clip", "r", "0.1", "0.3", "0.25"]]


def test_the_worst_case_of_a_set_has_wilsons_interval(written):
    lines = {tuple(line[:2]): line[2:] for line in cells(written, "worst case on every set")[2:]}
    low, high = (100 * end for end in wilson(6 / 20, 20))
    assert lines["ttc", "clip"][0] == f"30 [{low:.0f}, {high:.0f}]"


def test_every_column_has_an_interval_that_is_exact_for_single_verdicts(written, tmp_path):
    table = files.read_rows(tmp_path / "defences.csv")
    (one, *_, mean) = [row for row in table if row["defence"] == "ttc_clip"]
    for column, right in (
        ("clean", 16),
        ("oblivious", 12),
        ("adaptive", 6),
        ("undefended_clean", 18),
        ("undefended", 1),
    ):
        low, high = (100 * end for end in wilson(right / 20, 20))
        assert [float(one[f"{column}_{end}"]) for end in ("low", "high")] == pytest.approx([low, high], abs=0.01)
    assert one["n"] == "20" and mean["n"] == "40"
    for column, right in (("adaptive", (6, 4)), ("oblivious", (12, 12))):
        summary = average([Sample.of(counts(n)[None].astype(int)) for n in right])
        assert float(mean[f"{column}_low"]) == pytest.approx(summary["low"], abs=0.01)
        assert float(mean[f"{column}_high"]) == pytest.approx(summary["high"], abs=0.01)
    lines = {tuple(line[:2]): line[2:] for line in cells(written, "95 % intervals")[2:]}
    low, high = float(mean["adaptive_low"]), float(mean["adaptive_high"])
    assert lines["ttc", "clip"][0] == "40" and lines["ttc", "clip"][3] == f"25.0 [{low:.0f}, {high:.0f}]"


def test_the_table_fits_the_page_and_its_rows_are_kept(written, tmp_path):
    assert max(map(len, written.splitlines())) <= 100
    kept = [{key: row[key] for key in rows()[0]} for row in files.read_rows(tmp_path / "defences.csv")]
    assert kept == rows()
    assert r"\textdagger{}1" in (tmp_path / "defences.tex").read_text()


def test_files_of_the_stage_are_read_and_others_are_refused(tmp_path):
    for name in ("ttc_clip", "ttc_tecoa"):
        files.write_rows(tmp_path / f"{name}.csv", [row for row in rows() if row["defence"] == name])
    both = ("ttc_tecoa", "ttc_clip")
    assert [row["defence"] for row in reading.defended(tmp_path, both)] == ["ttc_clip"] * 3 + ["ttc_tecoa"] * 3
    assert reading.defended(tmp_path / "none", ()) == []
    files.write_rows(tmp_path / "other.csv", [{"worst": "1", "defence": "other"}])
    with pytest.raises(files.Unusable, match="has no column clean"):
        reading.defended(tmp_path, ["other"])
    with pytest.raises(files.Unusable, match="gone.csv is not there"):
        reading.defended(tmp_path, ["gone"])


def test_a_file_of_a_row_that_is_gone_is_passed_over_and_one_of_another_row_refused(tmp_path):
    """DVC leaves the file of a row that was taken out of params.yaml; its numbers are none of the study's."""
    mine = [row for row in rows() if row["defence"] == "ttc_clip"]
    for name in ("ttc_clip", "old"):
        files.write_rows(tmp_path / f"{name}.csv", mine)
    assert reading.defended(tmp_path, ["ttc_clip"]) == files.read_rows(tmp_path / "ttc_clip.csv")
    with pytest.raises(files.Unusable, match="old.csv is of the defence 'ttc_clip', not of old"):
        reading.defended(tmp_path, ["old"])


@pytest.fixture
def figure(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    figures.defences(tmp_path / "defences.png", rows(), "title", "note")
    yield drawn[0]
    plt.close(drawn[0])


def test_the_figure_has_a_panel_for_each_tower_and_one_look_for_each_defence(figure):
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert list(panels) == ["clip", "tecoa"]
    points = {
        tower: {tuple(bar.lines[0].get_xydata()[0]): bar.lines[0] for bar in axis.containers}
        for tower, axis in panels.items()
    }
    assert set(points["clip"]) == {(5, 5), (80, 72.5), (60, 25)} and set(points["tecoa"]) == {(5, 5), (55, 50), (55, 5)}
    one, two = points["clip"][60, 25], points["tecoa"][55, 50]
    assert (one.get_color(), one.get_marker()) == (two.get_color(), two.get_marker())
    assert points["clip"][80, 72.5].get_color() != one.get_color()
    assert points["clip"][80, 72.5].get_markerfacecolor() == "none" != one.get_markerfacecolor()  # the marked number
    texts = {tower: {text.get_text() for text in axis.texts} for tower, axis in panels.items()}
    assert texts == {"clip": {"none", "still", "ttc"}, "tecoa": {"none", "ttc", "weak"}}


def test_labels_of_crowded_points_near_zero_stay_in_their_panel_and_apart(monkeypatch, tmp_path):
    drawn, crowd = [], []
    monkeypatch.setattr(figures, "_write", lambda figure, path: drawn.append(figure))
    for tower in ("clip", "tecoa"):
        for name, oblivious, worst in (("clipure_cos", 0.6, 0.6), ("random_noise", 4.6, 3.0), ("csr", 34.4, 5.0)):
            numbers = {"oblivious": str(oblivious), "worst": str(worst), "low": str(worst / 2), "high": str(worst + 5)}
            of_mean = next(row for row in rows() if row["set"] == "mean")
            crowd.append(of_mean | {"defence": f"{name}_{tower}", "method": tower, "undefended": "1.7"} | numbers)
    figures.defences(tmp_path / "defences.png", crowd, "title", "note")
    for axis in drawn[0].axes:
        boxes, panel = [text.get_window_extent() for text in axis.texts], axis.get_window_extent()
        assert len(boxes) == 4 and all(panel.contains(*corner) for box in boxes for corner in box.corners())
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        ends = [tuple(end) for bar in axis.containers if bar.has_yerr for end in bar.lines[2][0].get_segments()[0]]
        assert ends and all(panel.contains(*axis.transData.transform(end)) for end in ends)
    plt.close(drawn[0])


def test_the_bar_is_the_interval_of_the_worst_case(figure):
    (clip, _), mean = figure.axes, next(row for row in defences.means(rows()) if row["defence"] == "ttc_clip")
    bars = [bar.lines[2][0].get_segments()[0][:, 1].tolist() for bar in clip.containers if bar.has_yerr]
    assert [float(mean["low"]), float(mean["high"])] in [pytest.approx(bar) for bar in bars]


def test_the_report_has_a_section_with_every_number_and_the_reason_of_a_mark():
    page = parsed(defended=rows())
    assert "defences" in page.sections and "#defences" in page.links
    assert "defences" not in parsed().sections and "#defences" not in parsed().links
    (table,) = [table for table in page.tables if table[0][0]["text"] == "defence"]
    assert [cell["text"] for cell in table[3][:7]] == ["ttc", "clip", "80.0", "60.0", "25.0", "25.0", "5.0"]
    assert table[1][5]["marks"] == ["zero_gradient: the gradient vanishes at 8 of 8 images"]
    assert [cell["text"] for cell in table[3][7:]] == ["2, 3", "5.0", "r: clean 0.1, oblivious 0.3, adaptive 0.25"]


STUDY = {"arch": "zsr-tiny-32", "attacks": {"pgd": "13/255", "autoattack": "13/255", "weak": "1/255"}}
STUDY |= {"methods": {"clip": {}, "tecoa": {}}, "groups": {"source": ["glyphs"]}}


def test_the_number_of_a_defence_on_the_leaderboard_is_its_worst_case():
    entries = {entry.name: entry for entry in leaderboard.defended(STUDY, rows(), "a study")}
    assert set(entries) == {"clip + still", "clip + ttc", "tecoa + ttc", "tecoa + weak"}
    ttc, block = entries["clip + ttc"], entries["clip + ttc"].verified
    assert (block.worst, block.clean, block.n, ttc.eps, ttc.scale) == (25.0, 80.0, 40, "13/255", "embedded")
    assert block.attacks == {"oblivious": 60.0, "adaptive": 25.0} and block.prompts == "prompt 'this is {}'"
    assert block.scope == "mean over 2 sets: a 20, b 20" and not block.marked
    assert (ttc.trained_on, entries["tecoa + ttc"].trained_on) == ("", "glyphs")
    assert entries["clip + still"].verified.marked == ("worst_case",)
    text = leaderboard.table(list(entries.values()))
    assert "clip + still" in text and f"72.5{leaderboard.DAGGER}" in text and "A row TOWER + DEFENCE" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_worst_case_may_lie_below_every_column():
    lower = [row | {"worst": "21.0", "low": "11.0"} for row in rows() if row["defence"] == "ttc_clip"]
    assert [entry.verified.worst for entry in leaderboard.defended(STUDY, lower, "a study")] == [21.0]


def test_a_defence_that_met_autoattack_stands_among_the_rows_that_did():
    met = [row | {"attacks": "autoattack apgd-ce/as_is; autoattack apgd-margin/gate"} for row in rows()]
    of_clip, of_tecoa = (
        [row for row in part if row["defence"] == name] for part, name in ((met, "ttc_clip"), (rows(), "ttc_tecoa"))
    )
    entries = leaderboard.defended(STUDY, [*of_tecoa, *of_clip], "a study")
    assert [list(entry.verified.attacks)[1] for entry in entries] == ["adaptive", "adaptive-autoattack"]
    lines = [line for line in leaderboard.table(entries).splitlines() if line.startswith("|") and " + " in line]
    assert [line.strip("|").split("|")[0].strip() for line in lines] == ["clip + ttc", "tecoa + ttc"]


def test_a_defence_under_attacks_of_several_eps_has_no_row():
    mixed = [row | {"attacks": "pgd/as_is; weak/as_is"} for row in rows()]
    assert leaderboard.defended(STUDY, mixed, "a study") == []
