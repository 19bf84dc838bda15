import math

import pytest

from zsr import results, tables
from zsr.records import Record
from zsr.storage import read_json, read_rows, write_rows

GROUPS = {"all": ["a", "b"], "unseen": ["b"]}


def record(method, attack, set_name, clean, adv, seed=0) -> Record:
    ids = tuple(range(len(clean)))
    cell = {"method": method, "seed": seed, "attack": attack, "set_name": set_name}
    none = {"zero_bits": (False,) * len(ids), "broken_bits": (False,) * len(ids)}
    return Record(**cell, fingerprint="f", protocol=f"how {attack}", ids=ids, clean_bits=clean, adv_bits=adv, **none)


def records():
    made = {}
    hits = {("m", "a"): 8, ("m", "b"): 2, ("n", "a"): 6, ("n", "b"): 0}
    for (method, name), k in hits.items():
        clean, adv = (True,) * 9 + (False,), (True,) * k + (False,) * (9 - k) + (True,)
        made[method, "clean", name] = [record(method, "clean", name, clean, clean)]
        made[method, "pgd", name] = [record(method, "pgd", name, clean, adv)]
    return made


def test_a_record_survives_its_file(tmp_path):
    saved = record("m", "pgd", "a", (True, False, True), (True, True, False))
    saved.save(tmp_path / "r.json")
    assert Record.load(tmp_path / "r.json") == saved
    document = read_json(tmp_path / "r.json")
    assert (document["n"], document["clean_correct"], document["adv_correct"], document["clean_and_adv_correct"]) == (
        3,
        2,
        2,
        1,
    )


def test_an_image_that_the_attack_puts_right_is_no_hit():
    row = next(r for r in results.cell_rows(records()) if (r["method"], r["attack"], r["set"]) == ("m", "pgd", "a"))
    assert (row["n"], row["clean_correct"], row["adv_correct"], row["correct"], row["accuracy"]) == (10, 9, 9, 8, 80.0)


def test_the_interval_of_a_cell_is_wilsons():
    row = next(r for r in results.cell_rows(records()) if (r["method"], r["attack"], r["set"]) == ("n", "pgd", "b"))
    z = 1.959964
    assert row["accuracy"] == row["low"] == 0 and row["high"] == pytest.approx(100 * z**2 / (10 + z**2), abs=0.01)


def test_an_average_weighs_sets_equally_and_has_the_normal_half_width():
    rows = {(r["group"], r["method"], r["attack"]): r for r in results.average_rows(records(), GROUPS)}
    row = rows["all", "m", "pgd"]
    assert row["mean"] == 50.0 and row["sets"] == 2
    assert row["half_width"] == pytest.approx(196.0 * math.sqrt(0.016 + 0.016) / 2, abs=0.01)
    assert rows["unseen", "n", "pgd"]["mean"] == 0 == rows["unseen", "n", "pgd"]["half_width"]


def test_a_difference_is_paired_by_image():
    rows = {(r["group"], r["attack"]): r for r in results.pair_rows(records(), GROUPS)}
    row = rows["all", "pgd"]
    assert (row["first"], row["second"], row["mean"]) == ("m", "n", 20.0)
    assert row["half_width"] == pytest.approx(196.0 * math.sqrt(2 * 0.016) / 2, abs=0.01)  # 2 of 10 images differ
    assert rows["all", "clean"]["mean"] == rows["all", "clean"]["half_width"] == 0


def test_summaries_are_one_small_file_per_group_and_method(tmp_path):
    results.write_summaries(tmp_path, results.average_rows(records(), GROUPS))
    assert read_json(tmp_path / "all" / "m.json") == {"clean": 90.0, "pgd": 50.0}
    assert read_json(tmp_path / "unseen" / "n.json") == {"clean": 90.0, "pgd": 0.0}


def of_three_seeds():
    """m is right on 8, 6 and 4 of 10 images of a, on 2 of b; n, which does not train, on 3 of both."""
    made = {}
    for method, name, hits in (("m", "a", (8, 6, 4)), ("m", "b", (2, 2, 2)), ("n", "a", (3,)), ("n", "b", (3,))):
        for attack in ("clean", "pgd"):
            bits = [(True,) * k + (False,) * (10 - k) for k in hits]
            made[method, attack, name] = [record(method, attack, name, b, b, seed=i) for i, b in enumerate(bits)]
    return made


