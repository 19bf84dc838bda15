"""The report of a small invented study: what the page holds, hides, escapes and never asks the network for."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.checkout import ROOT
from zsr.params import read
from zsr.reports import charts, report
from zsr.reports.charts import LINE, SIZES, Box
from zsr.reports.report import Source
from zsr.reports.style import styles

METHODS, ATTACKS, SETS = ("clip", "tecoa", "tga_zsr"), ("clean", "pgd", "autoattack", "worst_case"), ("a", "b", "c")
GROUPS = {"all": ["a", "b", "c"], "source": ["a"], "unseen": ["b", "c"]}


def mean(method: str, attack: str, group: str) -> float:
    """Another number for each cell."""
    places = METHODS.index(method), ATTACKS.index(attack), (*GROUPS, *SETS).index(group)
    return 90.13 - 20.4 * places[1] - 3.7 * places[0] - 0.6 * places[2]


def spans(value: float) -> dict[str, str]:
    return {"low": f"{value - 2:.2f}", "high": f"{value + 2:.2f}"}


def averages(marked=()):
    return [
        {
            "group": group,
            "method": m,
            "attack": a,
            "sets": "3",
            "mean": f"{mean(m, a, group):.2f}",
            "seeds": "1",
            "sd": "",
        }
        | spans(mean(m, a, group))
        | {"marks": "underflow" if (m, a) in marked and group != "source" else ""}
        for group in GROUPS
        for m in METHODS
        for a in ATTACKS
    ]


def accuracy():
    protocol = {"clean": "no attack", "worst_case": "all"}
    return [
        {"method": m, "attack": a, "set": s, "seed": "0", "n": "100", "ids": "12ab", "counted": "both", "marks": ""}
        | {"protocol": protocol.get(a, f"{a}, eps 1/255; batches of 7"), "accuracy": f"{mean(m, a, s):.2f}"}
        | spans(mean(m, a, s))
        for m in METHODS
        for a in ATTACKS
        for s in SETS
    ]


def pairs():
    """tecoa equals clip, within the interval; every other difference is decided."""
    ends = [(METHODS[i], METHODS[j]) for i in range(3) for j in range(i + 1, 3)]
    rows = []
    for group in GROUPS:
        for a in ATTACKS:
            for first, second in ends:
                half = 9.0 if (first, second) == ("clip", "tecoa") else 0.1
                value = mean(first, a, group) - mean(second, a, group)
                limits = {"mean": f"{value:.2f}", "low": f"{value - half:.2f}", "high": f"{value + half:.2f}"}
                rows.append({"group": group, "attack": a, "first": first, "second": second, "marks": ""} | limits)
    return rows


RATES = [  # method, rate, seed, accuracy, chosen; the third rate diverged in a seed
    {"method": "tecoa", "lr": lr, "seed": seed, "test_clean": clean, "test_robust": "31.0", "chosen": chosen}
    for lr, seed, clean, chosen in (
        ("0.1", "0", "71.0", "1"), ("0.1", "1", "73.0", "1"), ("0.01", "0", "60.0", "0"), ("1", "0", "", "0"),
    )
]  # fmt: skip


def source(**changes) -> Source:
    """A study that has data for every section but that of learning rates."""
    marks = [{"method": "tga_zsr", "attack": "pgd", "set": "b", "mark": "underflow", "reason": "7 % < zero"}]
    maps = {
        "method": "clip",
        "shift_attack": "3.1",
        "shift_noise": "0.3",
        "peak_on_object": "0.5",
        "object_share": "0.1",
    }
    ordering = {
        "attack": "pgd",
        "first": "clip",
        "second": "tecoa",
        "paper": "-2.5",
        "ours": "+3.7",
        "here": "reversed",
    }
    gap = {"first": "x", "second": "y", "eps": "1/255", "clean": "0.1", "robust": "0.2", "robust_sd": "0.01"}
    gap |= {"drop_rate": "0.3", "drop_rate_sd": "0.02", "agree": "1", "seeds": "4", "saturated": "False"}
    minus = {"group": "unseen", "method": "clip", "attack": "pgd", "against": "autoattack", "marks": "", "mean": "1.5"}
    alike = {"run": "tecoa", "measure": "cka", "input": "clean", "layer": "l1", "value": "0.83"}
    quirks = {"tga_zsr": {"id": "G5", "against": "tecoa"}}
    complete = Source(
        document={"name": "a study", "caution": "", "quirks": quirks, "train": {"attack": {"eps": "1/255"}}},
        study={
            "arch": "tiny",
            "bases": 1,
            "methods": dict.fromkeys(METHODS, {}),
            "judged": list(SETS),
            "groups": GROUPS,
        }
        | {"attacks": {"pgd": "1/255", "autoattack": "1/255"}, "classes": dict.fromkeys(SETS, 5)},
        accuracy=accuracy(),
        averages=averages(marked=[("tga_zsr", "pgd")]),
        pairs=pairs(),
        attacks=[minus | {"low": "0.5", "high": "2.5"}],
        marks=marks,
        checks=[{"check": "underflow", "rule": "zeros", "cells": "12", "marked": "1"}],
        sweeps={
            "pgd": [{"method": "clip", "set": "a", "eps": f"{e}/255", "n": "10", "correct": str(9 - e)} for e in (0, 4)]
        },
        attention={"a": (b"\x89PNG", [maps])},
        orderings=[ordering],
        differences=[gap],
        likeness={"start": [alike]},
        libraries={"torch": "2.0.1"},
        python="3.12",
        citation=read(ROOT / "CITATION.cff"),
    )
    return replace(complete, **changes)


class Page(HTMLParser):
    """A parsed page: elements with their attributes, ids of sections, cells of tables, specs of charts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.tables, self.specs, self.scripts, self.words = [], [], [], [], []
        self.inside, self.cell = "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = {"text": "", "marks": [], **dict(attributes)}
            self.tables[-1][-1].append(self.cell)
        elif tag == "a" and dict(attributes).get("class") == "mark":
            self.cell["marks"].append(dict(attributes)["title"])

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.cell and self.inside in ("span", "button"):
            self.cell["text"] += data
        self.words.append(data)

    def handle_endtag(self, tag):
        self.inside = ""
        if tag in ("td", "th"):
            self.cell = None

    @property
    def sections(self) -> set[str]:
        return {attributes["id"] for tag, attributes in self.elements if tag == "section"}

    @property
    def links(self) -> set[str]:
        return {attributes.get("href", "") for tag, attributes in self.elements if tag == "a"}

    def column(self, table: int, place: int) -> dict[str, dict]:
        """The cells of a column, by the text of the first cell."""
        rows = [row for row in self.tables[table] if row and "scope" not in row[0]]
        return {row[0]["text"]: row[place] for row in rows}


