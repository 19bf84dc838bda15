"""Checks of records: each fires on what it is for, stays silent beside it, and shows wherever the number is shown."""

import dataclasses

import pytest

from zsr.evaluation import audit, results
from zsr.evaluation.records import Mark, Record
from zsr.files import read_json, read_rows, write_rows
from zsr.reports import tables

N = 100


def record(attack="pgd", hits=0, method="m", set_name="a", clean=90, seed=0, **facts) -> Record:
    """`clean` images are right, the first ones; the first `hits` are right under the attack."""
    none = (False,) * N
    bits = {"clean_bits": first(clean), "adv_bits": first(hits), "zero_bits": none, "broken_bits": none}
    cell = {"method": method, "seed": seed, "attack": attack, "set_name": set_name, "fingerprint": "f", "protocol": "p"}
    passes = {"gradients": 0 if attack in ("clean", "square") else 1, "pixels": 1000}
    return Record(**cell, ids=tuple(range(N)), **bits | passes | facts)


def first(n: int) -> tuple[bool, ...]:
    return (True,) * n + (False,) * (N - n)


def last(n: int) -> tuple[bool, ...]:
    return (False,) * (N - n) + (True,) * n


def study(*records: Record) -> dict:
    cells: dict = {}
    for r in records:
        cells.setdefault((r.method, r.attack, r.set_name), []).append(r)
    return cells


def named(*records: Record) -> dict[str, set[str]]:
    """Attack -> names of its marks."""
    return {attack: {mark.name for mark in own} for (_, attack, _), own in audit.marks(study(*records)).items()}


