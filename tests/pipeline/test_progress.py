"""What a running stage tells: lines in a log, the curve so far, the result; and what `make repro` leaves out."""

import sys
import time
from contextlib import nullcontext
from copy import copy
from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from stages import progress, repro
from stages.evaluate import result
from stages.progress import Bar, Images, Training, over, trained
from zsr.cli import running
from zsr.evaluation.records import Record
from zsr.files import read_rows, write_json
from zsr.params import ParamError


@pytest.fixture
def clock(monkeypatch):
    """A minute and a second pass with each look at the clock."""
    ticks = count(step=61)
    for module in (progress, running):
        monkeypatch.setattr(module, "monotonic", lambda: next(ticks))


def rows(n: int) -> list[dict]:
    return [{"step": step, "lr": 0.1, "loss": 2.0 - step / 10, "term": 1.0} for step in range(n)]


def run(training: Training, total: int, done: int = 0) -> list[int]:
    """The steps of a training, which adds a row of its curve at each."""
    curve, steps = rows(done), []
    for step in training(range(done, total), done, lambda: curve):
        curve.append(rows(step + 1)[-1])
        steps.append(step)
    return steps


def test_a_log_has_a_line_each_minute_and_none_at_the_end(clock, capsys):
    assert list(over("maps", "methods", ["a", "b", "c"])) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["maps: 1 of 3 methods", "maps: 2 of 3 methods"]
    assert all(line.endswith(" left") for line in lines)


def test_the_first_line_of_a_log_comes_soon_and_the_others_within_a_minute(monkeypatch):
    now = iter(range(200))
    monkeypatch.setattr(running, "monotonic", lambda: next(now))
    log = running.Log()
    assert [second for second in range(1, 200) if log.is_due()] == [11, 57, 103, 149, 195]


def test_a_command_that_is_silent_says_that_it_is_at_work(monkeypatch, capsys):
    monkeypatch.setattr(running, "SILENCE", 0.6)
    with running.never_silent("data shapes"):
        for _ in range(15):
            running.told()  # a bar that moves
            time.sleep(0.05)
        assert capsys.readouterr().err == ""
        time.sleep(1.5)
    said = capsys.readouterr().err
    assert said.startswith("data shapes: at work for ") and said.count("\n") <= 2
    time.sleep(0.7)
    assert capsys.readouterr().err == ""  # nothing after the end


def test_a_log_of_some_seconds_has_no_line(capsys):
    assert list(over("maps", "methods", range(100))) == list(range(100))
    assert run(Training("a"), 5) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_the_time_left_counts_what_is_done_now_and_not_what_was_found(monkeypatch):
    times = iter((0, 0, 30))
    monkeypatch.setattr(running, "monotonic", lambda: next(times))
    bar = Bar("a", "images", 1000)
    bar.skip(700)
    bar.advance(100)
    assert bar.line("50.0 % right") == "a: 800 of 1,000 images, 01:00 left, 50.0 % right"


