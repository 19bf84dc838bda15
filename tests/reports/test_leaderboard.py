"""The leaderboard: wrong entries are refused by name, claims are those of the papers, the table fits a page."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.checkout import put
from zsr import params
from zsr.evaluation import audit, results
from zsr.evaluation.records import Mark, Record
from zsr.files import read_json, read_rows
from zsr.params import StudyError
from zsr.reports import leaderboard
from zsr.reports.leaderboard import WIDTH, Claimed, Entry, Paper, Verified, entry_of, load, measured, read

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "leaderboard").glob("*.json"))
OUR_NAMES = {"none": "clean", "pgd100": "pgd", "cw": "cw", "autoattack": "autoattack"}
PROTOCOL = "{} l-inf, eps 2/255, 10 iterations; acts at 32 px; logit scale 20; prompt 'a photo of {{}}'; fp32"


def claimed(worst=30.0, **changes) -> Claimed:
    facts = {"clean": 60.0, "attacks": {"pgd": worst + 1, "autoattack": worst}, "worst": worst, "scope": "16 sets"}
    return Claimed(**facts | {"who": "They", "when": "2024", "source": "their table"} | changes)


def verified(worst=30.0, **changes) -> Verified:
    facts = {"clean": 60.0, "attacks": {"pgd": worst + 1, "autoattack": worst + 0.5}, "worst": worst, "scope": "a 100"}
    facts |= {"n": 100, "protocol": "0123456789ab", "interval": (worst - 2, worst + 2), "who": "we"}
    return Verified(**facts | {"source": "our command"} | changes)


def entry(name="t", **changes) -> Entry:
    blocks = {} if "verified" in changes else {"claimed": claimed()}
    facts = {"name": name, "scale": "paper", "arch": "ViT-B-32", "trained_on": "tiny_imagenet", "eps": "1/255"}
    return Entry(**facts | blocks | changes)


def rows_of(text: str) -> list[list[str]]:
    """The cells of all lines of the tables, headers and rules left out."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [
        [" ".join(cell.split()) for cell in line] for line in lines if line[0].strip() != "tower" and line[0][0] != "-"
    ]


# Files


@pytest.mark.parametrize("blocks", [{"claimed": claimed()}, {"verified": verified(marked=("pgd",))}])
def test_an_entry_survives_its_file(tmp_path, blocks):
    saved = entry(paper=Paper(title="T", venue="V 2024", link="https://example.org"), note="N", **blocks)
    saved.save(tmp_path / "e.json")
    assert load(tmp_path / "e.json") == saved
    assert ("claimed" in read_json(tmp_path / "e.json")) == ("claimed" in blocks)


MISTAKES = {  # dotted key -> value, and the message after the name of the file; None: the key is taken away
    "nam": ("x", "unknown key 'nam'; did you mean 'name'? (known: name, scale, arch,"),
    "trained_on": ("a|b", "trained_on must be text of one line without '|', or empty, got 'a|b'"),
    "name": ("", "name must be text of one line without '|', got ''"),
    "scale": ("big", "scale must be one of paper, embedded, got 'big'"),
    "arch": (None, "missing key 'arch'"),
    "eps": ("1", "eps must be grey levels such as 1/255, above 0 and at most 255/255, got '1'"),
    "train_eps": ("300/255", "train_eps must be grey levels such as 1/255, at most 255/255, or empty, got '300/255'"),
    "paper.yaer": (2024, "unknown key 'paper.yaer' (known: title, venue, link)"),
    "claimed.clean": (101, "claimed.clean must be at least 0 and at most 100, got 101"),
    "claimed.worst": (29, "claimed: worst must be the lowest of the attacks, 30, got 29"),
    "claimed.attacks": ({}, "claimed: attacks must have at least one attack, and not 'clean' or 'worst_case'"),
    "claimed.attacks.pgd": ("high", "claimed.attacks.pgd must be a number such as 0.1, 1e-3 or 8/255, got 'high'"),
    "claimed.interval": ([1, 2], "unknown key 'claimed.interval'"),
    "claimed.source": (None, "missing key 'claimed.source'"),
    "claimed.who": (" ", "claimed.who must be text of one line, got ' '"),
    "claimed.when": ("May 2024", "claimed.when must be a date such as 2024, 2024-10 or 2024-10-31, or empty, got"),
    "claimed": (None, "the blocks 'claimed' and 'verified' are both missing; an entry needs one"),
    "verified": (7, "verified must hold keys and values, got 7"),
}
VERIFIED_MISTAKES = {
    "verified.n": (0, "verified.n must be at least 1, got 0"),
    "verified.protocol": ("", "verified.protocol must be 12 hexadecimal digits, got ''"),
    "verified.worst": (30.6, "verified: worst must be at most the lowest of the attacks, 30.5, got 30.6"),
    "verified.interval": ([31, 35], "verified: interval must be low and high around worst, 30, got [31.0, 35.0]"),
    "verified.interval[]": ([30], "verified: interval must be low and high around worst, 30, got [30.0]"),
    "verified.marked": (["cw"], "verified: marked must name attacks of the block, got 'cw'"),
    "verified.source": (None, "missing key 'verified.source'"),
}