def parsed(**changes) -> Page:
    return Page(report.page(source(**changes), "/* the script */"))


def test_the_headline_has_every_number_of_the_averages():
    page = parsed()
    columns = [(group, attack) for group in ("unseen", "source", "all") for attack in ATTACKS]
    for place, (group, attack) in enumerate(columns, 1):
        texts = {method: cell["text"] for method, cell in page.column(0, place).items()}
        assert texts == {m: f"{mean(m, attack, group):.1f}" for m in METHODS}


def test_rows_begin_with_the_highest_accuracy_in_the_worst_case():
    turned = [row | {"mean": f"{100 - float(row['mean'])}"} for row in averages()]
    assert list(parsed().column(0, 1)) == list(METHODS) and list(parsed(averages=turned).column(0, 1)) == [
        *METHODS[::-1]
    ]


def test_the_tables_of_sets_have_every_number():
    page = parsed()
    for i, attack in enumerate(ATTACKS, 1):
        for place, name in enumerate(SETS, 1):
            texts = {method: cell["text"] for method, cell in page.column(i, place).items()}
            assert texts == {m: f"{mean(m, attack, name):.1f}" for m in METHODS}


def test_the_best_is_bold_and_what_may_equal_it_is_shaded():
    shades = {method: cell["class"] for method, cell in parsed().column(0, 1).items()}
    assert shades == {"clip": "number best", "tecoa": "number tie", "tga_zsr": "number"}


def test_a_dagger_tells_the_reason_and_stands_at_marked_numbers_alone():
    page = parsed()
    marked = [(m, place) for place in range(1, 13) for m, cell in page.column(0, place).items() if cell["marks"]]
    assert marked == [("tga_zsr", 2), ("tga_zsr", 10)]  # pgd, of unseen and of all sets
    assert "tga_zsr pgd b: 7 % < zero" in page.column(0, 2)["tga_zsr"]["marks"][0]


def specs(page: Page) -> list[dict]:
    return [json.loads(text) for text in page.scripts if text.startswith("{")]


def test_points_of_charts_are_the_numbers():
    drawn = {
        chart["title"]: chart["data"]["values"] for chart in specs(parsed()) if "clean" in chart["data"]["values"][0]
    }
    assert set(drawn) == set(ATTACKS[1:])
    for attack, points in drawn.items():
        assert {(p["method"], p["x"], p["y"]) for p in points} == {
            (m, round(mean(m, "clean", "unseen"), 2), round(mean(m, attack, "unseen"), 2)) for m in METHODS
        }
    assert {p["audit"] for p in drawn["pgd"]} == {"", "underflow"}  # drawn hollow


