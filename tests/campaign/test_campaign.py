"""The campaign of random damage, which runs for minutes; and, in the usual run, what it counts as what."""

import itertools
import os
import subprocess
import sys
import time

import pytest

from tests.campaign import forks, pictures, verdicts
from tests.campaign.forks import Ended, Started
from tests.campaign.verdicts import CLEAR, HANG, SIGNAL, TAKEN, TRACEBACK, UNCLEAR, WRONG, Finding, refused, working
from tests.campaign.world import World
from tests.checkout import ROOT


@pytest.mark.campaign
def test_no_damage_is_believed_and_no_kill_changes_a_byte():
    """CAMPAIGN_SEED, CAMPAIGN_CASES and CAMPAIGN_MINUTES choose; CAMPAIGN_WRITE puts the table into the page."""
    chosen = {name: os.environ.get(f"CAMPAIGN_{name.upper()}", "") for name in ("seed", "cases", "minutes")}
    options = [part for name, value in chosen.items() if value for part in (f"--{name}", value)]
    options += ["--write"] * bool(os.environ.get("CAMPAIGN_WRITE"))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-m", "tests.campaign", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    assert done.returncode == 0, f"wrong in silence, a traceback, a hang, a signal, or a changed byte:\n{done.stdout}"


BAR = "tecoa pgd:   0%|          | 0/3 [00:00<?, ?batch/s]"


@pytest.mark.parametrize(
    ("status", "err", "kind"),
    [
        (1, "Error: a/params.yaml: seeds must be a list, got 7\n", CLEAR),
        (1, f"{BAR}\r{BAR}\nWarning: no hash\nError: params.yaml is odd\n", CLEAR),
        (2, "Usage: zsr convert FILE\nTry 'zsr convert --help'.\n\nError: params.yaml is no file\n", CLEAR),
        (1, "Error: [Errno 28] No space left on device\n", UNCLEAR),
        (1, "Error: params.yaml: bad\nand more\n", UNCLEAR),
        (1, f"{BAR}Error: params.yaml is odd\n", UNCLEAR),
        (1, "Error: params.yaml: \x1b[31m\n", UNCLEAR),
        (1, "", UNCLEAR),
        (1, "Traceback (most recent call last):\n  File ...\nKeyError: 'params.yaml'\n", TRACEBACK),
        (-11, "", SIGNAL),
    ],
)
def test_a_refusal_is_one_line_that_names_what_is_at_fault(status, err, kind):
    assert refused(Ended(status, "", err, 0.1), ["params.yaml"])[0] == kind
    assert refused(Ended(status, "", err, 61, hung=True), ["params.yaml"])[0] == HANG


@pytest.mark.parametrize(
    ("err", "at_work"),
    [
        ("pre-training, seed 0: 300 of 10,000 steps, 05:00 left, loss 1.2\n", True),
        ("data shapes: at work for 50 s\n", True),
        (f"{BAR}\n", True),
        ("Waiting for x, which is held by process 7\n", False),
        ("", False),
    ],
)
def test_a_command_that_says_that_it_is_at_work_does_not_hang(err, at_work):
    assert working(Ended(-9, "", err, 61, hung=True)) == at_work
    assert not working(Ended(0, "", err, 61))


def ended(tmp_path, limit: float, action) -> Ended:
    """A fork that does the action, of a campaign with another limit."""
    files = tmp_path / "out", tmp_path / "err"
    for path in files:
        path.write_text("")
    began, pid = time.monotonic(), os.fork()
    if not pid:
        try:
            os.setpgid(0, 0)
            action()
        finally:
            os._exit(0)
    return forks.finished(Started(pid, files, began), limit)


def test_a_silent_command_hangs_once_it_has_waited_or_has_computed_for_so_long(tmp_path):
    until = time.monotonic() + 60
    waits = ended(tmp_path, 0.3, lambda: time.sleep(60))
    computes = ended(tmp_path, 0.3, lambda: [None for _ in iter(lambda: time.monotonic() < until, False)])
    assert waits.hung and computes.hung and not working(waits) and time.monotonic() < until - 20


