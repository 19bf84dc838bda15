"""DVC's own views in a fresh clone, which has the files of git and no data: how wide they are, and what they show."""

import json
import re
import shlex

import pytest

from benchmarks import pipeline_graph
from tests.checkout import ROOT, Checkout
from zsr.files import read_json, read_rows
from zsr.params import read

METHODS = list(read(ROOT / "params.yaml")["methods"])
READ = (".dvc", "code.yaml", "dvc.lock", "dvc.yaml", "figures", "metrics", "params.yaml")  # what the views read
CHANGED = "tga_zsr"  # the method that an experiment changes


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("clone"), only=READ).folder


@pytest.fixture
def dvc(clone, monkeypatch, capsys):
    """A DVC command in the clone, in this process -> the lines that it prints."""
    from dvc.cli import main

    monkeypatch.chdir(clone)
    monkeypatch.setenv("COLUMNS", "1000")  # as a pager shows a table, however wide

    def run(*arguments: str) -> list[str]:
        status = main(list(arguments))
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out.splitlines()

    return run


@pytest.fixture
def experiment(clone):
    """The clone after a change of one method: its number, its metrics, its rows in the results, hashes in the lock."""
    summary, averages = (clone / f"metrics/{name}" for name in (f"summary/{CHANGED}.json", "results/averages.csv"))
    params, lock = clone / "params.yaml", clone / "dvc.lock"
    before = {path: path.read_text() for path in (summary, averages, params, lock)}
    moved = f"params.yaml|metrics|data/(checkpoints|checkpoints/{CHANGED}|records)"
    lock.write_text(re.sub(rf"(- path: ({moved})\n(?: {{6}}.*\n)*? {{6}}md5: )....", r"\1abcd", before[lock]))
    summary.write_text(json.dumps({key: value + 1.25 for key, value in read_json(summary).items()}))
    averages.write_text(re.sub(rf"^(all,{CHANGED},clean,\d+),[\d.]+", r"\1,99.5", before[averages], flags=re.MULTILINE))
    params.write_text(before[params].replace("lambda_ar: 0.08", "lambda_ar: 0.1", 1))
    yield
    for path, text in before.items():
        path.write_text(text)


def charts(folder) -> dict[str, dict]:
    """Title -> specification of every chart of a page with data."""
    found = map(json.loads, re.findall(r"var spec = (.*);\n", (folder / "index.html").read_text()))
    specs = [spec for spec in found if spec]
    return {spec["title"]["text"] if isinstance(spec["title"], dict) else spec["title"]: spec for spec in specs}


def marks(spec: dict) -> list[str]:
    """What Vega draws from a chart: the facts of every mark, as a screen reader reads them."""
    import vl_convert

    return re.findall(r'aria-label="([^"]*)"', vl_convert.vegalite_to_svg(spec))


def test_metrics_are_a_line_for_each_method_in_80_columns(dvc):
    lines = dvc("metrics", "show")
    assert lines[0].split() == ["Path", "clean", "marked", "robust", "unseen"]
    assert [line.split()[0] for line in lines[1:]] == [f"metrics/summary/{m}.json" for m in sorted(METHODS)]
    assert max(map(len, lines)) <= 80


def test_the_metrics_are_those_of_the_results():
    means = {
        (r["group"], r["method"], r["attack"]): float(r["mean"])
        for r in read_rows(ROOT / "metrics/results/averages.csv")
    }
    for method in METHODS:
        told = read_json(ROOT / f"metrics/summary/{method}.json")
        attacks = [attack for group, name, attack in means if (group, name) == ("all", method) and attack != "clean"]
        assert told["clean"] == means["all", method, "clean"]
        assert told["robust"] == min(means["all", method, attack] for attack in attacks)
        assert told["unseen"] == min(means["unseen", method, attack] for attack in attacks)


@pytest.mark.slow
def test_a_changed_method_is_a_screen_of_differences(dvc, experiment):
    lines = [line for line in dvc("metrics", "diff") if line]
    assert 1 < len(lines) <= 24 and all(f"{CHANGED}.json" in line for line in lines[1:])
    assert max(map(len, lines)) <= 80


def test_experiments_stand_side_by_side_in_120_columns(dvc, experiment):
    pages = ((ROOT / name).read_text() for name in ("README.md", "docs/using.md"))
    (command,) = {shown for page in pages for shown in re.findall(r"^\$ dvc (exp show .*)$", page, re.MULTILINE)}
    lines = dvc(*shlex.split(command), "--no-pager")
    table = "\n".join(lines)
    assert all(f"{CHANGED}.json:{key}" in table for key in ("clean", "robust")) and "method.lambda_ar" in table
    name = len("├── 1234567 [ar01]") - len("Experiment")  # a row of an experiment is wider than those here
    assert max(map(len, lines)) + name <= 120


