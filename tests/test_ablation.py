from dataclasses import replace

import pytest

from tests.conftest import ROOT
from tests.pipeline import Checkout
from zsr import ablation, results, tables
from zsr.errors import ParamError
from zsr.finetune import FineTuning
from zsr.params import component, read, training_of
from zsr.records import Record
from zsr.storage import read_rows

WANTED = ablation.load(ROOT / "ablation/params.yaml")


@pytest.mark.parametrize("name", WANTED.variants)
def test_a_variant_is_its_method_with_its_changes_and_nothing_else(document, name):
    method = WANTED.variants[name].method
    changed = ablation.changed(document, WANTED, name)
    before, after = component(document, "methods", method), component(changed, "methods", method)
    trained = [training_of(d, method, FineTuning) for d in (document, changed)]
    differs = before != after or trained[0] != trained[1]
    assert differs == bool(WANTED.variants[name].changes)
    assert {k: v for k, v in changed.items() if k not in ("method", "methods", "train")} == {
        k: v for k, v in document.items() if k not in ("method", "methods", "train")
    }


@pytest.mark.parametrize("name", [name for name, v in WANTED.variants.items() if v.quirk])
def test_a_quirk_is_compared_with_the_same_method_unchanged(name):
    other = WANTED.variants[WANTED.variants[name].against]
    same_method = other.method == WANTED.variants[name].method and not other.changes
    assert same_method or (name, WANTED.variants[name].against) == ("v1_second_order", "ce_only")


def test_the_rms_variant_has_the_papers_balance(document):
    """0.08 and 0.05 on the norm of 224 x 224 values."""
    method = component(ablation.changed(document, WANTED, "distance_rms"), "methods", "tga_zsr")
    assert method.distance == "rms"
    assert (method.lambda_ar, method.lambda_amc) == pytest.approx((224 * 0.08, 224 * 0.05))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"section": "method.tecoa"}, "variants.tga_zsr: section must be one of method, got 'method.tecoa'"),
        ({"method": "tga"}, "variants.tga_zsr: missing key 'methods.tga'"),
        ({"changes": {"method": {"distance": "l3"}}}, "variants.tga_zsr: method.distance must be one of l2, rms,"),
        ({"changes": {"train": {"lr": -1}}}, "variants.tga_zsr: train.lr must be above 0, got -1"),
    ],
)
def test_a_variant_that_cannot_be_is_named(document, change, message):
    wanted = replace(WANTED, variants=WANTED.variants | {"tga_zsr": replace(WANTED.variants["tga_zsr"], **change)})
    with pytest.raises(ParamError) as error:
        ablation.changed(document, wanted, "tga_zsr")
    assert str(error.value).startswith(message)


def test_a_comparison_with_nothing_is_refused(tmp_path):
    text = (ROOT / "ablation/params.yaml").read_text()
    for old, new, message in [
        ("against: fare", "against: far", "variants.a_unit_features.against is none of variants: 'far'"),
        ("    quirk: G5\n", "", "variants.g5_features: quirk and against come together"),
    ]:
        (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(ParamError, match=message):
            ablation.load(tmp_path / "params.yaml")


def records():
    """Variant a is right on 6, 5 and 4 of 10 images, b on 9, 8 and 7."""
    made = {}
    for name, hits in (("a", (6, 5, 4)), ("b", (9, 8, 7))):
        for attack in ("clean", "pgd"):
            bits = [(True,) * k + (False,) * (10 - k) for k in hits]
            made[name, attack, "s"] = [
                Record(method=name, seed=i, attack=attack, set_name="s", fingerprint="", protocol="",
                       ids=tuple(range(10)), clean_bits=b, adv_bits=b)
                for i, b in enumerate(bits)
            ]  # fmt: skip
    return made


def test_the_tables_show_means_deviations_and_paired_effects(tmp_path):
    tables.ablation(tmp_path, results.variant_rows(records(), {"all": ["s"]}), "facts")
    assert "| a         | 50.0 ± 10.0 | 50.0 ± 10.0 |" in (tmp_path / "ablation.md").read_text()
    tables.quirks(tmp_path, results.effect_rows(records(), {"b": ("X1", "a")}, ["s"]), "facts")
    rows = read_rows(tmp_path / "quirks.csv")
    assert [(r["quirk"], r["attack"], r["mean"], r["sd"]) for r in rows] == [
        ("X1", "clean", "30.0", "0.0"), ("X1", "pgd", "30.0", "0.0"),
    ]  # fmt: skip
    assert "+30.0 ±" in (tmp_path / "quirks.md").read_text()


def test_every_quirk_of_the_variants_is_in_the_documentation():
    text = (ROOT / "docs/quirks.md").read_text()
    for variant in WANTED.variants.values():
        for quirk in filter(None, variant.quirk.split(", ")):
            assert f"| {quirk} |" in text, quirk
    assert read(ROOT / "ablation/params.yaml")["seeds"] == [0, 1, 2]


SAMPLED = ("a_clipped_start", "s1_leak_whole", "g5_features")


@pytest.mark.slow
def test_trainings_of_the_committed_ablation_come_out_the_same_with_todays_code(tmp_path):
    """An edit of what training reads makes all of the ablation out of date, which takes an hour to run.

    Where no bit of these towers has moved its tables still stand: three seeds, one variant of FARE, two of TGA-ZSR.
    """
    checkout = Checkout(tmp_path)
    before = read(checkout.folder / "ablation/dvc.lock")["stages"]
    checkout.dvc("repro", *(f"ablation/dvc.yaml:variant_training@{name}" for name in SAMPLED))
    after = read(checkout.folder / "ablation/dvc.lock")["stages"]
    for name in SAMPLED:
        stage = f"variant_training@{name}"
        assert after[stage]["outs"] == before[stage]["outs"], name
