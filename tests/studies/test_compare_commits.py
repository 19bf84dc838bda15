"""The comparison of the costs of two commits finds a slower stage, by processor time, in pairs whose order changes."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import compare_commits
from benchmarks.compare_commits import compare, said, timed
from zsr.params import StudyError

STAGE = """import sys, time
from pathlib import Path
assert not Path("code.yaml").exists() and Path("data/input").read_text() == "the same"
Path("kept_work").mkdir()
until = time.process_time() + {seconds}
while time.process_time() < until:
    sum(range(1000))
time.sleep({sleep})
out = Path({out!r})
out.mkdir(parents=True)
(out / "result").write_text({result!r})
"""


def write(root: Path, seconds: float, result: str, sleep: float = 0.0) -> None:
    for stage, out in compare_commits.STAGES.items():
        (root / f"stages/{stage[0]}.py").write_text(
            STAGE.format(seconds=seconds, sleep=sleep, out=out, result=f"{stage} {result}")
        )


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with two stages that take no time and wait."""
    root = tmp_path / "root"
    for folder in ("stages", "data"):
        (root / folder).mkdir(parents=True)
    (root / "data/input").write_text("the same")
    (root / "code.yaml").write_text("{}")
    (root / ".gitignore").write_text("/data/\n")
    write(root, seconds=0, sleep=0.3, result="a")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    return root


def test_a_slower_working_tree_is_found_by_processor_time(root, capsys):
    write(root, seconds=0.3, result="a")
    compare(root, "HEAD", 2, root)
    out = capsys.readouterr().out
    means = [float(number) for number in re.findall(r"takes ([+-]\d+\.\d+) s", out)]
    assert len(means) == 2 and all(0.2 < mean < 0.6 for mean in means), out
    assert out.count("The outputs are the same bytes") == 2 and (root / "data/input").read_text() == "the same"


def test_other_outputs_are_said_and_a_stage_that_fails_is_one_line(root, capsys, tmp_path):
    write(root, seconds=0, result="b")
    compare(root, "HEAD", 2, root)
    assert capsys.readouterr().out.count("OTHER BYTES") == 2
    with pytest.raises(StudyError, match=r"\Aevaluate clip pgd fails in before: .*; see --data\Z"):
        compare(root, "HEAD", 2, tmp_path)
    with pytest.raises(StudyError, match=r"\Agit archive: .*none"):
        compare(root, "none", 2, root)


def test_who_begins_changes_and_the_pair_keeps_its_order(monkeypatch):
    order: list[Path] = []
    costs = {Path("before"): 1.0, Path("now"): 2.0}
    monkeypatch.setattr(compare_commits, "spent", lambda place, stage, out: order.append(place) or costs[place])
    assert [timed(list(costs), ("tables",), "tables", first) for first in (0, 1)] == [(1.0, 2.0)] * 2
    assert order == [Path("before"), Path("now"), Path("now"), Path("before")]


def test_the_interval_is_students():
    """Differences 1, 2 and 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees of freedom 4.3027."""
    assert said([(10.0, 11.0), (10.0, 12.0), (10.0, 13.0)]) == (
        "The working tree takes +2.00 s [-0.48, +4.48] more, +20.0% [-4.8%, +44.8%]"
    )