def test_a_command_that_gets_little_of_a_busy_machine_may_go_on_unless_it_says_that_it_is_at_work(
    tmp_path, monkeypatch
):
    seconds = itertools.count(0.0, 0.005)  # of a processor, more at every look: a tenth of one, and never the limit
    monkeypatch.setattr(forks, "computed", lambda pid: next(seconds))
    slow = ended(tmp_path, 0.3, lambda: time.sleep(1.5))
    assert not slow.hung and slow.seconds > 1.4
    said = ended(tmp_path, 0.3, lambda: ((tmp_path / "err").write_text("data: at work for 50 s\n"), time.sleep(30)))
    assert working(said) and said.seconds < 15


@pytest.mark.parametrize("raw", ["test_X.bin", ""])
@pytest.mark.parametrize("warned", ["test_X.bin", "test_y.bin", ""])
def test_noise_in_a_raw_file_is_excused_only_with_a_warning_that_names_the_file(tmp_path, monkeypatch, raw, warned):
    said = f"Warning: downloads/{warned} is not the published file of stl10: its md5 is a, not b\n" if warned else ""
    monkeypatch.setattr(pictures, "public_study", lambda *_: tmp_path)
    monkeypatch.setattr(pictures, "stage", lambda *_, **__: Ended(0, "", said, 0.1))
    monkeypatch.setattr(pictures, "made", lambda *_: {"test": "other images"})
    world = World(tmp_path, {}, {}, {"counts": {"stl10": 3}, "data stl10": {"test": "images"}}, {})
    found = pictures._prepared(world, tmp_path, "stl10", tmp_path, "noise", [], raw)
    excused = bool(raw) and raw == warned
    assert (found.kind, found.note == verdicts.UNTOLD) == (TAKEN if excused else WRONG, excused)


def test_the_campaign_fails_for_what_is_never_allowed_and_for_a_kill_that_did_not_end_well():
    from tests.campaign.__main__ import failed

    assert all(failed("params", Finding(kind, "")) for kind in (WRONG, TRACEBACK, HANG, SIGNAL))
    assert not any(failed("params", Finding(kind, "")) for kind in (CLEAR, UNCLEAR, TAKEN))
    assert failed("kills", Finding(UNCLEAR, "")) and not failed("kills", Finding(TAKEN, ""))


def test_the_table_counts_by_group_and_stands_between_the_marks_of_the_page(tmp_path):
    found = [("params", Finding(CLEAR, "a")), ("params", Finding(WRONG, "b")), ("kills", Finding(TAKEN, "c"))]
    found += [("images", Finding(TAKEN, "d", verdicts.UNTOLD)), ("images", Finding(TAKEN, "e"))]
    text = verdicts.report(found, "2026-01-02", 3, 4.2, skipped=5)
    rows = {line.split(" | ")[0].lstrip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["params"] == "| params | 2 | 1 | 0 | 0 | 1 | 0 | 0 | 0 | 0 |"
    assert rows["**all**"] == "| **all** | **5** | **1** | **0** | **0** | **1** | **0** | **0** | **0** | **3** |"
    assert "nobody can tell raw pixels from others: 1.\n" in text
    assert "seed 3, 5 cases in 4 minutes. 5 more cases were left out" in text and text.endswith(": 1 of 1.")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{verdicts.START}\nold\n{verdicts.END}\nafter\n")
    verdicts.write_block(page, text)
    assert page.read_text() == f"before\n{verdicts.START}\n{text}\n{verdicts.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        verdicts.write_block(page, text)


def test_the_groups_are_evenly_mixed_and_a_case_is_the_same_in_a_longer_run():
    from tests.campaign.__main__ import numbered

    few, many = numbered(100), numbered(500)
    assert set(few) <= set(many) and {group for group, _ in many[:30]} == set(verdicts.GROUPS)
