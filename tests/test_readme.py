"""What the committed README says is what the results committed with it say."""

import re
from statistics import fmean, stdev

import pytest

from tests.pipeline import Checkout
from zsr.storage import read_rows

UNATTACKED = ("clip", "ft_clean")  # methods that see no attack in training
UNDEFENDED = ("clip", "autoattack")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("readme"), committed=True)


@pytest.fixture(scope="module")
def readme(project):
    return (project.folder / "README.md").read_text()


@pytest.fixture(scope="module")
def rows(project):
    """Reads a table of the committed results."""
    return lambda path: read_rows(project.folder / path)


def test_the_metrics_shown_are_those_that_dvc_shows(project, readme):
    shown = re.search(r"\$ dvc metrics show\n(.*?)\n```", readme, re.DOTALL).group(1)
    printed = project.dvc("metrics", "show")
    assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in printed.rstrip().splitlines()]


def test_the_table_of_averages_is_that_of_the_metrics(readme, rows):
    by_key = {(r["group"], r["method"], r["attack"]): r for r in rows("metrics/averages.csv")}
    methods = list(dict.fromkeys(method for _, method, _ in by_key))
    for method in methods:
        columns = [("all", attack) for attack in ("clean", "pgd", "cw", "autoattack")]
        columns += [("unseen_strict", attack) for attack in ("clean", "autoattack")]
        cells = [by_key[group, method, attack] for group, attack in columns]
        line = " | ".join(f"{float(r['mean']):.1f} ± {float(r['half_width']):.1f}" for r in cells)
        assert f"| {method} | {line} |" in readme


@pytest.mark.parametrize("verdict", ["appear", "reversed", "undecided"])
def test_the_count_of_orderings_is_that_of_the_table(readme, rows, verdict):
    verdicts = [row["here"] for row in rows("tables/orderings.csv")]
    sentence = re.search(
        r"Of the paper's (\d+) orderings.*?\n\n|Of the paper's (\d+) orderings.*?\)", readme, re.DOTALL
    ).group()
    assert str(len(verdicts)) in sentence
    count = re.search(rf"(\d+)\s+(?:is |are |stays? )?{verdict}", sentence).group(1)
    assert int(count) == sum(v.startswith(verdict) for v in verdicts)


@pytest.mark.parametrize(
    "first, second, attack, group",
    [
        ("tecoa", "tga_zsr", "clean", "all"),
        ("tecoa", "tga_zsr", "pgd", "all"),
        ("tecoa", "tga_zsr", "autoattack", "all"),
        ("ft_adv", "tga_zsr", "pgd", "all"),
        ("ft_adv", "tga_zsr", "autoattack", "all"),
        ("tga_zsr", "comp_tga", "clean", "all"),
        ("tga_zsr", "comp_tga", "pgd", "all"),
        ("tga_zsr", "comp_tga", "autoattack", "all"),
        ("tga_zsr", "embedding_anchor", "clean", "all"),
        ("tga_zsr", "embedding_anchor", "autoattack", "all"),
        ("tga_zsr", "embedding_anchor", "autoattack", "unseen_strict"),
        ("fare", "tga_zsr", "clean", "all"),
        ("fare", "tga_zsr", "autoattack", "all"),
    ],
)
def test_the_differences_named_are_those_of_the_metrics(readme, rows, first, second, attack, group):
    """Of the two methods the one the text puts first may be either."""
    key = {"group": group, "attack": attack, "first": first, "second": second}
    row = next(r for r in rows("metrics/pairs.csv") if key.items() <= r.items())
    mean, half = float(row["mean"]), float(row["half_width"])
    assert any(f"{sign * mean:.1f} ± {half:.1f}" in readme for sign in (1, -1))


def test_vision_based_attention_is_tecoa(readme, rows):
    assert "**is** TeCoA, bit for bit" in readme
    cells = {(r["method"], r["attack"], r["set"]): r["correct"] for r in rows("metrics/accuracy.csv")}
    for (method, attack, name), correct in cells.items():
        assert method != "vision_attention" or correct == cells["tecoa", attack, name]


