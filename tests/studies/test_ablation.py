"""The ablation of TGA-ZSR and the quirks: methods of the study with what a name says changed, and the tables."""

from dataclasses import fields

import pytest

from tests.checkout import Checkout
from tests.conftest import ROOT
from zsr import files
from zsr.evaluation import results
from zsr.evaluation.records import Record
from zsr.files import read_rows
from zsr.params import ParamError, component, over, read, training_of
from zsr.reports import tables
from zsr.study import check
from zsr.training.finetune import FineTuning

FOLDER = ROOT / "studies/ablation"
ABLATION = read(FOLDER / "params.yaml")
ROWS, QUIRKS = ABLATION["methods"], ABLATION["quirks"]
UNCHANGED = {"tga_zsr", "ft_clean", "ft_adv", "comp_tga", "pmg_aft", "fare", "embedding_anchor"}
CHANGED = {  # of every other row, what it changes in its method or in how that is trained
    "ce_only": {"lambda_ar": 0.0, "lambda_amc": 0.0},
    "with_ar": {"lambda_amc": 0.0},
    "with_amc": {"lambda_ar": 0.0},
    "distance_rms": {"distance": "rms", "lambda_ar": pytest.approx(17.92), "lambda_amc": pytest.approx(11.2)},
    "distance_l1": {"distance": "l1"},
    "distance_cos": {"distance": "cos"},
    "g5_features": {"norm_axis": "features"},
    "g6_resize_first": {"order": "resize_minmax"},
    "s1_leak_scaled": {"gradient_leak": 1 / 65536},
    "s1_leak_whole": {"gradient_leak": 1.0},
    "s2_fp16_mean": {"precision": "fp16", "reduction": "mean"},
    "f1_clean": {"duplicate_negatives": False},
    "f1_adv": {"duplicate_negatives": False},
    "v1_second_order": {"map_gradient": "second_order", "target": "label"},
    "c3_fresh_noise": {"fixed_noise": False},
    "c4_background": {"non_class_template": "this is the background of {}"},
    "c4_renormalized": {"renormalize": True},
    "c5_no_constraint": {"lambda_amc": 0.0},
    "m1_learnt_scale": {"logit_scale": "learnt"},
    "m2_batchmean": {"kl_reduction": "batchmean"},
    "m3_adversarial_first": {"kl_direction": "adversarial_first"},
    "m_detached": {"detach_clean": True},
    "m4_clip_stats": {"norm_stats": "clip"},
    "m_corrected": {"logit_scale": "learnt", "kl_reduction": "batchmean", "detach_clean": True, "norm_stats": "clip"},
    "a_unit_features": {"features": "unit"},
    "a_clipped_start": {"clip_start": True},
    "a2_warm_first_step": {"first_step_full_rate": False},
}


def facts(document, name):
    """Every number of a row: of its method, of its training and of the attack in it."""
    method, recipe = component(document, "methods", name), training_of(document, name, FineTuning)
    return [{of.name: getattr(part, of.name) for of in fields(part)} for part in (method, recipe, recipe.attack)]


def test_every_row_is_told_below_and_the_study_is_valid():
    assert set(ROWS) == UNCHANGED | set(CHANGED) and check(FOLDER / "params.yaml").seeds == (0, 1, 2)


@pytest.mark.parametrize("name", sorted(UNCHANGED))
def test_a_row_of_a_methods_name_is_that_method(document, name):
    assert component(ABLATION, "methods", name) == component(document, "methods", name)
    assert training_of(ABLATION, name, FineTuning) == training_of(document, name, FineTuning)


@pytest.mark.parametrize("name", CHANGED)
def test_a_row_is_its_method_with_what_its_name_says_and_nothing_else(document, name):
    ours, theirs = facts(ABLATION, name), facts(document, ROWS[name]["module"])
    differs = {key: own[key] for own, other in zip(ours, theirs) for key in own if own[key] != other[key]}
    differs.pop("attack", None)  # whose numbers stand in a part of their own
    assert differs == CHANGED[name]


def test_all_but_the_rows_the_seeds_and_what_is_judged_is_as_in_the_study(document):
    same = ("threads", "launcher", "compute", "model", "base_model", "train", "evaluate")
    assert {key: ABLATION[key] for key in same} == {key: document[key] for key in same}
    sizes = {name: over(size, {"test": 100}) for name, size in document["data"]["sets"].items()}
    assert ABLATION["data"] == document["data"] | {"sets": sizes}
    assert ABLATION["attacks"] == {"pgd": document["attacks"]["pgd"]}


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk_is_compared_with_the_same_method_unchanged(name):
    against = QUIRKS[name]["against"]
    assert facts(ABLATION, name) != facts(ABLATION, against)
    assert ROWS[name]["module"] == against or (name, against) == ("v1_second_order", "ce_only")
    assert against in UNCHANGED | {"ce_only"}


