"""docs/quirks.md says what the study in studies/ablation measured, and its switches are keys of params.yaml."""

import re

import pytest

from benchmarks import quirks_page
from tests.checkout import ROOT, versions
from zsr.params import read


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs/quirks.md").read_text()


def test_every_effect_is_the_measured_one(page):
    tables = versions("studies/ablation/tables/quirks.md")
    made = [quirks_page.with_effects(page, quirks_page.effects(table)) for table in tables]
    assert page in made, "run python -m benchmarks.quirks_page"


def test_every_quirk_that_the_ablation_measures_is_on_the_page(page):
    quirks = read(ROOT / "studies/ablation/params.yaml")["quirks"]
    assert {row for row in quirks if f"`{row}`: " not in page} == set()
    assert {quirk["id"] for quirk in quirks.values() if f"| {quirk['id']} |" not in page} == set()


def test_every_switch_is_a_key_of_params(page):
    document = read(ROOT / "params.yaml")
    switches = set(re.findall(r"`((?:method|methods|train|attacks)\.[\w.]+)(?:: [^`]*)?`", page))
    assert len(switches) > 15
    for switch in switches:
        block = document
        for part in switch.split("."):
            assert part in block, f"{switch} is no key of params.yaml"
            block = block[part]


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
