"""The conditions on every cell of studies/defences: a condition holds, or the cell bears its mark.

A cell is a row of the committed metrics: a defence on a tower, on one set or in the mean over sets. The check of twice
the iterations and draws needs the records, which lie beside the metrics where the study was run.
"""

import csv
import io
import re

import pytest

from tests.checkout import ROOT, versions
from zsr.evaluation.defence_records import COUNTS, NEAR_ZERO, POINT, DefenceRecord, marks
from zsr.params import read

STUDY = ROOT / "studies/defences"
DEFENCES = list(read(STUDY / "params.yaml")["defences"])
EXACT = 0.011  # percent: metrics have two decimals
# The marks of the mean over sets that studies/defences is known to have; results of another machine may have others.
MARKED = {
    "ttc_tecoa": "not_converged",
    "reliability_tte_tecoa": "not_converged not_near_zero",
    "dbd_clip": "not_converged",
    "clipure_cos_tecoa": "zero_gradient",
    "clipure_cos_clip": "zero_gradient",
}


@pytest.fixture(scope="module")
def cells() -> list[dict[str, str]]:
    texts = [versions(f"studies/defences/metrics/defended/{name}.csv") for name in DEFENCES]
    return [row for committed in texts for row in csv.DictReader(io.StringIO(committed[-1]))]


def names(cells, holds) -> set[tuple[str, str]]:
    return {(row["defence"], row["set"]) for row in cells if holds(row)}


def bearing(cells, mark) -> set[tuple[str, str]]:
    return names(cells, lambda row: mark in row["marks"].split())


def number(row, column) -> float:
    return float(row[column])


def test_every_defence_has_its_sets_and_their_mean(cells):
    sets = read(STUDY / "params.yaml")["defend"]["sets"]
    assert [(row["defence"], row["set"]) for row in cells] == [(d, s) for d in DEFENCES for s in [*sets, "mean"]]


def test_the_worst_case_is_no_better_than_any_column(cells):
    lowest = {(row["defence"], row["set"]): min(number(row, column) for column in COUNTS) for row in cells}
    assert names(cells, lambda row: number(row, "worst") > lowest[row["defence"], row["set"]] + EXACT) == set()


def test_where_adaptive_exceeds_oblivious_by_over_a_point_the_cell_is_marked_and_no_other(cells):
    exceeding = names(cells, lambda row: number(row, "adaptive") > number(row, "oblivious") + POINT + EXACT)
    assert bearing(cells, "adaptive_too_weak") == exceeding
    assert {cell for cell in exceeding if cell[0].endswith("_clip") and cell[1] == "mean"} == set()


def test_where_a_large_eps_leaves_images_the_cell_is_marked_and_no_other(cells):
    left = names(cells, lambda row: row["large"] and number(row, "large") > NEAR_ZERO)
    assert bearing(cells, "not_near_zero") == left


def test_where_twice_the_steps_and_draws_move_the_worst_case_the_cell_is_marked(cells):
    """The reason of the mark has both numbers. All cells were checked."""
    assert names(cells, lambda row: not row["doubled"]) == set()
    for row in cells:
        found = re.search(
            r"not_converged: ([\d.]+) % of the first images in the worst case, ([\d.]+) %", row["reasons"]
        )
        assert bool(found) == ("not_converged" in row["marks"].split()), row["reasons"]
        if found:
            before, after = map(float, found.groups())
            assert abs(before - after) >= POINT - 0.1  # one decimal each
            assert after <= number(row, "doubled") + 0.1


def test_the_marked_means_are_those_known_and_clipure_cos_is_among_them(cells):
    found = {row["defence"]: row["marks"] for row in cells if row["set"] == "mean" and row["marks"]}
    assert found == MARKED
    for row in cells:
        if row["set"] == "mean" and row["defence"].startswith(
            "clipure_cos"
        ):  # transfer tells the truth beside the mark
            assert number(row, "oblivious") <= number(row, "undefended") + POINT < number(row, "clean") / 2


@pytest.mark.parametrize("name", DEFENCES)
def test_the_records_beside_the_metrics_bear_the_marks_that_their_counts_ask_for(name, cells):
    """Of every set: before and after the doubling, from the counts of the images themselves."""
    paths = sorted((STUDY / "data/defended" / name).glob("*/*.json"))
    if not paths:
        pytest.skip("the study was not run here")
    for path in paths:
        record = DefenceRecord.load(path, defence=name)
        n = len(record.doubled)
        known = [min(c, o) for c, o in zip(record.clean[:n], record.oblivious[:n])]
        before, after = (
            100 * sum(map(min, known, adaptive)) / (n * record.verdicts)
            for adaptive in (record.adaptive, record.doubled)
        )
        assert ("not_converged" in {mark.name for mark in marks([record])}) == (abs(before - after) >= POINT - 1e-6)
        (row,) = [row for row in cells if (row["defence"], row["set"]) == (name, record.set_name)]
        assert ("not_converged" in row["marks"].split()) == (abs(before - after) >= POINT - 1e-6)
