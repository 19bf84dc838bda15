"""docs/quirks.md says what the study in studies/ablation measured, and its switches are keys of params.yaml."""

import re
from dataclasses import MISSING, fields
from functools import reduce

import pytest

from benchmarks import quirks_page
from tests.checkout import ROOT, versions
from zsr.params import read
from zsr.training.finetune import FineTuning


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs/quirks.md").read_text()


def test_every_effect_is_the_measured_one(page):
    for name in quirks_page.TABLES:  # of a study that has not run there is none
        made = [quirks_page.with_effects(page, quirks_page.effects(table)) for table in versions(name)]
        assert not made or page in made, "run python -m benchmarks.quirks_page"
    assert versions(quirks_page.TABLES[0])


def test_a_row_that_no_table_has_keeps_its_text():
    page = "`a`: clean old, PGD old; `b`: clean not yet, PGD not yet |"
    assert quirks_page.with_effects(page, {"a": ("+1", "+2")}) == (
        "`a`: clean +1, PGD +2; `b`: clean not yet, PGD not yet |"
    )


def test_each_table_of_a_file_has_columns_of_its_own():
    first = "|quirk|row|against|clean|pgd|\n|---|---|---|---|---|\n|Q1|a|b|+1.0 [0, 2]|-1.0 [-2, 0] †1|\n"
    second = "\n|quirk|row|against|cw|autoattack|\n|---|---|---|---|---|\n|Q1|a|b|+5.0 [4, 6]|-5.0 [-6, -4]|\n"
    assert quirks_page.effects(first + second) == {"a": ("+1.0 [0, 2]", "-1.0 [-2, 0]")}


def test_every_quirk_that_a_study_measures_is_on_the_page(page):
    ablation, frontier = (read(ROOT / f"studies/{name}/params.yaml")["quirks"] for name in ("ablation", "frontier"))
    quirks = ablation | frontier
    assert {row for row in quirks if f"`{row}`: " not in page} == set()
    assert {quirk["id"] for quirk in quirks.values() if f"| {quirk['id']} |" not in page} == set()


def test_every_switch_is_a_key_of_params(page):
    documents = [read(ROOT / "params.yaml"), read(ROOT / "studies/frontier/params.yaml")]
    switches = set(re.findall(r"`((?:method|methods|train|attacks)\.[\w.]+)(?:: [^`]*)?`", page))
    assert len(switches) > 15
    switches -= {
        f"train.{of.name}" for of in fields(FineTuning) if of.default is not MISSING
    }  # params.yaml may omit it
    for switch in switches:
        found = [reduce(lambda block, part: (block or {}).get(part), switch.split("."), d) for d in documents]
        assert any(value is not None for value in found), f"{switch} is no key of params.yaml"


def test_the_default_column_is_the_default():
    """The two rules at the top of the page: methods as published, measurement corrected."""
    document = read(ROOT / "params.yaml")
    methods, attack = document["methods"], document["train"]["attack"]
    published = [
        methods["pmg_aft"][key] for key in ("logit_scale", "kl_reduction", "kl_direction", "detach_clean", "norm_stats")
    ]
    assert published == ["one", "sum", "target_first", False, "imagenet"]
    assert methods["vision_attention"]["map_gradient"] == "none" and methods["fare"]["features"] == "raw"
    assert methods["comp_tga"]["train"]["attack"]["fixed_noise"] is methods["ft_adv"]["duplicate_negatives"] is True
    assert (attack["precision"], attack["reduction"], attack["gradient_leak"]) == ("fp32", "sum", 0)