@pytest.mark.parametrize("key", [*MISTAKES, *VERIFIED_MISTAKES])
def test_a_mistake_in_a_file_is_one_line_with_file_and_key(tmp_path, key):
    value, message = (MISTAKES | VERIFIED_MISTAKES)[key]
    path = tmp_path / "e.json"
    (entry() if key in MISTAKES else entry(verified=verified())).save(path)
    document = read_json(path)
    put(document, key.removesuffix("[]"), value)
    path.write_text(json.dumps(document))
    with pytest.raises(StudyError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b'{"name": NaN}'])
def test_what_is_no_entry_is_one_line_with_the_file(tmp_path, content):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(StudyError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'e.json'}: ") and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named_and_hidden_files_do_not_count(tmp_path):
    with pytest.raises(StudyError, match="none: no such folder"):
        read(tmp_path / "none")
    (tmp_path / "._e.json").write_bytes(b"\xff")
    (tmp_path / "README.md").write_text("words")
    assert read(tmp_path) == []


# The entries in git


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_entry_in_git_is_valid_and_names_its_source(path):
    committed = load(path)
    assert committed.name == path.stem and committed.scale == "paper" and committed.paper.link.startswith("https://")
    assert committed.verified is None and committed.claimed.source and committed.claimed.who


def published(path: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """Method -> attack -> the first average in the file, and the table that has it."""
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for row in csv.DictReader(path.read_text().splitlines()):
        if row["dataset"] == "average":
            numbers = found.setdefault(row["method"], {})
            numbers.setdefault(OUR_NAMES[row["attack"]], (float(row["top1_percent"]), row["table"]))
    return found


@pytest.mark.parametrize("file", ["tga_zsr_tables.csv", "comp_tga_readme.csv"])
def test_claims_are_the_averages_in_published_all_of_them_and_from_the_tables_named(file):
    for method, numbers in published(ROOT / "published" / file).items():
        claim = load(ROOT / "leaderboard" / f"{method}.json").claimed
        assert {"clean": claim.clean, **claim.attacks} == {attack: value for attack, (value, _) in numbers.items()}
        (named,) = re.findall(rf"published/{re.escape(file)}(?:: ([\w, ]+))?\)", claim.source)
        assert not named or named.split(", ") == sorted({table for _, table in numbers.values()})


def test_every_claim_in_git_comes_from_a_file_in_published():
    methods = {m for name in ("tga_zsr_tables", "comp_tga_readme") for m in published(ROOT / f"published/{name}.csv")}
    assert {path.stem for path in COMMITTED} == methods


# Entries from measurements


def record(attack, adv, set_name="a", clean=None, seed=0, method="m", **changes) -> Record:
    bits = np.asarray(adv, bool)
    facts = {"method": method, "seed": seed, "attack": attack, "set_name": set_name, "fingerprint": "f"}
    facts |= {"protocol": PROTOCOL.format(attack), "ids": range(len(bits)), "adv_bits": bits}
    facts |= {"zero_bits": ~bits & False, "broken_bits": ~bits & False}
    return Record(**facts | {"clean_bits": np.ones_like(bits) if clean is None else clean} | changes)


def made(records, **changes) -> Entry:
    return entry_of(name="mine", arch="ViT-B-32", records=records, **changes)


def test_the_worst_case_is_what_survives_every_attack_with_wilsons_interval():
    """Of 10 images one attack leaves the first 6, the other the last 7; both leave 3. One is wrong from the start."""
    index = np.arange(10)
    block = made([record("pgd", index < 6, clean=index != 9), record("cw", index >= 3, clean=index != 9)]).verified
    assert (block.clean, block.attacks, block.worst, block.n) == (90, {"pgd": 60, "cw": 60}, 30, 10)
    expected = stats.binomtest(3, 10).proportion_ci(0.95, "wilson")
    assert block.interval == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.006)


