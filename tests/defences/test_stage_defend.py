"""The stage `defend`, in this process, in a folder with small prepared sets and two towers of random weights."""

import pytest
import torch
from click.testing import CliRunner

from stages import defend
from tests.prepared_sets import prepared_sets
from zsr import files, scratch
from zsr.evaluation.defence_records import COLUMNS, DefenceRecord, rows
from zsr.evaluation.defended import Bench
from zsr.models import clip
from zsr.params import over

ATTACK = {"eps": "2/255", "step_size": "1/255", "n_iter": 2, "random_start": True, "precision": "fp32"}
CHANGES = {
    "model": {"arch": "zsr-tiny"},
    "methods": {"clip": {"section": "methods.clip"}},
    "attacks": {"pgd": ATTACK | {"reduction": "sum", "success": "any"}},
    "evaluate": {"batch_size": 4},
    "defences": {
        "random_noise_clip": {"module": "random_noise", "on": "clip", "eps": "4/255"},
        "ttc_clip": {"module": "ttc", "on": "clip", "tau": 1, "defend": {"images": 3, "sets": ["shapes"]}},
    },
    "defend": {
        "attacks": ["pgd"], "sets": [], "images": 5, "draws": 2, "verdicts": 3, "queries": 0, "checked": 2,
        "large_eps": "24/255",
    },
}  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch, document, clip_model, fitted_prompts):
    """A folder with a study of two seeds of training. The tower of seed 1 differs from the base model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(scratch, "loaded_files", set)  # this process has loaded far more than the stage does
    prepared_sets(tmp_path, {"shapes": 6, "letters": 4}, fitted_prompts)  # prompts that fit the shapes
    clip.save(defend.BASE_MODEL / "0.safetensors", clip_model, "zsr-tiny", placed=True)
    clip.save(defend.CHECKPOINTS / "clip/0.safetensors", clip_model, "zsr-tiny", placed=True)
    with torch.no_grad():
        clip_model.visual.proj.mul_(torch.linspace(0.5, 2, 48))
    clip.save(defend.CHECKPOINTS / "clip/1.safetensors", clip_model, "zsr-tiny", placed=True)
    files.write_json(tmp_path / "params.yaml", over(document, CHANGES))
    return tmp_path


def ran(name: str) -> str:
    result = CliRunner().invoke(defend.main, [name])
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    return result.output


def refused(name: str) -> str:
    result = CliRunner().invoke(defend.main, [name])
    assert result.exit_code == 1 and result.output.count("\n") == 1, f"{result.output} {result.exception!r}"
    return result.output


def test_the_stage_writes_a_record_for_each_set_and_seed_and_the_metrics_of_all(study):
    said = ran("random_noise_clip")
    paths = [
        study / f"data/defended/random_noise_clip/{seed}/{one}.json" for seed in (0, 1) for one in ("shapes", "letters")
    ]
    records = [
        DefenceRecord.load(
            path, defence="random_noise_clip", method="clip", seed=int(path.parent.name), set_name=path.stem
        )
        for path in paths
    ]
    assert [(r.n, r.verdicts, len(r.doubled)) for r in records] == [(5, 3, 2), (4, 3, 2)] * 2
    assert all(r.large_eps == pytest.approx(24 / 255) and r.adaptive_attacks == ("pgd/as_is",) for r in records)
    assert "random noise (eps 0.0156863)" in records[0].protocol and "PGD l-inf, eps 2/255" in records[0].protocol
    assert records[0].fingerprint != records[2].fingerprint  # of two towers
    table = files.read_rows(study / "metrics/defended/random_noise_clip.csv")
    assert table == [{key: str(value) for key, value in row.items()} for row in rows(records)]
    assert [(row["set"], row["seeds"], row["n"]) for row in table] == [
        ("shapes", "2", "5"), ("letters", "2", "4"), ("mean", "2", "9"),
    ]  # fmt: skip
    mean = {column: float(table[-1][column]) for column in COLUMNS}
    assert files.read_json(study / "metrics/defended/random_noise_clip.json") == mean
    assert 0 < mean["clean"] < float(table[0]["clean"])
    assert f"random_noise_clip on clip: clean {mean['clean']:.1f}" in said


def test_a_second_run_takes_the_kept_records_and_another_row_does_not(study, monkeypatch):
    ran("ttc_clip")
    outputs = [*study.glob("data/defended/**/*.json"), *study.glob("metrics/defended/*")]
    written = {path: path.read_bytes() for path in outputs}
    assert {path.name for path in written} == {"shapes.json", "ttc_clip.csv", "ttc_clip.json"}  # sets: of the row alone
    records = [DefenceRecord.load(study / f"data/defended/ttc_clip/{seed}/shapes.json") for seed in (0, 1)]
    assert [record.n for record in records] == [3, 3]  # images: of the row alone
    assert records[0].statistics["r"]["clean"] == records[1].statistics["r"]["clean"]  # that of the original CLIP
    assert sum(records[0].passes["clean"]) < sum(records[1].passes["clean"])
    calls = []
    monkeypatch.setattr(Bench, "judged", lambda *args: calls.append(args))
    for path in written:
        path.unlink()
    ran("ttc_clip")
    assert not calls and {path: path.read_bytes() for path in written} == written


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"defences": {"ttc_clip": {"on": "clip", "module": "ttc", "tua": 1}}}, "unknown key 'defences.ttc_clip.tua'"),
        ({"defend": {"draws": 0}}, "defend.draws must be at least 1, got 0"),
        ({"defend": {"sets": ["planes"]}}, "planes/test.safetensors is not there"),
    ],
)
def test_what_cannot_be_judged_is_refused_with_one_line_before_a_record_is_made(study, document, changes, line):
    files.write_json(study / "params.yaml", over(over(document, CHANGES), changes))
    assert line in refused("ttc_clip" if "defences" in changes else "random_noise_clip")
    assert not (study / "data/defended").exists() and not (study / "metrics").exists()


def test_a_tower_that_is_not_there_is_named(study):
    (study / "data/checkpoints/clip/0.safetensors").unlink()
    (study / "data/checkpoints/clip/1.safetensors").unlink()
    assert "data/checkpoints/clip holds no model, a file SEED.safetensors" in refused("random_noise_clip")