def test_an_average_over_seeds_has_their_standard_deviation():
    rows = {(r["group"], r["method"]): r for r in results.average_rows(of_three_seeds(), GROUPS)}
    row = rows["all", "m"]
    assert (row["mean"], row["seeds"], row["sd"]) == (40.0, 3, 10.0)  # 50, 40, 30
    images = [1, 1, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0]  # of set a: the share of seeds that are right on each
    variance = sum((x - 0.6) ** 2 for x in images) / 10 / 10 + 0.16 / 10
    assert row["half_width"] == pytest.approx(196.0 * math.sqrt(variance) / 2, abs=0.01)
    assert (rows["all", "n"]["seeds"], rows["all", "n"]["sd"]) == (1, "")


def test_a_difference_of_methods_knows_the_spread_of_seeds():
    row = next(r for r in results.pair_rows(of_three_seeds(), GROUPS) if r["group"] == "all")
    assert (row["first"], row["second"], row["mean"], row["seeds"], row["sd"]) == ("m", "n", 10.0, 3, 10.0)
    alone = results.pair_rows({k: v[:1] for k, v in of_three_seeds().items()}, GROUPS)[0]
    assert alone["sd"] == "" and alone["seeds"] == 1
    share = [1, 1, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0]  # of seeds on which m is right, on the images of a
    difference = [a - b for a, b in zip(share, [1] * 3 + [0] * 7)]
    variance = sum((d - 0.3) ** 2 for d in difference) / 100 + (0.1 * 0.9) / 10  # on b one image of ten differs
    images, seeds = 196.0 * math.sqrt(variance) / 2, 4.3027 * 10 / math.sqrt(3)  # Student, two degrees of freedom
    assert row["half_width"] == pytest.approx(math.hypot(images, seeds), abs=0.01) and alone["half_width"] < seeds


def test_every_table_of_several_seeds_shows_mean_and_deviation(tmp_path):
    made = of_three_seeds()
    write_rows(tmp_path / "c.csv", results.cell_rows(made))
    write_rows(tmp_path / "a.csv", results.average_rows(made, {"all": ["a", "b"], "source": ["a"]}))
    tables.accuracy(tmp_path, read_rows(tmp_path / "c.csv"), read_rows(tmp_path / "a.csv"), "title")
    text = " ".join((tmp_path / "accuracy.md").read_text().split())
    assert "| m | 40.0 ± 10.0 | 60.0 ± 20.0 | 20.0 ± 0.0 |" in text and "30.0 [11, 60]" in text
    assert "standard deviation over 3 fine-tuning seeds (0, 1, 2)" in text and "one fine-tuning seed" not in text
    assert [r["seed"] for r in read_rows(tmp_path / "accuracy.csv")][:3] == ["0", "1", "2"]


def pair(mean, half, attack="pgd", group="all", seeds=1):
    numbers = {"mean": str(mean), "half_width": str(half), "seeds": str(seeds)}
    return {"group": group, "attack": attack, "first": "m", "second": "n"} | numbers


def published(m, n):
    head = {"table": "robust_pgd100", "attack": "pgd100", "dataset": "average"}
    return [head | {"method": "m", "top1_percent": str(m)}, head | {"method": "n", "top1_percent": str(n)}]


@pytest.mark.parametrize(
    "ours, paper, verdict",
    [
        ((5, 2), (40, 30), "appears"),
        ((-5, 2), (40, 30), "reversed"),
        ((5, 5), (40, 30), "undecided"),
        ((-3, 1), (20, 30), "appears"),
    ],
)
def test_an_ordering_appears_is_reversed_or_stays_undecided(tmp_path, ours, paper, verdict):
    tables.orderings(tmp_path, [pair(*ours), pair(*ours, group="unseen")], published(*paper), "all", "title")
    rows = read_rows(tmp_path / "orderings.csv")
    assert [row["here"] for row in rows] == [verdict]
    assert (
        rows[0]["paper"] == f"{paper[0] - paper[1]:+.2f}" and f"1 {verdict}" in (tmp_path / "orderings.md").read_text()
    )


def test_the_first_table_that_holds_a_method_counts(tmp_path):
    later = [row | {"table": "readme"} for row in published(0, 99)]
    tables.orderings(tmp_path, [pair(5, 2)], published(40, 30) + later, "all", "title")
    assert read_rows(tmp_path / "orderings.csv")[0]["paper"] == "+10.00"