def test_of_one_attack_the_worst_case_is_that_attack():
    block = made([record("pgd", np.arange(10) < 4)]).verified
    assert (block.worst, block.attacks) == (40, {"pgd": 40})


def test_sets_weigh_the_same_however_many_images_they_have():
    records = [record("pgd", np.arange(10) < 8, "a"), record("pgd", np.arange(30) < 6, "b")]
    block = made(records).verified
    assert (block.worst, block.n, block.scope) == (50, 40, "mean over 2 sets: a 10, b 30")
    given = {("m", "pgd", r.set_name): [r] for r in records}
    (row,) = results.average_rows(given, {"all": ["a", "b"]})
    assert block.interval == (row["low"], row["high"])


def test_seeds_are_averaged_and_their_images_are_counted_once():
    block = made([record("pgd", np.arange(10) < left, seed=seed) for seed, left in enumerate((2, 4))]).verified
    assert (block.worst, block.n) == (30, 10)


def test_the_entry_has_the_facts_of_the_protocol_and_those_given(tmp_path):
    pgd, cw = record("pgd", np.arange(10) < 6), record("cw", np.arange(10) < 7)
    facts = {"trained_on": "s", "train_eps": "1/255", "who": "we", "when": "2026-11-26", "source": "c", "note": "n"}
    one = made([pgd, cw], scale="embedded", **facts)
    assert (one.eps, one.verified.prompts, one.scale) == ("2/255", "prompt 'a photo of {}'", "embedded")
    assert (one.trained_on, one.train_eps, one.note) == ("s", "1/255", "n")
    assert (one.verified.who, one.verified.when, one.verified.source) == ("we", "2026-11-26", "c")
    assert made([cw, pgd]).verified.protocol == one.verified.protocol != made([pgd]).verified.protocol
    one.save(tmp_path / "e.json")
    assert read(tmp_path) == [one] and made([pgd, cw]).verified.who == "unknown"


def test_what_the_audit_marks_is_marked_in_the_entry_and_in_the_table():
    marked = made([record("pgd", np.arange(10) < 6, marks=(Mark("m", "r"),)), record("cw", np.arange(10) < 7)])
    assert marked.verified.marked == ("pgd",)
    alone = made([record("pgd", np.arange(10) < 6, marks=(Mark("m", "r"),))])
    assert alone.verified.marked == ("pgd", "worst_case")
    text = leaderboard.table([marked])
    assert "|60.0†|70.0|" in text and leaderboard.DISTRUST.split(" (")[0] in text
    assert "60.0†\N{NO-BREAK SPACE}[" in leaderboard.table([alone]) and "†" not in leaderboard.table(
        [made([record("cw", [True])])]
    )


REFUSED = {
    "no attack": ([record("clean", [True])], "needs a record of a model under attack, got none"),
    "no record": ([], "needs a record of a model under attack, got none"),
    "two towers": ([record("pgd", [True]), record("pgd", [True], method="k")], "is of one tower, got records of m, k"),
    "other images": ([record("pgd", [True]), record("cw", [True], ids=[7])], "a under cw: there must be one record"),
    "a set missing": ([record("pgd", [True], s) for s in "ab"] + [record("cw", [True])], "b under cw: there must be"),
    "twice": ([record("pgd", [True])] * 2, "a under pgd: there must be one record of each seed, all of the same"),
    "two eps": (
        [record("pgd", [True]), record("cw", [True], protocol="CW l-inf, eps 4/255, 1 iteration")],
        "eps must be the same in all protocols, got 4/255, 2/255",
    ),
}