def test_the_sweep_is_a_mean_over_sets_and_shows_the_eps_of_training():
    rows = [{"method": "clip", "set": s, "eps": "4/255", "n": "10", "correct": n} for s, n in (("a", "2"), ("b", "7"))]
    (chart,) = report.eps_charts(source(sweeps={"pgd": rows})).values()
    (point,) = chart["data"]["values"]
    assert (point["x"], point["y"]) == (4, 45) and 0 <= point["low"] < 45 < point["high"] <= 100
    assert point["text"] == f"45.0 [{point['low']:.1f}, {point['high']:.1f}]"
    assert [layer["data"]["values"][0]["x"] for layer in chart["layer"] if "data" in layer] == [1, 1]


def test_attacks_that_differ_in_eps_make_a_curve_too():
    study = source().study | {"attacks": {"pgd": "1/255", "autoattack": "7.5/255"}}
    (chart,) = report.eps_charts(source(study=study, sweeps={})).values()
    points = [(p["x"], p["y"]) for p in chart["data"]["values"] if p["method"] == "clip"]
    assert points == [
        (x, round(mean("clip", a, "unseen"), 2)) for x, a in ((0, "clean"), (1, "pgd"), (7.5, "autoattack"))
    ]


def test_pairs_are_turned_so_that_the_papers_difference_is_positive():
    (chart,) = report.ordering_charts(source())
    (point,) = chart["data"]["values"]
    assert (point["pair"], point["paper"], point["ours"]) == ("tecoa − clip", 2.5, -3.7)
    assert (point["low"], point["high"]) == (-12.7, 5.3)


def test_attacks_are_compared_with_autoattack_over_the_sets_that_training_did_not_show():
    other = source().attacks[0] | {"group": "all", "mean": "7.0"}
    (row,) = report.attack_differences(source(attacks=[other, *source().attacks])).rows
    assert (row[0].text, row[1].text, row[1].small) == ("clip", "+1.5", "+0.5 to +2.5")


def test_a_quirk_is_its_row_minus_the_other_in_either_order():
    (row,) = report.quirks(source()).rows
    assert row[-1].text == "−3.7"
    backwards = source().document | {"quirks": {"tecoa": {"id": "G5", "against": "tga_zsr"}}}
    assert report.quirks(source(document=backwards)).rows[0][-1].text == "+3.7"


def test_a_grid_has_a_section_and_is_about_the_set_that_was_trained_on():
    page = parsed(rates=RATES)
    assert page.sections - parsed().sections == {"rates"}
    assert page.column(0, 1)["clip"]["text"] == f"{mean('clip', 'clean', 'source'):.1f}"
    clean = report.rate_charts(source(rates=RATES))["no attack"]["data"]["values"]
    assert [(p["x"], p["y"], p["chosen"]) for p in clean] == [(0.1, 72, True), (0.01, 60, False)]


EMPTY = {
    "attention": {"attention": {}},
    "eps": {"sweeps": {}},
    "likeness": {"likeness": {}},
    "orderings": {"orderings": ()},
    "quirks": {"document": source().document | {"quirks": {}}},
    "starts": {"differences": ()},
}


@pytest.mark.parametrize("section", EMPTY)
def test_a_section_without_data_vanishes_with_its_link(section):
    complete, page = parsed(), parsed(**EMPTY[section])
    assert complete.sections - page.sections == {section} and complete.links - page.links == {f"#{section}"}


def test_a_study_of_one_attack_and_one_set_has_no_section_that_compares_them():
    one = {"all": ["a"], "source": ["a"]}
    rows = [row for row in averages() if row["attack"] in ("clean", "pgd") and row["group"] in one]
    cells = [row for row in accuracy() if row["attack"] in ("clean", "pgd") and row["set"] == "a"]
    study = source().study | {"groups": one, "judged": ["a"], "attacks": {"pgd": "1/255"}}
    page = parsed(averages=rows, accuracy=cells, study=study, attacks=(), orderings=(), marks=())
    assert not page.sections & {"sets", "attacks"}
    assert len(page.tables[0][-1]) == 3  # equal groups are one: the method, clean, pgd


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"


