"""Ours beside the published numbers: nothing invented, the right cells subtracted, what is amiss with theirs told."""

from pathlib import Path

import pytest

from zsr.files import read_rows
from zsr.reports import comparison
from zsr.reports.comparison import AVERAGE, BLANK

ROOT = Path(__file__).parents[2]
PAPER_SETS = ["tiny_imagenet", "cifar10", "stl10"]
MARKS = [
    {"method": "m", "attack": "pgd", "set": "shapes", "mark": "elsewhere", "reason": "not of this table"},
    {"method": "m", "attack": "pgd", "set": "cifar10", "mark": "zero_gradient", "reason": "2 of 10 images"},
]


def cell(name, value, method="m", attack="pgd", seed=0, marks="", n=100):
    numbers = {"accuracy": str(value), "low": str(value - 5), "high": str(value + 6), "n": str(n)}
    key = {"method": method, "attack": attack, "set": name, "seed": str(seed)}
    return key | numbers | {"protocol": f"how {attack}", "marks": marks}


def average(value, method="m", attack="pgd", group="all", half=2.0):
    return {
        "group": group,
        "method": method,
        "attack": attack,
        "mean": str(value),
        "low": str(value - half),
        "high": str(value + half + 1),
        "marks": "",
    }


def paper(values, method="m", attack="pgd100", table="robust"):
    """Rows of one method and attack: a number for every set of the paper, then the average."""
    head = {"table": table, "method": method, "attack": attack}
    return [head | {"dataset": d, "top1_percent": str(v)} for d, v in zip([*PAPER_SETS, AVERAGE], values, strict=True)]


def by_cell(*given):
    return {(row["attack"], row["set"], row["method"]): row for row in comparison.rows(*given)}


def real():
    files = ("tga_zsr_tables", "comp_tga_readme")
    return [row for name in files for row in read_rows(ROOT / f"published/{name}.csv")]


def text_of(folder: Path, suffix="md") -> str:
    return " ".join((folder / f"published.{suffix}").read_text().split())


def below(cells, published) -> str:
    return "\n".join(comparison.notes(comparison.rows(cells, [], published), cells, published))


def test_a_difference_is_ours_minus_theirs_of_the_same_cell():
    given = [cell("cifar10", 42.3), cell("cifar10", 9, "n"), cell("stl10", 50.1), cell("cifar10", 80, attack="clean")]
    published = paper([1, 41.9, 60, 34]) + paper([2, 10, 20, 11], "n") + paper([3, 85, 90, 59], attack="none")
    rows = by_cell(given, [], published)
    assert rows["pgd", "cifar10", "m"]["difference"] == 0.4 and rows["pgd", "stl10", "m"]["difference"] == -9.9
    assert rows["pgd", "cifar10", "n"]["difference"] == -1 and rows["clean", "cifar10", "m"]["difference"] == -5
    for row in rows.values():
        if BLANK not in (row["ours"], row["published"]):
            assert row["difference"] == pytest.approx(row["ours"] - row["published"])


def test_what_a_side_lacks_is_blank_and_what_both_lack_is_no_row():
    published = paper([1, 41.9, 60, 34]) + paper([2, 10, 20, 11], "theirs", "cw")
    rows = by_cell(
        [cell("cifar10", 42.3), cell("cifar10", 30, "ours"), cell("cifar10", 20, attack="cw")], [], published
    )
    alone = rows["pgd", "cifar10", "ours"]
    assert (alone["ours"], alone["published"], alone["difference"]) == (30, BLANK, BLANK)
    their = rows["cw", "cifar10", "theirs"]
    assert their["published"] == 10 and {their[k] for k in ("ours", "low", "high", "difference", "marks", "n")} == {
        BLANK
    }
    assert ("pgd", "cifar10", "theirs") not in rows and ("cw", AVERAGE, "m") not in rows