@pytest.mark.parametrize("key", REFUSED)
def test_records_that_make_no_entry_are_refused_in_one_line(key):
    records, message = REFUSED[key]
    with pytest.raises(StudyError, match=re.escape(message)):
        made(records)


def study_of(records) -> tuple[dict, list, list]:
    """What the stage `collect` writes of records: catalogue, averages and cells, every value a text as in CSV."""
    cells = {}
    for r in records:
        cells.setdefault((r.method, r.attack, r.set_name), []).append(r)
    cells = results.with_worst_case(results.with_clean(cells))
    groups, marks = {"all": ["a"], "source": ["a"]}, audit.marks(cells)
    study = {"arch": "zsr-tiny-32", "groups": groups, "methods": {m: {} for m, _, _ in cells}}
    rows = results.average_rows(cells, groups), results.cell_rows(cells)
    averages, plain = ([{k: str(v) for k, v in row.items()} for row in audit.annotated(r, marks, groups)] for r in rows)
    return study, averages, plain


def test_the_entries_of_a_study_are_those_of_its_records():
    index = np.arange(10)
    records = [record("pgd", index < 6, marks=(Mark("m", "r"),)), record("cw", index >= 3)]
    undefended = [record(attack, index < 0, method="clip") for attack in ("pgd", "cw")]
    study, averages, cells = study_of([*records, *undefended])
    ours, clip = measured(study, averages, cells, "T")
    assert ours.verified.marked == ("pgd",)
    same = made(records, trained_on="a", scale="embedded", who="zsr", source="`dvc repro` of the study 'T'").verified
    assert ours.verified == same
    assert (ours.name, ours.scale, ours.trained_on, ours.eps) == ("m", "embedded", "a", "2/255")
    assert (clip.name, clip.trained_on, clip.verified.worst) == ("clip", "", 0)
    (paper, _) = measured(study | {"arch": "ViT-B-32-quickgelu"}, averages, cells, "T")
    assert paper.scale == "paper"
    other = [row | {"protocol": row["protocol"].replace("cw l-inf, eps 2", "cw l-inf, eps 4")} for row in cells]
    assert measured(study, averages, other, "T") == []


def test_the_entries_of_this_study_are_the_numbers_of_its_metrics():
    folder = ROOT / "metrics/results"
    averages = read_rows(folder / "averages.csv")
    ours = measured(read_json(folder / "study.json"), averages, read_rows(folder / "accuracy.csv"), "T")
    worst = {row["method"]: row for row in averages if (row["group"], row["attack"]) == ("all", "worst_case")}
    assert {one.name for one in ours} == set(worst) and {one.scale for one in ours} == {"embedded"}
    for one in ours:
        row = worst[one.name]
        shown = (one.verified.worst, *one.verified.interval)
        assert shown == tuple(float(row[key]) for key in ("mean", "low", "high"))


# The table


def test_verified_rows_stand_first_and_then_the_highest_worst_case():
    entries = [
        entry("low claim", claimed=claimed(10.0)),
        entry("high claim", claimed=claimed(50.0)),
        entry("low", verified=verified(20.0)),
        entry("both", verified=verified(40.0), claimed=claimed(45.0)),
    ]
    rows = rows_of(leaderboard.table(entries))
    assert [(row[0], row[9]) for row in rows] == [
        ("both", "verified"),
        ("low", "verified"),
        ("high claim", "claimed"),
        ("both", "claimed"),
        ("low claim", "claimed"),
    ]


def test_a_row_shows_numbers_interval_images_and_the_number_of_its_source():
    parts = {"autoattack-paper": 21.0, "autoattack": 21.5}  # both have one column, which shows the lower number
    block = verified(20.0, attacks={"pgd": 25.0, "square": 22.0, **parts}, n=16000)
    text = leaderboard.table([entry(verified=block), entry("claim", train_eps="1/255")])
    ours, claim = rows_of(text)
    start = ["t", "tiny_imagenet", "1/255", "60.0", "25.0", "", "21.0"]
    assert ours == [*start, "20.0 [18.0, 22.0]", "16,000", "verified", "1"]
    assert claim == ["claim", "tiny_imagenet", "1/255", "60.0", "31.0", "", "30.0", "30.0", "", "claimed", "2"]
    assert "1. we: our command; ViT-B-32; a 100; protocol 0123456789ab." in text
    assert "2. They, 2024: their table; ViT-B-32; 16 sets." in text


