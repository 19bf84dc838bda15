"""One model on every set: sets side by side, and records of equal weights shared."""

import copy

import pytest

from stages.verdicts import Judged, judge
from zsr.data.prepared import Prepared
from zsr.records import BITS, Record

SETS = ("a", "b", "c")


@pytest.fixture
def judged(clip_model, trained, split, tmp_path, document, monkeypatch):
    """Judges the first images of one set under three names, and returns the records by name."""
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "embedded").write_text("a file")
    data = Prepared(split.first(24), trained.text_embeddings, "this is {}", tmp_path / "embedded")
    clip_model.logit_scale.data += 5.7  # as the fixture's classifier has it

    def run(workers: int, method: str = "m", weights: str = "w", **changes) -> dict[str, Record]:
        study = copy.deepcopy(document)
        study["evaluate"] |= {"workers": workers, "batch_size": 7, "save_every": 2} | changes
        study["attacks"]["pgd"] |= {"eps": 0.4 / 255, "step_size": 0.1 / 255}
        out = tmp_path / f"{method}-{weights}-{workers}"
        judge(study, Judged(method, 0, weights, clip_model), "pgd", dict.fromkeys(SETS, data), out)
        return {name: Record.load(out / f"{name}.json") for name in SETS}

    return run


def test_sets_side_by_side_give_the_bits_of_one_after_another(judged):
    one, several = judged(1), judged(3)
    for name in SETS:
        assert all(getattr(one[name], bits) == getattr(several[name], bits) for bits in BITS)
        assert one[name].set_name == name
    assert one["a"].adv_bits != one["b"].adv_bits or one["a"].clean_bits != one["a"].adv_bits
    assert 0 < sum(one["a"].robust_bits) < sum(one["a"].clean_bits)


def test_equal_weights_are_judged_once_and_other_weights_again(judged, tmp_path):
    first = judged(1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").rglob("*.json")}
    again = judged(1, method="other")
    assert all(again[name].method == "other" and again[name].adv_bits == first[name].adv_bits for name in SETS)
    assert len(kept) == len(SETS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "scratch").rglob("*.json")}.keys() == kept.keys()
    judged(1, weights="others")
    assert len(list((tmp_path / "scratch").rglob("*.json"))) == 2 * len(SETS)