def test_rows_are_the_shared_sets_in_the_papers_order_and_then_its_average():
    given = [cell(name, 20) for name in ("stl10", "shapes", "tiny_imagenet")]
    rows = comparison.rows(given, [], paper([1, 2, 3, 2]))
    assert [row["set"] for row in rows] == ["tiny_imagenet", "stl10", AVERAGE]


def test_attacks_that_the_paper_lacks_or_that_we_lack_are_left_out():
    given = [cell("stl10", 20), cell("stl10", 10, attack="square"), cell("stl10", 5, attack="worst_case")]
    rows = comparison.rows(given, [], paper([1, 2, 3, 2]) + paper([4, 5, 6, 5], attack="autoattack"))
    assert {row["attack"] for row in rows} == {"pgd"}


@pytest.mark.parametrize("sets, ours", [(PAPER_SETS, 40.0), (PAPER_SETS[:2], BLANK), ([*PAPER_SETS, "shapes"], BLANK)])
def test_our_average_stands_beside_theirs_only_over_exactly_the_same_sets(sets, ours):
    given, published = [cell(name, 40) for name in sets], paper([30, 35, 40, 35])
    averages = [average(40), average(99, group="unseen"), average(1, attack="square")]
    row = by_cell(given, averages, published)["pgd", AVERAGE, "m"]
    assert row["ours"] == ours and row["published"] == 35
    explained = "no average of ours stands beside it" in "\n".join(comparison.notes([row], given, published))
    assert explained == (ours == BLANK)
    if ours != BLANK:
        assert (row["low"], row["high"], row["n"], row["difference"]) == (38, 43, 300, 5)


def test_the_note_on_the_average_counts_the_sets():
    assert "over its 3 sets. This study has 1 of them and 2 besides" in below(
        [cell(name, 20) for name in ("stl10", "shapes", "digits")], paper([1, 2, 3, 2])
    )


def test_seeds_of_a_cell_come_as_their_mean():
    given = [cell("cifar10", value, seed=i) for i, value in enumerate((40, 41, 45))]
    row = by_cell(given, [], paper([1, 41, 3, 4]))["pgd", "cifar10", "m"]
    assert (row["ours"], row["low"], row["high"], row["difference"], row["n"]) == (42, 37, 48, 1, 100)
    assert "mean over 3 fine-tuning seeds" in below(given, paper([1, 41, 3, 4]))


def test_the_first_table_that_has_a_number_counts():
    published = paper([1, 41, 3, 4]) + paper([9, 99, 9, 9], table="later") + paper([1, 2, 3, 4], "later_only")
    rows = by_cell([cell("cifar10", 40)], [], published)
    assert rows["pgd", "cifar10", "m"]["published"] == 41 and rows["pgd", "cifar10", "later_only"]["published"] == 2


def test_without_a_set_of_the_paper_one_sentence_stands_there_and_no_number(tmp_path):
    comparison.write(tmp_path, [cell("shapes", 42.3)], [average(42.3)], real(), "title", MARKS)
    assert (tmp_path / "published.md").read_text() == f"# title\n\n- {comparison.LEFT_OUT}\n"
    assert (tmp_path / "published.csv").read_text() == ",".join(comparison.HEADER) + "\n"
    assert "tabular" not in (tmp_path / "published.tex").read_text()