FOUND = {
    "a right image without a gradient": ([record(hits=9, zero_bits=first(1))], {"pgd": {"zero_gradient"}}),
    "a fooled image without one": ([record(hits=9, zero_bits=last(91))], {}),
    "2 % of entries lost": ([record(zero_pixels=20)], {"pgd": {"underflow"}}),
    "1 % of entries lost": ([record(zero_pixels=10)], {}),
    "an attack without gradients": ([record("square", pixels=0)], {}),
    "no number": ([record(broken_bits=first(1))], {"pgd": {"not_finite"}}),
    "another clean verdict": ([record("clean", 90), record(clean=89)], {"pgd": {"clean_differs"}}),
    "one clean verdict more": ([record("clean", 90), record(clean=91)], {"pgd": {"clean_differs"}}),
    "the same clean verdicts": ([record("clean", 90), record(clean=90)], {}),
    "above clean": ([record(hits=91, counted="adv")], {"pgd": {"above_clean"}}),
    "as clean": ([record(hits=90, counted="adv")], {}),
    "never above clean where both count": ([record(hits=91)], {}),
    "PGD 6 above AutoAttack": ([record(hits=26), record("autoattack", 20)], {"pgd": {"pgd_above_autoattack"}}),
    "PGD 5 above AutoAttack": ([record(hits=25), record("autoattack", 20)], {}),
    "PGD above AutoAttack elsewhere": ([record(hits=26), record("autoattack", 20, set_name="b")], {}),
    "APGD 2 above PGD": ([record(hits=20), record("apgd", 22)], {"apgd": {"apgd_above_pgd"}}),
    "APGD 1 above PGD": ([record(hits=20), record("apgd", 21)], {}),
    "AutoAttack 2 above PGD": ([record(hits=20), record("autoattack", 22)], {"autoattack": {"apgd_above_pgd"}}),
    "Square beats all": (
        [record(hits=20), record("cw", 22), record("square", 19)],
        {"pgd": {"square_beats_white_box"}, "cw": {"square_beats_white_box"}},
    ),
    "Square beats one": ([record(hits=20), record("cw", 22), record("square", 21)], {}),
    "Square fools others": (
        [record(hits=20), record("square", adv_bits=last(90))],
        {"pgd": {"square_beats_white_box"}},
    ),
    "undefended 6 %": ([record(hits=6, method="clip")], {"pgd": {"undefended_survives"}}),
    "undefended 5 %": ([record(hits=5, method="clip")], {}),
    "undefended without attack": ([record("clean", 90, method="clip")], {}),
    "of the model": ([record(marks=(Mark("random_forward", "r"),))], {"pgd": {"random_forward"}}),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_check_fires_on_what_it_is_for_and_not_beside_it(case):
    records, expected = FOUND[case]
    assert named(*records) == expected


def test_every_check_is_tried_and_says_its_rule_and_what_it_marked():
    tried = {name for records, _ in FOUND.values() for names in named(*records).values() for name in names}
    assert tried >= {check.name for check in audit.CHECKS}
    cells = study(record(hits=26), record("autoattack", 20), record("clean", 90))
    rows = {row["check"]: row for row in audit.check_rows(cells, audit.marks(cells))}
    assert rows["pgd_above_autoattack"]["marked"] == 1 and rows["underflow"]["marked"] == 0
    assert rows["pgd_above_autoattack"]["cells"] == 1 and rows["above_clean"]["cells"] == 2
    assert rows["square_beats_white_box"]["cells"] == rows["undefended_survives"]["cells"] == 0  # silent
    assert "5 points" in rows["pgd_above_autoattack"]["rule"] and rows["model"]["marked"] == 0


def test_over_seeds_means_are_compared_and_every_seed_s_images_are_counted():
    seeds = [record(hits=h, seed=i) for i, h in enumerate((20, 26))]
    assert named(*seeds, *(record("autoattack", 20, seed=i) for i in (0, 1))) == {}  # 23 against 20
    cells = study(*(dataclasses.replace(r, zero_bits=first(3)) for r in seeds))
    assert audit.marks(cells)["m", "pgd", "a"][0].reason.startswith("6 of 200 images")


def test_a_reason_has_the_numbers_of_both_sides():
    (mark,) = audit.marks(study(record(hits=26), record("autoattack", 20)))["m", "pgd", "a"]
    assert mark == Mark("pgd_above_autoattack", "26.0 %, but 20.0 % under autoattack")


def test_the_worst_case_is_of_every_image_not_of_averages():
    cells = results.with_worst_case(study(record("clean", 90), record(hits=40), record("cw", adv_bits=last(70))))
    (worst,) = cells["m", "worst_case", "a"]
    assert sum(worst.hits) == 10  # 30 to 39; the lowest average is 40
    assert worst.hits.nonzero()[0].tolist() == list(range(30, 40)) and worst.attacks_run == ("pgd", "cw")
    assert tuple(worst.clean_bits) == first(90) and "each of pgd, cw" in worst.protocol


def test_one_attack_alone_has_no_worst_case():
    cells = study(record("clean", 90), record(hits=40))
    assert results.with_worst_case(cells) == cells


def test_the_worst_case_is_marked_where_nothing_sound_is_folded_in():
    bad = record("cw", 9, zero_bits=first(1))
    one = audit.marks(results.with_worst_case(study(record(hits=9), bad)))
    assert set(one) == {("m", "cw", "a")}
    both = audit.marks(results.with_worst_case(study(record(hits=9, zero_bits=first(1)), bad)))
    assert both["m", "worst_case", "a"] == [Mark("all_marked", "as is every attack in it: pgd, cw")]


GROUPS = {"all": ["a", "b"], "unseen": ["b"], "source": ["a"]}


def marked_study():
    """m under pgd on a bears two marks, n under pgd on b one."""
    weak = {"zero_bits": first(3), "zero_pixels": 500}
    return study(
        *(record("clean", 90, method, name) for method in "mn" for name in "ab"),
        *(record("pgd", 50, method, name, **weak if method + name == "ma" else {}) for method in "mn" for name in "ab"),
        *(record("autoattack", 30 if method + name == "nb" else 50, method, name) for method in "mn" for name in "ab"),
    )


def test_a_number_bears_the_marks_of_every_cell_it_comes_from():
    cells = marked_study()
    marks = audit.marks(cells)
    both = "zero_gradient underflow"
    accuracy = audit.annotated(results.cell_rows(cells), marks, GROUPS)
    assert {(r["method"], r["attack"], r["set"]): r["marks"] for r in accuracy if r["marks"]} == {
        ("m", "pgd", "a"): both,
        ("n", "pgd", "b"): "pgd_above_autoattack",
    }
    averages = audit.annotated(results.average_rows(cells, GROUPS), marks, GROUPS)
    assert {(r["group"], r["method"], r["attack"]): r["marks"] for r in averages if r["marks"]} == {
        ("all", "m", "pgd"): both,
        ("source", "m", "pgd"): both,
        ("all", "n", "pgd"): "pgd_above_autoattack",
        ("unseen", "n", "pgd"): "pgd_above_autoattack",
    }
    pairs = audit.annotated(results.pair_rows(cells, GROUPS), marks, GROUPS)
    assert {(r["group"], r["attack"]): r["marks"] for r in pairs if r["marks"]} == {
        ("all", "pgd"): f"{both} pgd_above_autoattack",
        ("source", "pgd"): both,
        ("unseen", "pgd"): "pgd_above_autoattack",
    }


@pytest.fixture
def written(tmp_path):
    """The files that the tables are made of."""
    cells = marked_study()
    marks = audit.marks(cells)
    for name, rows in {
        "accuracy": audit.annotated(results.cell_rows(cells), marks, GROUPS),
        "averages": audit.annotated(results.average_rows(cells, GROUPS), marks, GROUPS),
        "pairs": audit.annotated(results.pair_rows(cells, GROUPS), marks, GROUPS),
        "marks": audit.mark_rows(marks),
        "checks": audit.check_rows(cells, marks),
    }.items():
        write_rows(tmp_path / f"{name}.csv", rows)
    return {name: read_rows(tmp_path / f"{name}.csv") for name in ("accuracy", "averages", "pairs", "marks", "checks")}


def test_the_accuracy_table_marks_cells_and_means_and_tells_why_below(written, tmp_path):
    tables.accuracy(tmp_path, written["accuracy"], written["averages"], "title", written["marks"])
    text = " ".join((tmp_path / "accuracy.md").read_text().split())
    under_pgd = text.partition("**pgd, accuracy in %**")[2].partition("A cell")[0]
    assert "| 50 [40, 60] †1,2 | **50 [40, 60]** |" in under_pgd and "| **50 [40, 60]** | 50 [40, 60] †3 |" in under_pgd
    over_both = text.partition("**mean over all sets, accuracy in %**")[2].partition("A cell")[0]
    assert under_pgd.count("†") == 2 and {"†1,2", "†3"} <= set(over_both.split())
    assert "†" not in text.partition("**clean, accuracy in %**")[2].partition("A cell")[0]
    assert "- †1 zero gradient. m pgd a: 3 of 100 images count as right that had" in text
    assert "- †3 pgd above autoattack. n pgd b: 50.0 %, but 30.0 % under autoattack." in text
    latex = (tmp_path / "accuracy.tex").read_text()
    assert r"\textdagger{}1,2" in latex and r"\item \textdagger{}3 pgd above autoattack" in latex and "†" not in latex


def test_a_difference_bears_its_marks_too(written, tmp_path):
    head = {"table": "t", "attack": "pgd100", "dataset": "average"}
    paper = [head | {"method": m, "top1_percent": str(p)} for m, p in (("m", 40), ("n", 30))]
    tables.orderings(tmp_path, written["pairs"], paper, "all", "title", written["marks"])
    text = " ".join((tmp_path / "orderings.md").read_text().split())
    assert "+0.0 [-1.4, +1.4] †1,2,3" in text and "- †2 underflow: a cell behind the difference" in text


def test_the_table_of_the_audit_has_every_mark_and_every_check(written, tmp_path):
    tables.audit(tmp_path, written["marks"], written["checks"], "title")
    text = " ".join((tmp_path / "audit.md").read_text().split())
    assert "**†2 underflow** | method | attack | set | reason |" in text
    assert "| m | pgd | a | 50.0 % of gradient entries" in text
    assert all(f"| {check.name} |" in text and f": {check.rule}." in text for check in audit.CHECKS)
    assert len(read_rows(tmp_path / "audit.csv")) == 3 and r"\toprule" in (tmp_path / "audit.tex").read_text()


def test_a_study_without_marks_says_so_and_shows_none(tmp_path):
    cells = study(record("clean", 90), record(hits=40))
    assert audit.mark_rows(audit.marks(cells)) == []
    write_rows(tmp_path / "marks.csv", [], header=audit.HEADER)
    checks = [{k: str(v) for k, v in row.items()} for row in audit.check_rows(cells, {})]
    tables.audit(tmp_path, read_rows(tmp_path / "marks.csv"), checks, "title")
    assert "†" not in (tmp_path / "audit.md").read_text() and read_rows(tmp_path / "audit.csv") == []


def test_summaries_count_marked_attacks(written, tmp_path):
    cells = marked_study()
    averages = audit.annotated(results.average_rows(cells, GROUPS), audit.marks(cells), GROUPS)
    results.write_summaries(tmp_path, averages)
    assert read_json(tmp_path / "all" / "m.json")["marked"] == 1
    assert read_json(tmp_path / "unseen" / "m.json")["marked"] == 0


def test_a_difference_of_attacks_bears_the_marks_of_both():
    row = {"group": "g", "method": "m", "attack": "pgd", "against": "autoattack"}
    found = {("m", attack, "a"): [Mark(name, "r")] for attack, name in (("pgd", "x"), ("autoattack", "y"), ("cw", "z"))}
    assert audit.annotated([row], found, {"g": ["a"]})[0]["marks"] == "x y"
