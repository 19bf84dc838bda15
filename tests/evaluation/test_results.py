import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from zsr.evaluation import results
from zsr.evaluation.records import BITS, Record
from zsr.evaluation.results import Sample
from zsr.files import read_json, read_rows, write_rows
from zsr.reports import tables

GROUPS = {"all": ["a", "b"], "unseen": ["b"]}
Z = stats.norm.ppf(0.975)


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


def test_a_record_takes_any_sequence_and_is_equal_by_what_it_holds():
    bits = (True, False, True)
    one, other = record("m", "pgd", "a", bits, list(bits)), record("m", "pgd", "a", np.array(bits), bits)
    assert one == other and one.n == 3 and one.ids.dtype == np.int64
    assert all(getattr(one, name).dtype == bool for name in BITS)
    for change in ({"seed": 1}, {"ids": (0, 1, 3)}, *({name: (False, True, True)} for name in BITS)):
        assert dataclasses.replace(one, **change) != one
    assert one != "m" and record("m", "pgd", "a", (), ()).n == 0


def test_an_image_that_the_attack_puts_right_is_no_hit():
    row = next(r for r in results.cell_rows(records()) if (r["method"], r["attack"], r["set"]) == ("m", "pgd", "a"))
    assert (row["n"], row["clean_correct"], row["adv_correct"], row["correct"], row["accuracy"]) == (10, 9, 9, 8, 80.0)


def limits(share, n):
    """Wilson's 95 % limits in percent: where the share is 1.96 standard deviations from the truth."""
    return 100 * np.sort(np.roots([1 + Z**2 / n, -2 * share - Z**2 / n, share**2]).real)


def together(*sets):
    """Limits in percent of the mean of shares (share, n), each set's as far away as Wilson says."""
    mean = 100 * np.mean([share for share, _ in sets])
    away = [limits(share, n) - 100 * share for share, n in sets]
    below, above = np.sqrt(np.sum(np.square(away), axis=0)) / len(sets)
    return mean - below, mean + above


def agresti_min(*sets):
    """Variance of the mean of differences over sets, of (images only the first has, only the second has, n)."""
    variances = [((b + c + 1) / (n + 2) - ((b - c) / (n + 2)) ** 2) / (n + 2) for b, c, n in sets]
    return sum(variances) / len(sets) ** 2


def interval(row):
    return row["low"], row["high"]


def near(low, high):
    return pytest.approx((low, high), abs=0.006)  # rows are rounded to 0.01