def test_on_a_terminal_there_is_one_bar_with_the_loss(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(Training("tga_zsr, seed 0"), 4, done=2)
    bar = capsys.readouterr().err
    assert "tga_zsr, seed 0: 100%" in bar and "4/4" in bar and "loss 1.7" in bar and bar.count("\n") == 1


def test_only_the_first_of_several_processes_tells_anything(monkeypatch, clock, capsys, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert progress.first()  # a cluster may set the variable where no torchrun is
    monkeypatch.setenv(progress.CHILD, "run")
    run(Training("a", tmp_path / "curve.csv"), 5)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(Training("a"), 5)
    progress.tell("a result")
    assert capsys.readouterr() == ("", "") and not (tmp_path / "curve.csv").exists()


def test_the_curve_grows_while_the_training_runs(clock, tmp_path):
    path, curve, lengths = tmp_path / "row/curve.csv", rows(3), []
    for step in Training("a", path)(range(3, 6), 3, lambda: curve):
        lengths.append(len(read_rows(path)) if path.exists() else 0)
        curve.append(rows(step + 1)[-1])
    assert lengths == [0, 4, 5]  # the rows of the checkpoint among them
    assert read_rows(path)[0] == {"step": "0", "lr": "0.1", "loss": "2.0", "term": "1.0"}


def test_the_result_of_a_training_is_a_line():
    fresh, resumed, kept = Training("a"), Training("a"), Training("a")
    run(fresh, 5), run(resumed, 5, done=3)
    assert trained("clip", [], [kept]) == "clip: nothing to train"
    assert trained("a", rows(5), [fresh]) == "a: 5 steps, loss 1.6"
    assert trained("a", rows(5), [fresh, kept, resumed]) == (
        "a: 5 steps, loss 1.6; 3 seeds, 1 from kept work, went on from step 3"
    )


def record(name: str, clean: list[bool], adv: list[bool]) -> Record:
    none = dict.fromkeys(("zero_bits", "broken_bits"), np.zeros(len(clean), bool))
    cell = {"method": "m", "seed": 0, "attack": "pgd", "set_name": name, "fingerprint": "f", "protocol": "p"}
    return Record(**cell, ids=range(len(clean)), clean_bits=clean, adv_bits=adv, **none)


def test_the_result_of_an_evaluation_is_the_mean_over_sets(tmp_path):
    record("a", [True] * 4, [True] * 4).save(tmp_path / "0/a.json")
    record("b", [True, False], [False, True]).save(tmp_path / "0/b.json")
    told = result("m, pgd", tmp_path, [0], ["a", "b"], 4)
    assert told == "m, pgd: 50.0 % right, mean over 2 sets, 6 images; clean 75.0 %; 4 images from kept work"
    assert (
        result("m, pgd", tmp_path, [0], ["a"], 0) == "m, pgd: 100.0 % right, mean over 1 sets, 4 images; clean 100.0 %"
    )


def test_the_bar_of_an_evaluation_counts_images_over_sets_and_what_is_right(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    told, images = [], Images("m, pgd", models=2)
    images.expect([4, 3])
    assert images.bar.total == 14
    monkeypatch.setattr(images.bar, "advance", lambda n, share: told.append((n, share)))
    hits = [True, False, False, True]
    for size, done in ((4, 2), (3, 0)):
        record_so_far = SimpleNamespace(hits=np.array(hits[:done], bool))
        for start in images.watch(range(done, size, 2), done, partial(copy, record_so_far)):
            record_so_far.hits = np.array(hits[: min(start + 2, size)])
    assert images.bar.found == 2
    assert told == [(2, "50.0 % right"), (2, "50.0 % right"), (1, "42.9 % right")]


def test_of_several_processes_each_counts_its_share_of_every_set(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    images = Images("m, pgd")
    images.expect([4, 3])
    assert images.bar.total == 7  # a cluster may set the variable where no torchrun is
    monkeypatch.setenv(progress.CHILD, "run")
    images.expect([4, 3])
    assert images.bar.total == 4


SAID = """Running stage 'train@clip':
> PYTHONPATH=. python -B -m stages train clip
clip: nothing to train
Updating lock file 'dvc.lock'

Stage 'train@fare' didn't change, skipping
Stage 'train@dm' is cached - skipping run, checking out outputs
Use `dvc push` to send your updates to remote storage.
ERROR: failed to reproduce 'train@clip'
"""


@pytest.mark.parametrize(("lane", "before"), [(0, ""), (2, "2| ")])
def test_repro_leaves_out_what_dvc_says_of_itself(capfd, lane, before):
    command = [sys.executable, "-c", f"import sys; print({SAID!r}, end=''); sys.exit('a bar')"]
    assert repro._told(command, {}, lane) == 1
    told = capfd.readouterr()
    kept = [before + SAID.splitlines()[line] for line in (0, 2, 6, 8)]
    assert set(told.out.splitlines()) == {*kept, *([f"{before}a bar"] if lane else [])}
    assert told.err == ("" if lane else "a bar\n")  # without lanes a bar goes to the terminal
    repro._told(command, {repro.EVERY_LINE: "1"}, lane)
    assert capfd.readouterr().out.count("\n") == SAID.count("\n") + bool(lane)


def test_lanes_share_out_every_stage_once_and_what_a_stage_needs_has_run_before(document, tmp_path, monkeypatch):
    turns: list[list[str]] = []  # of what runs side by side, in order

    def told(command, environment, lane=0):
        turns.append([name for name in command[len(repro.DVC) :] if name != "--single-item"])
        return 0

    monkeypatch.setattr(repro, "_told", told)
    monkeypatch.setattr(repro, "serving", lambda: nullcontext({}))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "params.yaml", document)
    assert CliRunner().invoke(repro.main, ["--lanes", "2"]).exit_code == 0
    stages = [name for turn in turns for name in turn]
    of_sets = {
        f"{kind}@{name}" for kind in ("download", "data", "text_embeddings") for name in document["data"]["sets"]
    }
    judged = {f"evaluate@{method}-{attack}" for method in document["methods"] for attack in document["attacks"]}
    trained, measured = {f"train@{method}" for method in document["methods"]}, {"eps_sweep@pgd", "attention@things"}
    common = {"check", "download_base", "base_model", "plots_page", "sets", "start"}
    assert sorted(stages) == sorted(of_sets | judged | trained | measured | common)
    assert turns[0] == ["check"] and turns[-1] == []  # the whole graph, in which the rest is left
    places = {name: place for place, turn in enumerate(turns) for name in turn}
    pairs = [(f"train@{name.partition('@')[2].partition('-')[0]}", name) for name in judged]
    pairs += [(first, name) for first in ("start", "sets") for name in trained | judged]
    pairs += [(first, name) for first in ("base_model", "data@shapes") for name in ("start", "text_embeddings@shapes")]
    assert all(places[first] < places[name] for first, name in pairs)
    pairs = [turn for turn in turns if turn and turn[0].startswith(("train", "evaluate", "eps_sweep", "attention"))]
    assert len(pairs) == 4 and all(abs(len(one) - len(other)) <= 1 for one, other in zip(pairs[::2], pairs[1::2]))


@pytest.mark.parametrize("there", ["", "old"])
def test_stages_are_forks_of_the_process_that_is_there_or_of_a_new_one(monkeypatch, there):
    seen = []
    monkeypatch.setenv("ZSR_WARM", there)
    monkeypatch.setattr(repro, "serving", lambda: nullcontext({"ZSR_WARM": "new"}))
    monkeypatch.setattr(repro.subprocess, "run", lambda command, env: seen.append(env) or SimpleNamespace(returncode=3))
    assert CliRunner().invoke(repro.main, ["dvc", "repro"]).exit_code == 3
    assert [variables["ZSR_WARM"] for variables in seen] == [there or "new"]


def test_the_last_line_says_what_to_open(tmp_path):
    (tmp_path / "tables").mkdir()
    assert repro.results(tmp_path).startswith("Open tables (the tables). `dvc metrics show`")
    for name in ("tables/accuracy.md", "report.html"):
        (tmp_path / name).write_text("")
    assert repro.results(tmp_path).startswith(
        "Open report.html (all results on a page for the browser), tables/accuracy.md"
    )


@pytest.mark.parametrize("changes", [{"threads": 0}, {"threads": "x"}, {"compute": None}, {"launcher": []}])
def test_repro_reads_what_no_stage_has_checked(document, changes):
    assert repro._lanes(document | {"threads": 1}) >= 1
    with pytest.raises(ParamError, match=f"^{'|'.join(changes)}|missing key '{'|'.join(changes)}"):
        repro._lanes(document | changes)