@pytest.fixture(scope="module")
def page(clone, tmp_path_factory):
    """The folder of `dvc plots show` in the clone."""
    from dvc.cli import main

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        assert main(["plots", "show", "--out", str(folder)]) == 0
    return folder


def test_a_fresh_clone_has_all_charts_and_images(page):
    trained = [m for m in METHODS if read_rows(ROOT / f"metrics/curves/{m}/curve.csv")]
    titles = ["clean against robust accuracy", "accuracy on every set", "loss of pre-training", "accuracy as pgd grows"]
    assert set(charts(page)) == {*titles, *(f"loss of {m}" for m in trained)}
    text = (page / "index.html").read_text()
    maps = [ROOT / f"metrics/attention/{name}.png" for name in read(ROOT / "params.yaml")["attention"]]
    images = [*(ROOT / "figures").iterdir(), *maps]
    assert text.count("<img") == len(images) > 2


@pytest.mark.slow
def test_charts_show_the_numbers_of_the_results(page):
    drawn = {title: marks(spec) for title, spec in charts(page).items() if not title.startswith(("metrics", "loss"))}
    drawn = {title: [mark for mark in found if f"method: {CHANGED}" in mark] for title, found in drawn.items()}
    told, points = read_json(ROOT / f"metrics/summary/{CHANGED}.json"), drawn["clean against robust accuracy"]
    shown = f"clean accuracy, %: {told['clean']}; robust accuracy, %: {told['robust']}"
    assert points and all(shown in point for point in points)
    kinds, bars = {"clean": "clean", "worst_case": "robust"}, drawn["accuracy on every set"]
    for row in read_rows(ROOT / "metrics/results/accuracy.csv"):
        if row["method"] == CHANGED and row["attack"] in kinds:
            facts = (f"set: {row['set']}", f"images: {kinds[row['attack']]}", f"value: {float(row['accuracy']):g}")
            assert any(all(fact in bar for fact in facts) for bar in bars), facts
    sweep = [row for row in read_rows(ROOT / "metrics/eps_sweep/pgd.csv") if row["method"] == CHANGED]
    zero = [100 * int(row["correct"]) / int(row["n"]) for row in sweep if row["eps"] == "0/255"]
    facts = ("radius: 0;", f"accuracy: {sum(zero) / len(zero):.1f}")
    assert any(all(fact in point for fact in facts) for point in drawn["accuracy as pgd grows"])


@pytest.mark.slow
def test_two_versions_stand_in_one_chart(dvc, experiment, tmp_path):
    dvc("plots", "diff", "HEAD", "workspace", "--out", str(tmp_path), "--targets", "clean against robust accuracy")
    (spec,) = charts(tmp_path).values()
    points = [mark for mark in marks(spec) if f"method: {CHANGED}" in mark]
    assert any("rev: workspace" in p and "clean accuracy, %: 99.5" in p for p in points)
    assert any("rev: HEAD" in p and "99.5" not in p for p in points)


def test_the_page_takes_its_script_from_beside_it_and_else_from_the_network(page):
    text = (page / "index.html").read_text()
    assert '<script src="../data/plots_page.js"></script>' in text
    (network,) = re.findall(r'<template id="network">(.*?)</template>', text, re.DOTALL)
    assert "https://cdn" in network and "https://cdn" not in text.replace(network, "")


@pytest.mark.parametrize("config", sorted(ROOT.glob("**/.dvc/config")), ids=lambda path: path.parts[-3])
def test_every_study_has_the_page_and_the_templates(config):
    (named,) = re.findall(r"html_template = (.*)", config.read_text())
    assert (config.parent / named).resolve() == ROOT / ".dvc/plots/page.html"
    study = config.parents[1]
    up = read(study / "params.yaml")["up"]
    templates = re.findall(r'template: "(.*?)"', (study / "dvc.yaml").read_text())
    assert len(templates) == 4 and all((study / name.replace("${up}", up)).is_file() for name in templates)


def test_the_picture_in_the_docs_is_that_of_the_graph():
    page, stages = pipeline_graph.PAGE.read_text(), read(ROOT / "dvc.yaml")["stages"]
    assert pipeline_graph.with_picture(page, stages) == page, "run python -m benchmarks.pipeline_graph"
    picture = pipeline_graph.picture(stages)
    assert "  evaluate[[evaluate]]\n" in picture and "  train --> evaluate\n" in picture
    assert "train --> collect" not in picture  # by way of evaluate
    assert picture.count("\n") < 60