def test_the_tables_show_cells_daggers_and_blanks(tmp_path):
    given = [
        cell("cifar10", 42.3, marks="zero_gradient"),
        cell("cifar10", 30, "ours"),
        cell("stl10", 59.98),
        cell("shapes", 9, marks="elsewhere"),
    ]
    comparison.write(tmp_path, given, [average(40)], paper([1, 41.9, 60, 34]), "title", MARKS)
    text = text_of(tmp_path)
    assert "**pgd, accuracy in %: ours / published / difference** | set | m | ours |" in text
    assert "| cifar10 | 42.3 / 41.9 / +0.4 †2 | 30.0 / / |" in text
    assert "| stl10 | 60.0 / 60.0 / +0.0 | |" in text and "| average | / 34.0 / | |" in text
    assert "†2 zero gradient. m pgd cifar10: 2 of 10 images." in text and "not of this table" not in text
    assert r"42.3 / 41.9 / +0.4 \textdagger{}2" in text_of(tmp_path, "tex")
    rows = read_rows(tmp_path / "published.csv")
    assert tuple(rows[0]) == comparison.HEADER and "shapes" not in {row["set"] for row in rows}
    expected = ["cifar10", "m", "pgd", "42.3", "37.3", "48.3", "41.9", "0.4", "zero_gradient", "100"]
    assert list(rows[0].values()) == expected


def test_both_protocols_stand_in_one_note():
    text = below([cell("cifar10", 40), cell("cifar10", 30, attack="square")], paper([1, 41, 3, 4]))
    (note,) = (line for line in text.split("\n") if "Protocol" in line)
    for fact in ("fp16", "of size eps", "last iterate", "eps 1/255", "Ours: pgd: how pgd."):
        assert fact in note
    assert "how square" not in note


STRONGER = "AutoAttack above published PGD"
TWO_AVERAGES = "41.96 and 56.48"
CONCERN = {  # cells of ours, what the notes must say, what they must not
    "AutoAttack above PGD": (
        ("cifar10", "fare", "autoattack"),
        [STRONGER, "fare: cifar10 23.37 over 21.25, average 19.78 over 18.25"],
        ["dtd"],
    ),
    "known in PGD's table too": (
        ("dtd", "ft_adv", "pgd"),
        ["though the stronger attack: ft_adv: dtd 19.95 over 15.90; fare: average"],
        ["cifar10 23.37", "0.009"],
    ),
    "nothing under attacks not shown": (("cifar10", "clip", "clean"), ["86.23"], [STRONGER, "2.42", "7.90", "0.009"]),
    "another beta": (("cifar10", "clip", "autoattack"), ["tga_zsr autoattack: of a model with beta 0.009"], ["12.65"]),
    "a typo of CLIP": (("cifar10", "clip", "pgd"), ["clip pgd cifar10: 2.42", "4.90", TWO_AVERAGES], ["86.23"]),
    "no typo elsewhere": (("stl10", "clip", "pgd"), ["clip pgd average: 4.90", "12.65"], ["clip pgd cifar10"]),
    "an average that is none": (("stl10", "clip", "cw"), ["clip cw 3.64, its sets 2.64", "12.65"], ["tga_zsr clean"]),
    "rounding is no fault": (("stl10", "clip", "clean"), ["tga_zsr clean 56.44, its sets 56.38"], ["fare clean"]),
    "another preprocessing": (("stl10", "clip", "cw"), ["pmg_aft: measured with CLIP's"], [TWO_AVERAGES]),
}


@pytest.mark.parametrize("key", CONCERN)
def test_what_is_amiss_with_published_numbers_is_told_where_they_are_shown(key):
    (name, method, attack), present, absent = CONCERN[key]
    text = below([cell(name, 40, method, attack)], real())
    assert [part for part in present if part not in text] == [] == [part for part in absent if part in text]


def test_nothing_is_amiss_with_a_number_that_is_not_there():
    given = [cell("cifar10", 40, method) for method in ("clip", "tga_zsr", "pmg_aft")]
    assert "Published" not in below(given, paper([1, 2, 3, 2]))


def test_the_committed_numbers_have_the_sixteen_sets():
    given = [cell(name, 40) for name in comparison._paper_sets(real())]
    rows = comparison.rows(given, [average(40)], real())
    assert len(given) == 16 and by_cell(given, [average(40)], real())["pgd", AVERAGE, "m"]["ours"] == 40
    assert {row["set"] for row in rows if row["method"] == "comp_tga"} == {AVERAGE}