def test_the_rms_row_has_the_papers_balance():
    """0.08 and 0.05 on the norm of 224 x 224 values."""
    method = component(ABLATION, "methods", "distance_rms")
    assert (method.lambda_ar, method.lambda_amc) == pytest.approx((224 * 0.08, 224 * 0.05))


def test_every_quirk_is_in_the_documentation():
    text = (ROOT / "docs/quirks.md").read_text()
    for row in QUIRKS.values():
        for quirk in row["id"].split(", "):
            assert f"| {quirk} |" in text, quirk


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"quirks": {"g5_features": {"against": "tga"}}}, "quirks.*.against is none of methods (tga_zsr, ce_only,"),
        ({"quirks": {"g7": {"id": "G7", "against": "fare"}}}, "quirks is none of methods (tga_zsr, ce_only,"),
        ({"quirks": {"g5_features": {"againts": "fare"}}}, "unknown key 'quirks.g5_features.againts'; did you mean"),
        ({"quirks": {"a2_warm_first_step": {"id": 2}}}, "quirks.a2_warm_first_step.id must be text, got 2"),
        ({"methods": {"g5_features": {"norm_axis": "tokenz"}}}, "methods.g5_features.norm_axis must be one of tokens,"),
        ({"methods": {"ce_only": {"train": {"lr": -1}}}}, "methods.ce_only.train.lr must be above 0, got -1"),
    ],
)
def test_a_row_or_a_comparison_that_cannot_be_is_named(tmp_path, changes, message):
    files.write_json(tmp_path / "params.yaml", over(ABLATION, changes))
    with pytest.raises(ParamError) as error:
        check(tmp_path / "params.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'params.yaml'}: {message}") and "\n" not in str(error.value)


def records():
    """Row a is right on 6, 5 and 4 of 10 images, b on 9, 8 and 7."""
    made = {}
    for name, hits in (("a", (6, 5, 4)), ("b", (9, 8, 7))):
        for attack in ("clean", "pgd"):
            bits = [(True,) * k + (False,) * (10 - k) for k in hits]
            none = {"zero_bits": (False,) * 10, "broken_bits": (False,) * 10}
            made[name, attack, "s"] = [
                Record(method=name, seed=i, attack=attack, set_name="s", fingerprint="", protocol="",
                       ids=range(10), clean_bits=b, adv_bits=b, **none)
                for i, b in enumerate(bits)
            ]  # fmt: skip
    return made


def test_the_tables_show_means_deviations_and_paired_effects(tmp_path):
    groups = {"all": ["s"], "unseen_strict": ["s"]}
    tables.ablation(tmp_path, results.average_rows(records(), groups), "facts")
    text = _squeezed((tmp_path / "ablation.md").read_text())
    assert f"| b |{4 * ' **80.0 ± 10.0** |'}\n| a |{4 * ' 50.0 ± 10.0 |'}" in text
    files.write_rows(tmp_path / "pairs.csv", results.pair_rows(records(), groups))
    pairs = read_rows(tmp_path / "pairs.csv")
    assert [(r["group"], r["attack"], r["mean"], r["sd"]) for r in pairs][:2] == [
        ("all", "clean", "-30.0", "0.0"), ("all", "pgd", "-30.0", "0.0"),
    ]  # fmt: skip
    tables.quirks(tmp_path, pairs, {"b": {"id": "X1", "against": "a"}}, "facts")
    text = _squeezed((tmp_path / "quirks.md").read_text())
    low, high = (-float(pairs[0][side]) for side in ("high", "low"))
    assert f"| X1 | b | a |{2 * f' +30.0 [{low:+.1f}, {high:+.1f}] |'}" in text and low < 30 < high
    assert "95 % over the choice of images and of seeds" in text


def _squeezed(text):
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


SAMPLED = ("a_clipped_start", "s1_leak_whole", "g5_features")


@pytest.mark.slow
def test_trainings_of_the_committed_ablation_come_out_the_same(tmp_path):
    """Three seeds of one row of FARE and of two of TGA-ZSR, bit for bit: the whole takes an hour."""
    checkout = Checkout(tmp_path, scale="studies/ablation")
    before = read(checkout.folder / "studies/ablation/dvc.lock")["stages"]
    checkout.dvc("repro", *(f"train@{name}" for name in SAMPLED))
    after = read(checkout.folder / "studies/ablation/dvc.lock")["stages"]
    for name in SAMPLED:
        assert after[f"train@{name}"]["outs"] == before[f"train@{name}"]["outs"], name
