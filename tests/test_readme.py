"""What the committed README says is what the results committed with it say."""

import re

import pytest

from tests.pipeline import Checkout
from zsr.storage import read_rows


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
        columns = [(group, attack) for group in ("all", "unseen_strict") for attack in ("clean", "pgd")]
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
    "first, second, attack, group, figures",
    [
        ("tecoa", "tga_zsr", "clean", "all", "2.1 ± 0.9"),
        ("tecoa", "tga_zsr", "pgd", "all", "0.5 ± 1.0"),
        ("ft_adv", "tga_zsr", "pgd", "all", "1.1 ± 1.4"),
        ("tga_zsr", "embedding_anchor", "clean", "all", "7.7 ± 1.5"),
        ("tga_zsr", "embedding_anchor", "pgd", "all", "2.8 ± 1.6"),
        ("tga_zsr", "embedding_anchor", "pgd", "unseen_strict", "-0.4 ± 1.8"),
    ],
)
def test_the_differences_named_are_those_of_the_metrics(readme, rows, first, second, attack, group, figures):
    key = {"group": group, "attack": attack, "first": first, "second": second}
    row = next(r for r in rows("metrics/pairs.csv") if key.items() <= r.items())
    assert f"{-float(row['mean']):.1f} ± {float(row['half_width']):.1f}" == figures
    assert figures in readme


def test_the_base_model_is_as_good_as_said(readme, rows):
    cells = {(r["method"], r["attack"], r["set"]): r for r in rows("metrics/accuracy.csv")}
    for name, said in (
        ("shapes", "100.0 [98, 100] % of the shapes"),
        ("digits_real", "60.2 [56, 64] % of the real digits"),
    ):
        row = cells["clip", "clean", name]
        value = f"{float(row['accuracy']):.1f} [{float(row['low']):.0f}, {float(row['high']):.0f}] %"
        assert said.startswith(value) and f"{said} (n = {row['n']})" in readme


def test_the_range_of_robust_averages_is_that_of_the_metrics(readme, rows):
    by_key = {(r["group"], r["method"], r["attack"]): r for r in rows("metrics/averages.csv")}
    trained = [float(by_key["all", m, "pgd"]["mean"]) for m in ("ft_adv", "tecoa", "tga_zsr", "embedding_anchor")]
    assert f"keep {min(trained):.1f} to {max(trained):.1f} %" in readme
    assert min(trained) - float(by_key["all", "clip", "pgd"]["mean"]) >= 20


def test_nothing_is_left_to_fill_in(readme):
    assert not re.search(r"@[A-Z]+@", readme)


def test_what_is_said_of_the_maps_was_measured(readme, rows):
    measured = rows("metrics/attention.csv")
    assert {row["peak_on_object"] for row in measured} == {"0.0"}
    assert {f"{float(row['object_share']):.0%}" for row in measured} == {"16%"}
    ratios = [float(row["shift_attack"]) / float(row["shift_noise"]) for row in measured]
    assert f"{min(ratios):.0f} to {max(ratios):.0f} times" in readme


def test_every_file_that_is_linked_is_there(project, readme):
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert target.startswith("https://") or (project.folder / target).exists(), target