@pytest.mark.parametrize("k, n", [(k, n) for n in (1, 10, 150, 2000) for k in sorted({0, 1, n // 3, n - 1, n})])
def test_the_interval_of_a_cell_is_wilsons(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
    assert results.wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)
    (row,) = results.cell_rows(one_cell(k, n))
    assert row["accuracy"] == round(100 * k / n, 2)
    assert interval(row) == near(100 * expected.low, 100 * expected.high)


def one_cell(k, n):
    bits = np.arange(n) < k
    return {("m", "pgd", "a"): [record("m", "pgd", "a", bits, bits)]}


def test_the_average_of_one_set_and_seed_is_the_cell():
    for k, n in ((0, 10), (7, 10), (146, 150), (150, 150)):
        (cell,), (row,) = results.cell_rows(one_cell(k, n)), results.average_rows(one_cell(k, n), {"all": ["a"]})
        assert (row["mean"], *interval(row)) == (cell["accuracy"], *interval(cell))


def test_where_every_image_counts_there_is_room_below_and_none_above():
    (row,) = results.average_rows(one_cell(150, 150), {"all": ["a"]})
    assert (row["mean"], row["high"]) == (100, 100) and row["low"] == pytest.approx(97.5, abs=0.02)
    of_two = results.average([Sample.of(np.ones((1, 150)))] * 2)
    assert of_two["high"] == 100 and 100 - of_two["low"] == pytest.approx((100 - row["low"]) / math.sqrt(2), abs=0.01)


def test_an_average_weighs_sets_equally_and_puts_their_intervals_together():
    rows = {(r["group"], r["method"], r["attack"]): r for r in results.average_rows(records(), GROUPS)}
    row = rows["all", "m", "pgd"]
    assert (row["mean"], row["sets"], row["seeds"], row["sd"]) == (50.0, 2, 1, "")
    assert interval(row) == near(*together((0.8, 10), (0.2, 10)))
    none = rows["unseen", "n", "pgd"]
    assert (none["mean"], none["low"]) == (0, 0) and none["high"] == pytest.approx(100 * Z**2 / (10 + Z**2), abs=0.01)


@pytest.mark.parametrize("truth", [0.9, 0.97])
def test_the_interval_of_an_average_holds_the_truth_as_often_as_it_says(truth):
    """Two sets of 150 images: every outcome, weighed by how likely it is."""
    likely = {k: p for k in range(151) if (p := stats.binom.pmf(k, 150, truth)) > 1e-8}
    samples = {k: Sample.of((np.arange(150) < k)[None]) for k in likely}
    covered = 0.0
    for one, other in itertools.combinations_with_replacement(likely, 2):
        row = results.average([samples[one], samples[other]])
        if row["low"] <= 100 * truth <= row["high"]:
            covered += likely[one] * likely[other] * (1 if one == other else 2)
    assert 0.93 < covered < 0.97


def test_a_difference_is_paired_by_image():
    rows = {(r["group"], r["attack"]): r for r in results.pair_rows(records(), GROUPS)}
    row = rows["all", "pgd"]
    assert (row["first"], row["second"], row["mean"]) == ("m", "n", 20.0)
    half = 100 * Z * math.sqrt(agresti_min((2, 0, 10), (2, 0, 10)))
    assert interval(row) == near(20 - half, 20 + half)


def of_two_methods(first, second, names="mn"):
    pairs = zip(names, (first, second))
    return {(name, "pgd", "a"): [record(name, "pgd", "a", bits, bits)] for name, bits in pairs}


def test_methods_that_agree_on_every_image_may_still_differ():
    bits = np.arange(150) < 100
    (row,) = results.pair_rows(of_two_methods(bits, bits), {"all": ["a"]})
    assert row["mean"] == 0 and interval(row) == near(-100 * Z / 152, 100 * Z / 152)


def test_a_difference_turned_round_has_the_interval_turned_round():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 150)) < [[0.8], [0.6]]
    (row,) = results.pair_rows(of_two_methods(first, second), {"all": ["a"]})
    (turned,) = results.pair_rows(of_two_methods(second, first, "nm"), {"all": ["a"]})
    assert (turned["first"], turned["mean"]) == ("n", -row["mean"]) and row["mean"] > 0
    assert interval(turned) == (-row["high"], -row["low"])
    half = 100 * Z * math.sqrt(agresti_min(((first & ~second).sum(), (second & ~first).sum(), 150)))
    assert interval(row) == near(row["mean"] - half, row["mean"] + half)


def test_a_difference_ends_at_a_hundred_points():
    (row,) = results.pair_rows(of_two_methods(np.ones(5, bool), np.zeros(5, bool)), {"all": ["a"]})
    assert row["mean"] == row["high"] == 100 > row["low"] > 0


def test_an_average_of_seeds_far_apart_ends_at_none_and_all():
    for hits in ((95, 5), (100, 0)):
        row = results.average([Sample.of((np.arange(100) < np.array(hits)[:, None]).astype(np.int8))])
        assert (row["mean"], *interval(row)) == (50, 0, 100)


def test_methods_that_saw_other_images_are_not_compared():
    made = of_two_methods(np.ones(3, bool), np.ones(3, bool))
    made["n", "pgd", "a"] = [dataclasses.replace(r, ids=(0, 1, 5)) for r in made["n", "pgd", "a"]]
    with pytest.raises(AssertionError, match="n and m saw other images of a"):
        results.pair_rows(made, {"all": ["a"]})


def test_summaries_are_one_small_file_per_method(tmp_path):
    results.write_summaries(tmp_path, results.average_rows(records(), GROUPS))
    assert read_json(tmp_path / "m.json") == {"clean": 90.0, "robust": 50.0, "unseen": 20.0}
    assert read_json(tmp_path / "n.json") == {"clean": 90.0, "robust": 30.0, "unseen": 0.0}


def test_what_a_summary_calls_robust_is_what_all_attacks_leave(tmp_path):
    key = {"group": "all", "method": "m"}
    means = {"clean": 90.0, "pgd": 50.0, "autoattack": 30.0, "worst_case": 20.0}
    results.write_summaries(tmp_path, [key | {"attack": attack, "mean": mean} for attack, mean in means.items()])
    assert read_json(tmp_path / "m.json") == {"clean": 90.0, "robust": 20.0}


def of_three_seeds():
    """m is right on 8, 6 and 4 of 10 images of a, on 2 of b; n, which does not train, on 3 of both."""
    made = {}
    for method, name, hits in (("m", "a", (8, 6, 4)), ("m", "b", (2, 2, 2)), ("n", "a", (3,)), ("n", "b", (3,))):
        for attack in ("clean", "pgd"):
            bits = [(True,) * k + (False,) * (10 - k) for k in hits]
            made[method, attack, name] = [record(method, attack, name, b, b, seed=i) for i, b in enumerate(bits)]
    return made


SHARES = np.array([1, 1, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0])  # of seeds of m, right on each image of a


def residual(values):
    """Variance of (seeds, images) that is due neither to the image nor to the seed."""
    left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return (left**2).sum() / ((values.shape[0] - 1) * (values.shape[1] - 1))


def student(means, of_images=0.0):
    """Half-width of a mean over seeds in percent. of_images: the variance that images add to each."""
    spread = np.var(means, ddof=1) - of_images
    return 100 * stats.t.ppf(0.975, len(means) - 1) * math.sqrt(spread / len(means))


def test_an_average_over_seeds_covers_the_choice_of_images_and_of_seeds():
    rows = {(r["group"], r["method"]): r for r in results.average_rows(of_three_seeds(), GROUPS)}
    row = rows["all", "m"]
    assert (row["mean"], row["seeds"], row["sd"]) == (40.0, 3, 10.0)  # 50, 40, 30
    images = together((0.6, 10 * 0.24 / SHARES.var()), (0.2, 10))
    noise = residual(np.arange(10) < [[8], [6], [4]]) / 10 / 4
    seeds = student([0.5, 0.4, 0.3], noise)
    assert 10 < seeds < student([0.5, 0.4, 0.3]) - 0.2
    assert interval(row) == near(40 - math.hypot(40 - images[0], seeds), 40 + math.hypot(images[1] - 40, seeds))
    assert (rows["all", "n"]["seeds"], rows["all", "n"]["sd"]) == (1, "")


def test_a_difference_of_methods_covers_the_choice_of_seeds():
    row = next(r for r in results.pair_rows(of_three_seeds(), GROUPS) if r["group"] == "all")
    assert (row["first"], row["second"], row["mean"], row["seeds"], row["sd"]) == ("m", "n", 10.0, 3, 10.0)
    differences = SHARES - (np.arange(10) < 3)
    square = ((differences**2).sum() + 1) / 12 - (differences.sum() / 12) ** 2
    images = 100 * Z * math.sqrt(square / 12 / 4 + agresti_min((0, 1, 10)) / 4)  # on b one image of ten differs
    seeds = student([0.2, 0.1, 0.0], residual(np.arange(10) < [[8], [6], [4]]) / 10 / 4)
    assert interval(row) == near(10 - math.hypot(images, seeds), 10 + math.hypot(images, seeds))
    alone = results.pair_rows({k: v[:1] for k, v in of_three_seeds().items()}, GROUPS)[0]
    assert (alone["seeds"], alone["sd"]) == (1, "") and alone["high"] - alone["low"] < row["high"] - row["low"]


OF_SAMPLES = pytest.mark.parametrize("of", [results.average, results.difference])


@OF_SAMPLES
def test_a_seed_that_is_given_again_tells_nothing_new(of):
    values = (np.random.default_rng(0).random((2, 150)) < [[0.97], [0.3]]).astype(np.int8)
    one, same = (of([Sample.of(np.repeat(v[None], k, axis=0)) for v in values]) for k in (1, 4))
    assert (same.pop("seeds"), same.pop("sd"), one.pop("seeds"), one.pop("sd")) == (4, 0, 1, "")
    assert same == one and one["low"] < one["mean"] < one["high"]


def test_seeds_whose_every_verdict_is_independent_are_as_good_as_more_images():
    patterns = np.tile(list(itertools.product((0, 1), repeat=4)), (25, 1)).T  # every pattern over 4 seeds, 25 times
    row, expected = results.average([Sample.of(patterns)]), stats.binomtest(800, 1600).proportion_ci(method="wilson")
    assert row["seeds"] == 4 and interval(row) == near(100 * expected.low, 100 * expected.high)


def test_the_noise_of_images_is_not_counted_again_as_a_spread_of_seeds():
    """Seeds that differ by the noise of their images alone: on average all their spread is taken out."""
    generator, spread, noise = np.random.default_rng(0), [], []
    for _ in range(300):
        easy = generator.random(1000)
        sample = Sample.of((generator.random((4, 1000)) < easy).astype(np.int8))
        spread.append(sample.per_seed.var(ddof=1))
        noise.append(sample.residual / sample.n)
    assert np.mean(noise) == pytest.approx(1 / 6 / 1000, rel=0.02)  # the mean of p (1 - p) over p in [0, 1]
    assert np.mean(spread) - np.mean(noise) == pytest.approx(0, abs=0.15 * np.mean(spread))


@OF_SAMPLES
def test_seeds_that_move_every_image_alike_count_in_full(of):
    images, moves = np.random.default_rng(0).uniform(0.3, 0.6, (1, 150)), np.array([[-0.05], [0.0], [0.07]])
    sample = Sample.of(images + moves)
    row, of_seeds = of([sample]), student(sample.per_seed)
    assert sample.residual == pytest.approx(0, abs=1e-12) and of_seeds > 10
    assert row["low"] < row["mean"] - of_seeds and row["mean"] + of_seeds < row["high"]


def test_every_table_of_several_seeds_shows_mean_and_deviation(tmp_path):
    made = of_three_seeds()
    write_rows(tmp_path / "c.csv", results.cell_rows(made))
    write_rows(tmp_path / "a.csv", results.average_rows(made, {"all": ["a", "b"], "source": ["a"]}))
    tables.accuracy(tmp_path, read_rows(tmp_path / "c.csv"), read_rows(tmp_path / "a.csv"), "title")
    text = " ".join((tmp_path / "accuracy.md").read_text().split())
    assert "| m | **40.0 ± 10.0** | **40.0 ± 10.0** |" in text  # clean and the worst case, mean over sets
    assert "| m | **60.0 ± 20.0** | 20.0 ± 0.0 |" in text and "30 [11, 60]" in text  # sets a and b
    assert "standard deviation over 3 training seeds (0, 1, 2)" in text and "one training seed" not in text
    assert [r["seed"] for r in read_rows(tmp_path / "accuracy.csv")][:3] == ["0", "1", "2"]
    tables.accuracy(tmp_path, read_rows(tmp_path / "c.csv"), read_rows(tmp_path / "a.csv"), "title", bases=3)
    text = " ".join((tmp_path / "accuracy.md").read_text().split())
    assert "over 3 base models, each with a training seed of its own (0, 1, 2)" in text and "one base" not in text


def pair(mean, half, attack="pgd", group="all", seeds=1):
    numbers = {"mean": str(mean), "low": str(mean - half), "high": str(mean + half), "seeds": str(seeds)}
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
    text = " ".join((tmp_path / "accuracy.md").read_text().split())
    assert "80 [49, 94]" in text and "50.0 [32.9, 67.1]" in text and "how pgd" in text and "a 10 (" in text
    assert "one training seed" in text and "±" not in text
    latex = (tmp_path / "accuracy.tex").read_text()
    assert r"\toprule" in latex and r"\caption{title: pgd, accuracy in \%}" in latex
    assert r"\item pgd: how pgd." in latex and r"[low, high]: 95 \% interval" in latex
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
    assert clean.hits.tolist() == clean.clean_bits.tolist() == [True] * 8 + [False] * 2
    assert clean.attacks_run == ("clean",)
    assert clean.gradients == clean.pixels == 0 and not clean.marks and "no attack" in clean.protocol
    own = records()
    assert results.with_clean(own) == own  # a study that has it as an attack keeps it


def test_attacks_stand_side_by_side_paired_by_image(tmp_path):
    made = results.with_worst_case(results.with_clean(three_attacks()))
    rows = results.attack_rows(made, {"all": ["a"]})
    assert [(r["attack"], r["against"], r["mean"]) for r in rows] == [("pgd", "autoattack", 10.0)]
    half = 100 * Z * math.sqrt(agresti_min((1, 0, 10)))
    assert interval(rows[0]) == near(10 - half, 10 + half) and (rows[0]["seeds"], rows[0]["sd"]) == (1, "")
    assert results.attack_rows(results.with_clean(records()), GROUPS) == []  # no AutoAttack, nothing to compare with
    write_rows(tmp_path / "a.csv", results.average_rows(made, {"all": ["a"]}))
    write_rows(tmp_path / "d.csv", [row | {"marks": "underflow"} for row in rows])
    marks = [{"method": "m", "attack": "pgd", "set": "a", "mark": "underflow", "reason": "why"}]
    tables.attacks(tmp_path, read_rows(tmp_path / "a.csv"), read_rows(tmp_path / "d.csv"), "all", "title", marks)
    text = " ".join((tmp_path / "attacks.md").read_text().split())
    assert "| method | clean | worst_case | pgd | autoattack |" in text and "| method | pgd - autoattack |" in text
    shown = ["50.0 [23.7, 76.3]", "60.0 [31.3, 83.2]", "50.0 [23.7, 76.3]"]
    assert f"| {' | '.join(shown)} |" in text and "| m | +10.0 [-12.6, +32.6] †1 |" in text and "why" in text
    assert read_rows(tmp_path / "attacks.csv")[0]["mean"] == "10.0"


def read_back(tmp_path, records, groups):
    """Rows of averages and pairs as a table reads them."""
    made = {"averages": results.average_rows(records, groups), "pairs": results.pair_rows(records, groups)}
    for name, rows in made.items():
        write_rows(tmp_path / f"{name}.csv", rows)
    return [read_rows(tmp_path / f"{name}.csv") for name in made]


def test_the_effect_of_a_switch_is_its_row_minus_the_other_whichever_comes_first(tmp_path):
    _, pairs = read_back(tmp_path, of_three_seeds(), {"all": ["a", "b"], "unseen": ["b"]})
    named = {"m": {"id": "X1", "against": "n"}, "n": {"id": "X2", "against": "m"}}
    marked = [pair | {"marks": "underflow" if pair["attack"] == "pgd" else ""} for pair in pairs]
    marks = [{"method": "m", "attack": "pgd", "set": "a", "mark": "underflow", "reason": "why"}]
    tables.quirks(tmp_path, marked, named, "title", marks)
    text = " ".join((tmp_path / "quirks.md").read_text().split())
    low, high = (float(next(p for p in pairs if p["group"] == "all")[side]) for side in ("low", "high"))
    assert "| quirk | row | against | clean | pgd |" in text and "†1 underflow. m pgd a: why." in text
    there, back = f"+10.0 [{low:+.1f}, {high:+.1f}]", f"-10.0 [{-high:+.1f}, {-low:+.1f}]"
    assert f"| X1 | m | n | {there} | {there} †1 |" in text and f"| X2 | n | m | {back} | {back} †1 |" in text
    assert "over the choice of images and of seeds" in text


def test_a_difference_of_zero_has_one_sign_whichever_comes_first():
    row = {"mean": "0.0", "low": "-1.2", "high": "1.2"}
    assert tables.signed(row) == tables.signed(row, -1) == "+0.0 [-1.2, +1.2]"


def test_the_ablation_has_every_row_under_every_attack(tmp_path):
    averages, _ = read_back(tmp_path, of_three_seeds(), {"all": ["a", "b"], "unseen_strict": ["b"]})
    tables.ablation(tmp_path, averages, "title")
    text = " ".join((tmp_path / "ablation.md").read_text().split())
    assert "| row | clean all | pgd all | clean unseen_strict | pgd unseen_strict |" in text
    (both,) = (r for r in averages if (r["method"], r["attack"], r["group"]) == ("n", "clean", "all"))
    alone = f"30.0 [{float(both['low']):.1f}, {float(both['high']):.1f}]"
    assert "| m | **40.0 ± 10.0** | **40.0 ± 10.0** | 20.0 ± 0.0 | 20.0 ± 0.0 |" in text
    assert f"| n | {alone} | {alone} | **30.0 [10.8, 60.3]** | **30.0 [10.8, 60.3]** |" in text
    assert text.index("| n |") < text.index("| m |")  # by the worst case on the sets that are not shown in training


def test_a_set_that_is_left_out_is_in_no_average_and_every_count_says_so():
    from zsr.evaluation.results import counted_sets, without
    from zsr.reports.reading import titled

    groups = {"all": ["a", "b", "c"], "source": ["a"], "unseen": ["b", "c"]}
    study = {"sets": ["a", "b", "c"], "judged": ["a", "b", "c"], "groups": groups}
    assert without(study, {}) == study and counted_sets(study, "all") == 3 and titled("n", study) == "n"
    left = without(study, {"c": "needs a registration"})
    assert left["groups"] == {"all": ["a", "b"], "source": ["a"], "unseen": ["b"]} and left["judged"] == ["a", "b"]
    assert [counted_sets(left, group) for group in groups] == ["2 of 3", 1, "1 of 2"]
    assert titled("n", left) == "n (2 of 3 sets; left out: c needs a registration)"