def test_names_are_text():
    plain = parsed()
    text = report.page(source(), "/* the script */").replace("tga_zsr", "METHOD").replace("a study", "NAME")
    assert text.count("METHOD") > 10 and text.count("NAME") > 1

    def renamed(value):
        if isinstance(value, str):
            return {"tga_zsr": EVIL, "b": EVIL}.get(value, value)
        if isinstance(value, dict):
            return {renamed(key): renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, (list, tuple)) else value

    names = ("study", "accuracy", "averages", "pairs", "attacks", "marks", "document")
    changed = {name: renamed(getattr(source(), name)) for name in names}
    changed["document"] |= {"name": EVIL, "caution": EVIL}
    page = Page(report.page(source(**changed), "/* the script */"))
    caution = 1  # the paragraph that the plain study lacks
    assert len(page.elements) == len(plain.elements) + caution
    assert [tag for tag, _ in page.elements].count("script") == [tag for tag, _ in plain.elements].count("script")
    assert EVIL in page.column(0, 1) and EVIL in "".join(page.words)
    assert any(EVIL == point.get("method") for chart in specs(page) for point in chart["data"]["values"])


PAGES = {"the small study": report.page(source(), "/* the script */")} | {
    path.parent.name: path.read_text() for path in [*ROOT.glob("report.html"), *ROOT.glob("studies/*/report.html")]
}


def test_pages_are_small():
    assert PAGES["the small study"].count("/* the script */") == 1
    assert all(len(text.encode()) < 3_000_000 for text in PAGES.values())
    script = 1_500_000  # that of the charts; the rest of this page are two tables for each attack, and the charts
    assert len(report.page(source(), "/* the script */").encode()) < 3_000_000 - script


@pytest.mark.slow
def test_the_script_of_the_charts_fits_into_the_page_once():
    import vl_convert

    text = report.page(source(), vl_convert.javascript_bundle())
    assert len(text.encode()) < 1_500_000 and text.count("window.vegaEmbed=") == 1


LOADING = ("src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_the_network_for_nothing(name):
    text = PAGES[name]
    page = Page(text)
    for tag, attributes in page.elements:
        for name in LOADING:
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert tag in ("a", "path") or "href" not in attributes, (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
    style = "".join(re.findall(r"<style>.*?</style>", text, re.DOTALL))
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy and "connect-src" not in policy


def boxes(points, texts, size):
    placed = charts.place(points, texts, size)
    return [p and Box.around(p.x, p.y, charts.CHARACTER * len(t) / 2, LINE / 2) for p, t in zip(placed, texts)]


@pytest.mark.parametrize("size", SIZES.values())
def test_labels_hide_no_point_and_no_label_and_stay_inside(size):
    random.seed(1)
    for _ in range(3):
        points = [(random.gauss(size[0] / 2, 40), random.gauss(size[1] / 2, 15)) for _ in range(10)]
        points[:2] = [(3.0, 3.0), (size[0] - 3.0, size[1] - 3.0)]
        labels = boxes(points, ["embedding_anchor"] * 5 + ["tga_zsr"] * 5, size)
        assert None not in labels
        for i, box in enumerate(labels):
            assert not any(box.meets(other) for other in labels[:i])
            assert not any(box.meets(Box.around(*point, 4, 4)) for j, point in enumerate(points) if j != i)
            assert 0 <= box.left and 0 <= box.low and box.right <= size[0] and box.high <= size[1]


def test_a_label_that_finds_no_place_is_left_out():
    crowd = [(50.0, 50.0 + i / 10) for i in range(20)]
    labels = boxes(crowd, ["embedding_anchor"] * 20, (150, 100))
    assert None in labels and any(labels)


def test_methods_at_one_point_share_a_label():
    rows = [row | {"method": name} for name in ("tecoa", "twin") for row in averages() if row["method"] == "tecoa"]
    chart = charts.trade_off(rows, "unseen", "pgd", styles(["tecoa", "twin"]), SIZES["wide"])
    labels = [point["label"] for point in chart["data"]["values"] if "label" in point]
    assert len(labels) == 1 and "tecoa" in labels[0] and "twin" in labels[0]


STUDIES = [
    path.parents[2]
    for path in [*ROOT.glob("metrics/results/averages.csv"), *ROOT.glob("studies/*/metrics/results/averages.csv")]
]


@pytest.mark.parametrize(
    "folder", [pytest.param(f, id=f.name, marks=[] if f == ROOT else [pytest.mark.slow]) for f in STUDIES]
)
def test_every_study_has_a_report_of_all_its_methods(folder, monkeypatch):
    from stages.report import source

    monkeypatch.chdir(folder)
    read_source = source(read(folder / "params.yaml"))
    page = Page(report.page(read_source, "/* the script */"))
    numbers = {
        row["method"]: f"{float(row['mean']):.1f}"
        for row in read_source.averages
        if row["group"] == read_source.leading and row["attack"] == "clean"
    }
    assert {method: cell["text"] for method, cell in page.column(0, 1).items()} == numbers
