"""docs/test_time_defences.md has the numbers of studies/defences, every defence of the project and every quirk."""

import csv
import io

import pytest

from benchmarks import defences_page
from tests.checkout import ROOT, versions
from tests.reports.test_defences import rows
from zsr.reports import defences


@pytest.fixture(scope="module")
def page():
    return defences_page.PAGE.read_text()


def test_every_number_is_the_measured_one(page):
    tables = versions(str(defences_page.TABLE.relative_to(ROOT)))
    made = [defences_page.with_numbers(page, list(csv.DictReader(io.StringIO(table)))) for table in tables]
    assert page in (made or [defences_page.with_numbers(page, [])]), "run python -m benchmarks.defences_page"


def test_every_defence_has_a_section_and_its_quirks_are_on_the_page_of_quirks(page):
    names = [path.stem for path in (ROOT / "zsr/defences").glob("*.py") if not path.stem.startswith("_")]
    assert len(names) >= 6 and [name for name in names if f"### `{name}`" not in page] == []
    quirks = (ROOT / "docs/quirks.md").read_text()
    for kind, numbers in {"ttc C": range(1, 7), "clipure P": range(1, 5), "dbd D": range(1, 7)}.items():
        assert [f"{kind}{n}" for n in numbers if f"| {kind}{n} |" not in quirks] == []


def test_every_condition_and_every_attack_variant_is_explained(page):
    for number, (position, _) in enumerate(defences.CONDITIONS.values(), 1):
        assert position == number and f"{number}. " in page
    for variant in ("as_is", "gate", "kappa_1", "kappa_boost", "below_threshold"):
        assert f"`{variant}`" in page


def test_blocks_hold_the_numbers_of_the_rows_and_stay_when_they_are_written_again():
    blank = "a\n<!-- measured: {} -->\n<!-- end measured -->\nb\n"
    once = defences_page.with_numbers(blank.format("accuracies"), rows())
    assert (
        "| ttc     | tecoa | 70.0  | 55.0      | 50.0" in once and once.startswith("a\n") and once.endswith("-->\nb\n")
    )
    assert defences_page.with_numbers(once, rows()) == once
    wide = defences_page.with_numbers(blank.format("intervals"), rows())
    assert "| ttc     | tecoa | 40  | 70.0\N{NO-BREAK SPACE}[" in wide
    assert defences_page.with_numbers(once, []) == blank.format("accuracies")
    texts = " ".join(defences_page.with_numbers(blank.format("findings"), rows()).split())
    assert "highest worst case is that of `still` on `clip`: 72.5" in texts
    assert "gap between the columns is that of `weak` on `tecoa`: 55.0 % under oblivious attacks, 5.0 %" in texts
    assert "Higher under oblivious attacks than without an attack: none." in texts and "With a mark: `still`" in texts
    assert "loss without an attack is that of `ttc` on `tecoa`: 90.0 % of the tower alone, 70.0 % with" in texts
    more = [row | {"oblivious": "99.0"} if row["defence"] == "ttc_clip" else row for row in rows()]
    told = "than without an attack: `ttc` on `clip` (99.0 % against 80.0 %)."
    assert told in " ".join(defences_page.with_numbers(blank.format("findings"), more).split())
    with pytest.raises(SystemExit, match="no place for numbers"):
        defences_page.with_numbers("a page", rows())