def test_the_ablation_shown_is_the_measured_one(readme, rows):
    measured = rows("ablation/tables/ablation.csv")
    assert len(measured) >= 8
    for row in measured:
        columns = [f"{attack} {group}" for group in ("all", "unseen_strict") for attack in ("clean", "pgd")]
        line = " | ".join(f"{float(row[c]):.1f} ± {float(row[f'{c} sd']):.1f}" for c in columns)
        assert f"| {row['variant']} | {line} |" in readme


def test_the_marks_of_the_audit_are_counted(readme, rows):
    marks = rows("metrics/marks.csv")
    assert f"leaves {len(marks)} marks, all of undefended CLIP" in readme
    assert {row["method"] for row in marks} == {"clip"}


def test_autoattack_leaves_nothing_of_what_is_not_defended_but_what_is_said(readme, rows):
    left = {r["set"]: r["accuracy"] for r in rows("metrics/accuracy.csv") if (r["method"], r["attack"]) == UNDEFENDED}
    text = " ".join(readme.split())
    for name, said in (("shapes", "{} % of the shapes"), ("letters", "{} % of the letters")):
        assert said.format(f"{float(left[name]):.1f}") in text
    assert f"{float(left['digits_font']):.1f} and {float(left['digits_real']):.1f} % of drawn and real digits" in text
    assert max(float(left[name]) for name in ("shapes", "letters", "digits_font", "digits_real")) < 5


@pytest.mark.parametrize("attack, said", [("pgd", "PGD leaves {:.1f} to {:.1f} points"), ("cw", "CW {:.1f} to {:.1f}")])
def test_what_other_attacks_leave_beyond_autoattack_is_measured(readme, rows, attack, said):
    means = [float(r["mean"]) for r in rows("metrics/attacks.csv") if (r["group"], r["attack"]) == ("all", attack)]
    assert said.format(min(means), max(means)) in " ".join(readme.split())


def test_every_method_falls_as_eps_grows(readme, rows):
    counts: dict = {}
    for row in rows("metrics/eps_sweep.csv"):
        counts.setdefault((row["method"], row["set"]), []).append((int(row["correct"]) / int(row["n"]), row["eps"]))
    assert all(shares == sorted(shares, reverse=True) for shares in ([s for s, _ in own] for own in counts.values()))
    methods = {method for method, _ in counts}
    ends = [[own[-1][0] for (m, _), own in counts.items() if m == method] for method in methods]
    largest = max(100 * sum(shares) / len(shares) for shares in ends)
    assert f"falls to {largest:.1f} % or less at {next(iter(counts.values()))[-1][1]}" in " ".join(readme.split())


@pytest.mark.parametrize("name, what", [("shapes", "of the shapes"), ("digits_real", "of the real digits")])
def test_the_base_model_is_as_good_as_said(readme, rows, name, what):
    cells = {(r["method"], r["attack"], r["set"]): r for r in rows("metrics/accuracy.csv")}
    row = cells["clip", "clean", name]
    value = f"{float(row['accuracy']):.1f} [{float(row['low']):.0f}, {float(row['high']):.0f}] %"
    assert f"{value} {what} (n = {row['n']})" in readme


def test_the_range_of_robust_averages_is_that_of_the_metrics(readme, rows):
    by_key = {(r["group"], r["method"], r["attack"]): r for r in rows("metrics/averages.csv")}
    key = ("all", "autoattack")
    trained = [float(r["mean"]) for (g, m, a), r in by_key.items() if (g, a) == key and m not in UNATTACKED]
    assert f"keep {min(trained):.1f} to {max(trained):.1f} % under AutoAttack" in " ".join(readme.split())
    assert min(trained) > 10 + float(by_key["all", "clip", "autoattack"]["mean"])


def test_nothing_is_left_to_fill_in(readme):
    assert not re.search(r"@[A-Z]+@", readme)


