"""The counting and the arithmetic behind benchmarks.table8; nothing is measured."""

import copy

import pytest

from benchmarks._study_hours import STANDS_FOR, Work, hours, table, work_of
from benchmarks._table8_rows import beside, extrapolated, rates, speed_cells, step_cells
from tests.conftest import ROOT
from zsr.params import read

PUBLISHED = ROOT / "published" / "tga_zsr_cost.csv"


@pytest.fixture(scope="module")
def paper() -> dict:
    return read(ROOT / "studies/paper/params.yaml")


def images_of(document: dict) -> dict[tuple[str, str], int]:
    return {(work.task, work.name): work.images for work in work_of(document)}


def step(method: str, batch: int, seconds: float) -> dict:
    return {"method": method, "batch": batch, "seconds": seconds, "images_per_second": batch / seconds}


def test_the_study_of_the_paper_is_counted_by_hand(paper):
    images = images_of(paper)
    assert images["training", "tga_zsr"] == 10 * 782 * 128  # 100,000 images in batches of 128, ten times
    assert images["training", "pmg_aft"] == 10 * 391 * 256
    assert images["training", "fare"] == 20_000 * 128
    assert ("training", "clip") not in images
    methods = len(paper["methods"])
    assert all(images["evaluation", attack] == methods * 344_128 for attack in paper["attacks"])
    assert images["eps sweep", "pgd"] == methods * 4 * 16 * 200
    assert images["attention", "pgd"] == methods * 100


def test_a_thousand_images_of_a_set_change_the_evaluations_alone(paper):
    whole, small = images_of(paper), images_of(read(ROOT / "studies/paper-1k/params.yaml"))
    changed = {key for key in whole if whole[key] != small[key]}
    assert changed == {("evaluation", attack) for attack in paper["attacks"]}
    assert small["evaluation", "pgd"] == len(paper["methods"]) * 16_000


def test_seeds_multiply_what_trains_and_not_the_base_model_or_the_studies(paper):
    thrice = copy.deepcopy(paper) | {"seeds": [0, 1, 2]}
    one, three, methods = images_of(paper), images_of(thrice), len(paper["methods"])
    for (task, name), images in three.items():
        expected = {"training": 3 * one[task, name], "evaluation": 344_128 * (3 * (methods - 1) + 1)}
        assert images == expected.get(task, one[task, name])


def test_hours_are_images_over_images_a_second():
    work = Work("training", "tecoa", 7_200_000, 128)
    assert hours(work, {"tecoa": {128: 1000.0}}) == (2.0, "tecoa, batch 128")


def test_the_nearest_batch_size_speaks_for_the_study_s():
    work, measured = Work("training", "pmg_aft", 3_600_000, 256), {64: 1.0, 128: 500.0, 256: 1000.0}
    assert hours(work, {"pmg_aft": measured}) == (1.0, "pmg_aft, batch 256")
    del measured[256]
    assert hours(work, {"pmg_aft": measured}) == (2.0, "pmg_aft, batch 128")


def test_a_method_speaks_for_itself_before_another_does():
    work, measured = Work("training", "comp_tga", 3600, 128), {"tga_zsr": {128: 2.0}}
    assert hours(work, measured) == (0.5, "tga_zsr, batch 128")
    assert hours(work, measured | {"comp_tga": {128: 1.0}}) == (1.0, "comp_tga, batch 128")
    assert hours(work, {"tecoa": {128: 1.0}}) == (None, "")


def test_the_default_methods_speak_for_all_work_of_the_study(paper):
    measured = {name: {128: 1.0} for name in ("tecoa", "fare", "pmg_aft", "tga_zsr", "pgd", "autoattack")}
    assert all(hours(work, measured)[1] for work in work_of(paper))
    assert set(STANDS_FOR) <= {*paper["methods"], *paper["attacks"]}


def test_the_total_is_of_what_has_hours_and_says_what_has_none():
    works = [Work("training", "tecoa", 3600, 1), Work("evaluation", "cw", 7200, 1), Work("training", "fare", 9, 1)]
    *rows, total = table(works, {"tecoa": {1: 1.0}, "pgd": {1: 4.0}})
    assert [row["hours"] for row in rows] == [1.0, 0.5, None]
    assert (total["hours"], total["images"]) == (1.5, 10_800)
    assert total["measured as"] == "without 1 that were not measured"
    assert table(works[:2], {"tecoa": {1: 1.0}, "pgd": {1: 4.0}})[-1]["measured as"] == ""


def test_published_numbers_stand_beside_their_own_batch_size_alone():
    rows = beside([step("tecoa", 128, 0.1), step("tga_zsr", 128, 0.2), step("tga_zsr", 256, 0.4)], PUBLISHED)
    tga, larger = rows[1], rows[2]
    assert (tga["paper_seconds"], tga["paper_mb"]) == (1.13, 21227)
    assert tga["paper_to_tecoa"] == pytest.approx(1.13 / 0.65)
    assert larger["paper_seconds"] is larger["paper_mb"] is larger["paper_to_tecoa"] is None


def test_ratios_are_to_tecoa_of_the_same_batch():
    rows = beside(
        [step("tecoa", 128, 0.1), step("tecoa", 256, 0.5), step("fare", 256, 1.5), step("fare", 8, 1)], PUBLISHED
    )
    assert [row["to_tecoa"] for row in rows] == [1, 1, 3, None]
    assert rows[2]["paper_seconds"] is None  # which the paper's table does not have


def test_iterations_that_were_not_run_cost_what_one_more_costs():
    assert extrapolated((2, 6), (5.0, 7.0), 100) == 54  # 4 for the rest, 0.5 an iteration
    assert extrapolated((2, 6), (5.0, 7.0), 6) == 7
    assert extrapolated((2, 6), (7.0, 6.0), 100) == 100  # noise: in proportion


def test_rates_are_kept_by_name_and_batch():
    steps = [step("tecoa", 128, 1), step("tecoa", 256, 1)]
    attacks = [{"attack": "pgd", "batch": 64, "images_per_second": 9.0}]
    assert rates(steps, attacks) == {"tecoa": {128: 128.0, 256: 256.0}, "pgd": {64: 9.0}}


def test_what_the_paper_lacks_is_an_empty_cell():
    measured = {"attack": "", "optimizer": "", "peak_mb": 10.4, "share": 0.425}
    (row,) = beside([step("fare", 128, 0.5) | measured], PUBLISHED)
    cells = step_cells(row)
    assert (cells["s / step"], cells["images / s"], cells["share"]) == ("0.5", "256", "42%")
    assert cells["/ TeCoA"] == cells["paper s"] == cells["paper MB"] == cells["paper / TeCoA"] == ""


def test_an_attack_without_iterations_shows_none():
    row = {"attack": "clean", "n_iter": 0, "batch": 4, "images_per_second": 2.0, "gradients": 0, "kept": 1.0}
    assert speed_cells(row)["iterations"] == ""