def test_scales_have_tables_of_their_own_and_equal_sources_one_number():
    entries = [entry("tiny", scale="embedded", verified=verified()), entry("one"), entry("two")]
    text = leaderboard.table(entries)
    paper, embedded = text.split("**Embedded scale")
    assert [row[0] for row in rows_of(paper)] == ["one", "two"] and [row[0] for row in rows_of(embedded)] == ["tiny"]
    assert [row[-1] for row in rows_of(text)] == ["1", "1", "2"]
    assert "There is no entry." in leaderboard.table([entry()]) and "There is no entry." not in text


def test_papers_and_notes_stand_below():
    paper = Paper(title="A Title", venue="ICLR 2023", link="https://example.org/1")
    text = leaderboard.table([entry("one", paper=paper, note="Mind this."), entry("two", paper=paper), entry("three")])
    assert "- one, two: A Title, ICLR 2023, https://example.org/1.\n" in text
    assert "- one, paper scale: Mind this.\n" in text and "- three" not in text


WIDE = {
    "everything": entry(
        "a name that is far too long for a page",
        trained_on="a training set with a long name",
        eps="16.25/255",
        verified=verified(
            100.0,
            clean=100.0,
            attacks={"pgd": 100.0, "cw": 100.0, "autoattack": 100.0},
            interval=(99.9, 100.0),
            marked=("clean", "pgd", "cw", "autoattack", "worst_case"),
            n=9_999_999,
            source="x" * 300,
        ),
        paper=Paper(title="word " * 60, link="https://example.org/" + "y" * 200),
        note="note " * 80,
    ),
    "nothing": entry("t", trained_on="", claimed=claimed(0.0)),
}


@pytest.mark.parametrize("name", WIDE)
def test_no_line_is_wider_than_a_page(name):
    text = leaderboard.table([WIDE[name], entry("vision_attention", verified=verified())])
    assert max(map(len, text.splitlines())) <= WIDTH and "|vision" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_table_of_this_study_fits_a_page_and_shortens_no_name():
    folder = ROOT / "metrics/results"
    rows = [read_rows(folder / f"{name}.csv") for name in ("averages", "accuracy")]
    text = leaderboard.table(read(ROOT / "leaderboard") + measured(read_json(folder / "study.json"), *rows, "T"))
    assert max(map(len, text.splitlines())) <= WIDTH and "…" not in text
    assert len(rows_of(text)) == len(COMMITTED) + len(read_json(folder / "study.json")["methods"])
    numbers = {int(row[-1]) for row in rows_of(text)}
    assert all(re.search(rf"^{number}\. \S", text, re.MULTILINE) for number in numbers)


def test_the_stage_writes_the_entries_in_git_and_those_of_the_study(tmp_path, monkeypatch):
    from stages import tables

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tables, "OUT", tmp_path)
    document = params.read(ROOT / "params.yaml")
    assert "leaderboard" in document["tables"]
    study = tables.Measured(document)
    tables.TABLES["leaderboard"](study)
    ours = measured(study.study, study.averages, study.accuracy, document["name"])
    assert (tmp_path / "leaderboard.md").read_text() == leaderboard.table(read(ROOT / "leaderboard") + ours)


def test_a_tower_that_autoattack_has_not_met_stands_below_those_that_it_has():
    named = {entry.name: entry for entry in leaderboard.read(ROOT / "leaderboard")}
    incomplete = [name for name, entry in named.items() if "autoattack" not in entry.claimed.attacks]
    text = leaderboard.table(list(named.values()))
    places = {name: re.search(rf"^\|{name} *\|", text, re.MULTILINE).start() for name in named}
    assert incomplete and len(incomplete) < len(named)
    assert min(places[name] for name in incomplete) > max(places[name] for name in named if name not in incomplete)
