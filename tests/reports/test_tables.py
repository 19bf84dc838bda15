"""Markdown tables of every study, made of its own names: they fit the page, and each says what a cell is."""

import re
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path

import pytest

from stages import tables as stage
from zsr.evaluation.audit import CHECKS
from zsr.params import read
from zsr.reports import tables
from zsr.reports.markdown import BLANK, bold_best, table

ROOT = Path(__file__).parents[2]
STUDIES = [".", *(f"studies/{name}" for name in ("embedded-3", "ablation", "twins", "transfer", "paper"))]
MARKS = ("undefended_survives", "pgd_above_autoattack")
MEAN = {"mean": "-100.0", "low": "-100.0", "high": "-99.9"}  # the longest number that there is
REASON = "100 of 100 images count as right that had no gradient at any pixel"


class Made(stage.Measured):
    """What a study might have measured, with a mark at every number. Every number is as long as can be."""

    @property
    def names(self) -> tuple[list[str], list[str], list[str]]:
        attacks = list(self.document["attacks"])
        return list(self.document["methods"]), ["clean", *attacks, "worst_case"], list(self.document["data"]["sets"])

    @property
    def seeds(self) -> list[str]:
        return [str(seed) for seed in self.document["seeds"]]

    def numbers(self, **more: str) -> dict[str, str]:
        sd = "10.0" if len(self.seeds) > 1 else ""
        return MEAN | {"sd": sd, "seeds": str(len(self.seeds)), "marks": " ".join(MARKS)} | more

    @property
    def study(self) -> dict:
        source = self.document["data"]["source"]
        eps = {name: f"{attack.get('eps', '22.5/255')}" for name, attack in self.document["attacks"].items()}
        facts = {
            "arch": "zsr-tiny",
            "bases": 1,
            "attacks": eps,
            "classes": {source: 10},
            "groups": {"source": [source]},
        }
        return facts | {"methods": self.document["methods"]}

    @property
    def alike(self) -> list[dict[str, str]]:
        kinds = [("cka", "clean", "features"), ("cca", "universal", "layer3"), ("accuracy", "random_signs", "")]
        starts = [("robust", m) for m in self.names[0]]
        return [
            {"run": m, "start": s, "method": m, "seed": seed, "measure": k, "input": i, "layer": layer, "value": "1"}
            for (s, m), (k, i, layer), seed in product(starts, kinds, self.seeds)
        ]

    def __getattr__(self, name: str) -> list[dict[str, str]]:
        methods, attacks, sets = self.names
        groups = ("all", "source", "unseen", "unseen_strict")
        counts = {"n": "100", "clean_correct": "100", "correct": "100", "ids": "0" * 12, "counted": "both"}
        limits = {"accuracy": "100.0", "low": "99.9", "high": "100.0", "protocol": "PGD l-inf, eps 1/255, prompt 'a'"}
        rates = {"test_clean": "", "test_robust": "", "held_out_robust": ""}
        rows = {
            "accuracy": [
                {"method": m, "attack": a, "set": s, "seed": seed, "marks": " ".join(MARKS)} | counts | limits
                for m, a, s, seed in product(methods, attacks, sets, self.seeds)
            ],
            "averages": [
                {"group": g, "method": m, "attack": a, "sets": "16"}
                | self.numbers(mean="100.0", low="99.9", high="100.0")
                for g, m, a in product(groups, methods, attacks)
            ],
            "pairs": [
                {"group": g, "attack": a, "first": one, "second": two} | self.numbers()
                for g, a, (one, two) in product(groups, attacks, combinations(methods, 2))
            ],
            "attacks": [
                {"group": g, "method": m, "attack": a} | self.numbers()
                for g, m, a in product(groups, methods, attacks[1:-2])
            ],
            "marks": [
                {"method": m, "attack": attacks[1], "set": sets[-1], "mark": mark, "reason": REASON}
                for m, mark in product(methods, MARKS)
            ],
            "checks": [{"check": c.name, "rule": c.rule, "cells": "1000", "marked": "1000"} for c in CHECKS],
            "rates": [
                {"method": m, "lr": lr, "seed": seed, "chosen": "1"} | rates
                for m, lr, seed in product(methods, ("0.0001",), self.seeds)
            ],
        }
        return rows[name]


@pytest.fixture(params=STUDIES)
def written(request, tmp_path, monkeypatch) -> Mapping[str, str]:
    """Name -> text of every Markdown table of a study."""
    measures = {"lr": "0.001"} | dict.fromkeys(tables.CURVE_COLUMNS, "2.36e-06")
    monkeypatch.setattr(stage, "OUT", tmp_path)
    monkeypatch.setattr(tables, "with_rates", lambda folder, grid: {(r["method"], r["lr"]): [measures] for r in grid})
    document = dict(read(ROOT / request.param / "params.yaml"))
    if "shown_lr" in document["grid"]:
        document["grid"] = document["grid"] | {"shown_lr": 0.0001}
    for name in document["tables"]:
        stage.TABLES[name](Made(document))
    return {path.stem: path.read_text() for path in tmp_path.glob("*.md")}