def test_what_is_said_of_the_maps_was_measured(readme, rows):
    measured = rows("metrics/attention.csv")
    assert {row["peak_on_object"] for row in measured} == {"0.0"} and "none of 100 images" in readme
    share = f"{float(measured[0]['object_share']):.0%}".replace("%", " %")
    ratios = [float(row["shift_attack"]) / float(row["shift_noise"]) for row in measured]
    text = " ".join(readme.split())
    assert f"be in {share}" in text and f"{min(ratios):.0f} to {max(ratios):.0f} times" in text


def test_every_file_that_is_linked_is_there(project, readme):
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("https://") or (project.folder / target).exists(), target


def spread(values):
    return f"{fmean(values):.1f} ± {stdev(values):.1f}"


def test_the_table_of_twins_is_that_of_its_metrics(readme, rows):
    by_key = {(r["group"], r["method"], r["attack"]): r for r in rows("twins/metrics/averages.csv")}
    columns = [("source", a) for a in ("clean", "pgd", "autoattack")] + [("unseen", a) for a in ("clean", "pgd")]
    for method in dict.fromkeys(method for _, method, _ in by_key):
        path = f"twins/metrics/grid/{method}.csv"
        rate = "" if method in ("clip", "start") else next(r["lr"] for r in rows(path) if r["chosen"] == "1")
        cells = [by_key[group, method, attack] for group, attack in columns]
        line = " | ".join(f"{float(r['mean']):.1f} ± {float(r['sd'] or r['half_width']):.1f}" for r in cells)
        assert f"| {method} | {rate} | {line} |" in readme


@pytest.mark.parametrize("twins, control", [("twins_at", "at"), ("twins_at", "at_scaled"), ("twins_at", "frozen_only"),
                                            ("twins_trades", "trades")])  # fmt: skip
def test_what_twins_gains_over_a_control_is_said_as_it_was_measured(readme, rows, twins, control):
    for attack in ("clean", "autoattack"):
        for row in rows("twins/metrics/pairs.csv"):
            if (row["group"], row["attack"]) == ("source", attack) and {row["first"], row["second"]} == {
                twins,
                control,
            }:
                sign = 1 if row["first"] == twins else -1
                assert f"{sign * float(row['mean']):+.1f} ± {float(row['half_width']):.1f}" in readme


def test_effective_rates_of_twins_are_those_of_the_curves(readme, rows):
    for method in ("at", "at_scaled", "twins_at"):
        rho = fmean(float(row["rho"]) for row in rows(f"twins/metrics/curves/{method}-0.01.csv"))
        assert f"{rho:.3f}" in readme


def test_the_table_of_transferred_non_robustness_is_that_of_its_runs(readme, rows):
    measured, likeness = rows("transfer/tables/transfer.csv"), rows("transfer/metrics/likeness.csv")
    for start in ("scratch", "pretrained", "robust"):
        for method in ("ft", "dm", "trades", "at"):
            own = [r for r in measured if (r["init"], r["method"]) == (start, method)]
            cells = [spread([100 * float(r[key]) for r in own]) for key in ("clean", "robust@15/255", "DR@15/255")]
            of_run = [r for r in likeness if r["run"] == f"{start}_{method}"]
            for measure, shown, layer in (("cka", "clean", "features"), ("accuracy", "universal", "")):
                values = [r for r in of_run if (r["measure"], r["input"], r["layer"]) == (measure, shown, layer)]
                cells.append(spread([100 * float(r["value"]) for r in values]))
            assert f"| {start} | {method} | {' | '.join(cells)} |" in readme


def test_the_difference_that_pre_training_makes_is_said_as_it_was_measured(readme, rows):
    row = next(r for r in rows("transfer/tables/differences.csv")
               if (r["first"], r["second"], r["eps"]) == ("pretrained ft", "scratch ft", "15/255"))  # fmt: skip
    said = f"{100 * float(row['robust']):+.1f} ± {100 * float(row['robust_sd']):.1f} points, in {row['agree']} of"
    assert said in " ".join(readme.split())
