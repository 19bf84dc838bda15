import math

import pytest

from zsr import results, tables
from zsr.records import Record
from zsr.storage import read_json, read_rows, write_rows

GROUPS = {"all": ["a", "b"], "unseen": ["b"]}


def record(method, attack, set_name, clean, adv) -> Record:
    ids = tuple(range(len(clean)))
    cell = {"method": method, "attack": attack, "set_name": set_name}
    return Record(**cell, fingerprint="f", protocol=f"how {attack}", ids=ids, clean_bits=clean, adv_bits=adv)


def records():
    made = {}
    hits = {("m", "a"): 8, ("m", "b"): 2, ("n", "a"): 6, ("n", "b"): 0}
    for (method, name), k in hits.items():
        clean, adv = (True,) * 9 + (False,), (True,) * k + (False,) * (9 - k) + (True,)
        made[method, "clean", name] = record(method, "clean", name, clean, clean)
        made[method, "pgd", name] = record(method, "pgd", name, clean, adv)
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


def pair(mean, half, attack="pgd", group="all"):
    return {"group": group, "attack": attack, "first": "m", "second": "n", "mean": str(mean), "half_width": str(half)}


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
