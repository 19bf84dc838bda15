"""docs/quirks.md says what the committed ablation measured, and its switches are those of params.yaml."""

import re

import pytest

from tests.pipeline import Checkout
from zsr.params import read
from zsr.storage import read_rows


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("quirks"), committed=True)


@pytest.fixture(scope="module")
def page(project):
    return (project.folder / "docs/quirks.md").read_text()


def test_every_effect_is_the_measured_one(project, page):
    rows = read_rows(project.folder / "ablation/tables/quirks.csv")
    measured = {(r["variant"], r["attack"]): f"{float(r['mean']):+.1f} ± {float(r['half_width']):.1f}" for r in rows}
    said = re.findall(r"`(\w+)`: clean ([^,]+), PGD (\S+ ± \d+\.\d)", page)
    assert {variant for variant, _, _ in said} == {variant for variant, _ in measured}
    for variant, clean, pgd in said:
        assert (clean, pgd) == (measured[variant, "clean"], measured[variant, "pgd"]), variant


def test_every_switch_is_a_key_of_params(project, page):
    document = read(project.folder / "params.yaml")
    switches = set(re.findall(r"`((?:method|methods|train|attacks)\.[\w.]+)(?:: [^`]*)?`", page))
    assert len(switches) > 15
    for switch in switches:
        block = document
        for part in switch.split("."):
            assert part in block, f"{switch} is no key of params.yaml"
            block = block[part]


def test_the_default_column_is_the_default(project):
    """The two rules at the top of the page: methods as published, measurement corrected."""
    document = read(project.folder / "params.yaml")
    methods, attack = document["methods"], document["train"]["attack"]
    published = [
        methods["pmg_aft"][key] for key in ("logit_scale", "kl_reduction", "kl_direction", "detach_clean", "norm_stats")
    ]
    assert published == ["one", "sum", "target_first", False, "imagenet"]
    assert methods["vision_attention"]["map_gradient"] == "none" and methods["fare"]["features"] == "raw"
    assert methods["comp_tga"]["train"]["attack"]["fixed_noise"] is methods["ft_adv"]["duplicate_negatives"] is True
    assert (attack["precision"], attack["reduction"], attack["gradient_leak"]) == ("fp32", "sum", 0)