def test_an_ordering_that_the_paper_does_not_have_is_left_out(tmp_path):
    tables.orderings(tmp_path, [pair(1, 1, attack="square"), pair(1, 1)], published(1, 2)[:1], "all", "title")
    assert read_rows(tmp_path / "orderings.csv") == []


def test_tables_carry_n_intervals_and_the_protocol(tmp_path):
    cells, averages = (
        results.cell_rows(records()),
        results.average_rows(records(), {"all": ["a", "b"], "source": ["a"]}),
    )
    write_rows(tmp_path / "c.csv", cells)
    write_rows(tmp_path / "a.csv", averages)
    tables.accuracy(tmp_path, read_rows(tmp_path / "c.csv"), read_rows(tmp_path / "a.csv"), "title")
    text = (tmp_path / "accuracy.md").read_text()
    assert "80.0 [49, 94]" in text and "50.0 ± 17.5" in text and "how pgd" in text and "a 10 (" in text
    latex = (tmp_path / "accuracy.tex").read_text()
    assert r"\toprule" in latex and r"\caption{title: pgd, accuracy in \%}" in latex
    assert r"\item pgd: how pgd." in latex and r"Wilson 95 \% interval" in latex
    assert len(read_rows(tmp_path / "accuracy.csv")) == 8


def test_a_table_without_rows_keeps_its_header(tmp_path):
    write_rows(tmp_path / "curve.csv", [], header=("step", "loss"))
    assert (tmp_path / "curve.csv").read_text() == "step,loss\n" and read_rows(tmp_path / "curve.csv") == []


def three_attacks():
    """Method m on one set, without `clean`: right on 8 of 10, under pgd on the first 6, under AutoAttack on 5."""
    right = (True,) * 8 + (False,) * 2
    bits = {"pgd": (True,) * 6 + (False,) * 4, "autoattack": (False, *(True,) * 5, *(False,) * 4)}
    return {("m", attack, "a"): [record("m", attack, "a", right, adv)] for attack, adv in bits.items()}


def test_accuracy_without_an_attack_is_in_every_record():
    made = results.with_clean(three_attacks())
    assert list(made) == [("m", "clean", "a"), ("m", "pgd", "a"), ("m", "autoattack", "a")]
    two = results.with_clean({(m, "pgd", s): [record(m, "pgd", s, (True,), (True,))] for m in "mn" for s in "ab"})
    assert list(two) == [(m, attack, s) for m in "mn" for attack in ("clean", "pgd") for s in "ab"]
    (clean,) = made["m", "clean", "a"]
    assert clean.hits == clean.clean_bits == (True,) * 8 + (False,) * 2 and clean.attacks_run == ("clean",)
    assert clean.gradients == clean.pixels == 0 and not clean.marks and "no attack" in clean.protocol
    own = records()
    assert results.with_clean(own) == own  # a study that has it as an attack keeps it


def test_attacks_stand_side_by_side_paired_by_image(tmp_path):
    made = results.with_worst_case(results.with_clean(three_attacks()))
    rows = results.attack_rows(made, {"all": ["a"]})
    assert [(r["attack"], r["against"], r["mean"]) for r in rows] == [("pgd", "autoattack", 10.0)]
    assert rows[0]["half_width"] == pytest.approx(196.0 * math.sqrt(0.09 / 10), abs=0.01)  # one image of ten differs
    assert results.attack_rows(results.with_clean(records()), GROUPS) == []  # no AutoAttack, nothing to compare with
    write_rows(tmp_path / "a.csv", results.average_rows(made, {"all": ["a"]}))
    write_rows(tmp_path / "d.csv", [row | {"marks": "underflow"} for row in rows])
    marks = [{"method": "m", "attack": "pgd", "set": "a", "mark": "underflow", "reason": "why"}]
    tables.attacks(tmp_path, read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "d.csv"), "all", "title", marks)
    text = " ".join((tmp_path / "attacks.md").read_text().split())
    assert "| method | clean | pgd | autoattack | worst_case | pgd - autoattack |" in text
    assert "| 60.0 ± 30.4 | 50.0 ± 31.0 | 50.0 ± 31.0 | +10.0 ± 18.6 †1 |" in text and "why" in text
    assert read_rows(tmp_path / "attacks.csv")[0]["mean"] == "10.0"