def test_every_table_of_every_study_fits_the_page_and_says_what_a_cell_is(written):
    for name, text in written.items():
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert [line for line in lines if len(line) > 100] == [], name
        assert [line for line in lines if re.search(r"[\d†] [±\[†]|± |\d, [-+]?[\d.]+\]", line)] == [], name
        below = [part for part in re.split(r"(?:^\|.*\n)+\n?", text, flags=re.MULTILINE)[1:] if part]
        if name not in ("leaderboard", "published"):
            assert below and all(part.startswith(("A cell", "A line", "cells:", "ours:")) for part in below), name


def test_a_table_is_cut_only_where_it_must_be_and_every_part_has_the_keys():
    header, line = ["key", "a", "b", "c"], ["x", "1" * 30, "2" * 30, "3" * 30]
    assert table(header[:3], [line[:3]]).count("key") == 1 and "| x " in table(header[:3], [line[:3]])
    tight, cut = table(header, [line]), table(header, [line[:3] + ["3" * 34]])
    assert tight.count("key") == 1 and "|x  |" in tight
    assert cut.count("key") == 2 and all(cell in cut for cell in (*header, *line[:3], "3" * 34))
    assert " ".join(table(["key", "a"], [["x", "word " * 30]]).split()) == f"- x: a {'word ' * 30}".strip()
    assert BLANK not in table(["a"], [["1 of 2, 3"]]) and f"1{BLANK}[2,{BLANK}3]" in table(["a"], [["1 [2, 3]"]])


def test_the_best_number_that_is_trusted_is_bold_and_equals_are_bold_too():
    body = [["a", "1.0 ± 9.0"], ["b", "3.0 ± 0.1"], ["c", "3.0 ± 0.2"], ["d", "9.9 ± 0.1 †1"], ["e", "nan"], ["f", ""]]
    assert [line[1].startswith("**") for line in bold_best(body)] == [False, True, True, False, False, False]
    assert bold_best(body[:1]) == body[:1]


def vs(tmp_path, *pairs):
    rows = [
        {
            "group": g,
            "attack": a,
            "first": one,
            "second": two,
            "mean": str(mean),
            "low": str(mean - 2),
            "high": str(mean + 1),
        }
        | {"seeds": "1", "sd": "", "marks": mark}
        for g, a, one, two, mean, mark in pairs
    ]
    tables.vs(tmp_path, rows, "s", "title", [{"mark": "underflow"}])
    return " ".join((tmp_path / "vs.md").read_text().split()), stage.files.read_rows(tmp_path / "vs.csv")


def test_every_method_is_compared_with_the_one_under_study_whichever_comes_first(tmp_path):
    before, after, others = ("all", "clean", "a", "s"), ("all", "clean", "s", "b"), ("all", "clean", "a", "b")
    text, rows = vs(tmp_path, (*before, 0.5, "underflow"), (*after, 3.0, ""), (*others, 9.0, ""))
    numbers = {row["method"]: [float(row[key]) for key in ("mean", "low", "high")] for row in rows}
    assert numbers == {"a": [0.5, -1.5, 1.5], "b": [-3.0, -4.0, -1.0]}
    assert {(row["against"], row["group"], row["attack"]) for row in rows} == {("s", "all", "clean")}
    assert "| a | +0.5 [-1.5, +1.5] †1 |" in text and "| b | **-3.0 [-4.0, -1.0]** |" in text
    assert text.index("| a |") < text.index("| b |") and "9.0" not in text
    assert "†1 underflow: a cell behind the difference" in text


def test_tables_are_sorted_by_the_worst_case_of_the_unseen_sets(tmp_path):
    worst = {("all", "a"): 9, ("all", "b"): 1, ("unseen", "a"): 1, ("unseen", "b"): 2}
    averages = [
        {"group": g, "method": m, "attack": attack, "mean": str(value), "low": "0", "high": "9", "sd": "", "seeds": "1"}
        for (g, m), value in worst.items()
        for attack, value in (("clean", 50), ("pgd", 50 - value), ("worst_case", value))
    ]
    head = {"set": "x", "seed": "0", "n": "10", "ids": "i", "accuracy": "5", "low": "1", "high": "9", "protocol": "p"}
    cells = [head | {"method": m, "attack": a} for m in "ab" for a in ("clean", "pgd", "worst_case")]
    tables.accuracy(tmp_path, cells, averages, "title")
    text = (tmp_path / "accuracy.md").read_text()
    assert re.findall(r"^\| ?([ab]) ", text, re.MULTILINE) == ["b", "a"] * 5
    captions = re.findall(r"^\*\*(.+), accuracy in %\*\*$", text, re.MULTILINE)
    assert captions == ["mean over unseen sets", "mean over all sets", "clean", "pgd", "worst_case"]
    assert (tmp_path / "accuracy.tex").read_text().count(r"\textbf{") == text.count("**") // 2 - len(captions)
