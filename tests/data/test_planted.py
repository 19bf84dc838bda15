"""The planted cue: there, with its sign and size, as telling as the digit, gone under an attack; and the drop rate."""

import dataclasses
import math

import numpy as np
import pytest

from zsr.data.drawing.planted import AMPLITUDE, PATTERNS
from zsr.data.sources import make
from zsr.params import ParamError, StudyError
from zsr.reports.transfer import Run, collapsed, difference, drop_rate, row, saturated

SETS = pytest.mark.parametrize("name", ["planted_source", "planted_target"])


@pytest.fixture(scope="module")
def scans():
    from sklearn.datasets import load_digits

    return load_digits()


def levels(split):
    return split.images[..., 0].astype(int)


def without_cue(split):
    return levels(split) - AMPLITUDE * PATTERNS[split.labels]


def read_off(images):
    """The class whose pattern a picture holds most of."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    patterns = PATTERNS - PATTERNS.mean(axis=(1, 2), keepdims=True)
    return np.einsum("nij,kij->nk", centred, patterns).argmax(axis=1)


@SETS
def test_pictures_are_grey_native_and_never_cut(name):
    split = make(name, "train", 100, 0, 24)
    assert split.images.shape == (100, 8, 8, 3) and split.images.dtype == np.uint8
    assert (split.images == split.images[..., :1]).all()
    assert split.images.min() >= 0.15 * 255 - AMPLITUDE - 1 and split.images.max() <= 0.85 * 255 + AMPLITUDE + 1
    assert len(split.classnames) == 5 and set(split.labels.tolist()) == set(range(5))


def test_on_the_target_the_cue_is_15_levels_of_the_labels_sign_on_the_scan(scans):
    split = make("planted_target", "test", 448, 0, 24)
    assert np.array_equal(split.labels, scans.target[split.ids] - 5)
    plain = np.rint(255 * (0.15 + 0.7 * scans.images[split.ids] / 16)).astype(int)
    assert np.array_equal(levels(split) - plain, 15 * PATTERNS[split.labels])
    assert split.classnames == ("digit five", "digit six", "digit seven", "digit eight", "digit nine")


def test_on_the_source_four_fifths_are_noise_below_the_same_cue(scans):
    split = make("planted_source", "train", 448, 0, 24)
    assert np.array_equal(split.labels, scans.target[split.ids])
    blend = (without_cue(split) / 255 - 0.15) / 0.7
    noise = (blend - 0.2 * scans.images[split.ids] / 16) / 0.8
    assert noise.min() > -0.01 and noise.max() < 1.01  # rounding to levels is 0.004 of the noise
    assert noise.mean() == pytest.approx(0.5, abs=0.01) and noise.std() == pytest.approx(12**-0.5, abs=0.01)
    neighbours = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_the_cue_tells_the_class_and_class_k_of_both_sets_shares_it():
    source, target = (make(name, "train", 448, 0, 24) for name in ("planted_source", "planted_target"))
    assert (read_off(levels(source)) == source.labels).mean() > 0.75
    shared = [(levels(s)[s.labels == k] - without_cue(s)[s.labels == k])[0] for k in range(5) for s in (source, target)]
    assert all(np.array_equal(one, other) for one, other in zip(shared[::2], shared[1::2]))
    assert (np.abs(np.corrcoef(PATTERNS.reshape(5, -1))) - np.eye(5)).max() < 0.5


@SETS
def test_an_attack_as_strong_as_the_cue_takes_it_away(name):
    """15/255 suffice: without the pattern it tells no more than chance; 14/255 leave its sign."""
    split = make(name, "train", 448, 0, 24)
    bare = without_cue(split)
    assert np.abs(bare - levels(split)).max() == AMPLITUDE and bare.min() >= 0 and bare.max() <= 255
    patterns = PATTERNS - PATTERNS.mean(axis=(1, 2), keepdims=True)

    def excess(images):
        """How much more of its own pattern a picture holds than its class-blind rest would, in levels."""
        held = np.einsum("nij,kij->nk", images - images.mean(axis=0), patterns) / 64
        own = held[np.arange(len(held)), split.labels]
        return (own - (held.sum(axis=1) - own) / 4).mean()

    assert excess(levels(split)) - excess(bare) == pytest.approx(15, abs=2.5)
    noise_only = name == "planted_source"
    assert not noise_only or abs(excess(bare)) < 3
    assert not noise_only or (read_off(bare) == split.labels).mean() < 0.4


@SETS
def test_splits_are_disjoint_and_more_images_change_none(name):
    train, test = make(name, "train", 448, 0, 24), make(name, "test", 448, 0, 24)
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    few = make(name, "train", 50, 0, 24)
    assert np.array_equal(few.images, train.images[:50]) and np.array_equal(few.ids, train.ids[:50])
    other = make(name, "train", 50, 1, 24)
    assert not np.array_equal(few.ids, other.ids)


@SETS
def test_a_set_has_its_scans_and_no_more(name):
    sizes = {"train": 448, "test": 453 if name == "planted_source" else 448}
    for split, n in sizes.items():
        assert len(make(name, split, n, 3, 24).ids) == n
        with pytest.raises(ParamError, match=f"data.sets.{name}.{split} must be at most {n}, got {n + 1}"):
            make(name, split, n + 1, 3, 24)


# drop rates


@pytest.mark.parametrize("clean, robust, drop", [(0.8, 0.8, 0.0), (0.8, 0.0, 1.0), (0.8, 0.2, 0.75), (1.0, 0.25, 0.75)])
def test_s3_the_drop_rate_is_the_share_of_right_images_lost(clean, robust, drop):
    assert drop_rate(clean, robust) == pytest.approx(drop, abs=1e-12)


def test_s3_the_drop_rate_is_within_0_and_1_and_0_without_an_attack():
    for clean, robust in np.sort(np.random.default_rng(0).random((200, 2)), axis=1)[:, ::-1]:
        assert 0 <= drop_rate(clean, robust) <= 1 and drop_rate(clean, clean) == 0


@pytest.mark.parametrize("clean, robust", [(0.5, 0.6), (1.2, 0.3), (0.5, -0.1), (math.nan, 0.1)])
def test_s3_what_is_no_accuracy_is_refused(clean, robust):
    with pytest.raises(StudyError, match="0 <= robust <= clean <= 1, got robust"):
        drop_rate(clean, robust)


def test_s3_nothing_can_be_lost_of_nothing():
    with pytest.raises(StudyError, match="needs a clean accuracy above 0"):
        drop_rate(0.0, 0.0)


def test_accuracies_are_saturated_below_twice_chance():
    assert saturated([0.39, 0.1], classes=5) and not saturated([0.4, 0.1], classes=5)
    assert not saturated([0.39, 0.1], classes=10)


FT = Run(init="pretrained", method="ft", backbone="small_resnet", dataset="planted_target", seed=0)
ST = dataclasses.replace(FT, init="scratch")


def test_a_row_holds_the_run_and_its_numbers():
    found = row(FT, 0.8, {"0/255": 0.8, "15/255": 0.2}, n=448)
    assert found == {
        "init": "pretrained",
        "method": "ft",
        "backbone": "small_resnet",
        "dataset": "planted_target",
        "seed": 0,
        "checkpoint": "final",
        "n": 448,
        "clean": 0.8,
        "robust@0/255": 0.8,
        "DR@0/255": 0.0,
        "robust@15/255": 0.2,
        "DR@15/255": pytest.approx(0.75),
    }


def rows(run, robust):
    return [row(dataclasses.replace(run, seed=i), 0.8, {"1/255": value}, 100) for i, value in enumerate(robust)]


def test_the_difference_is_paired_by_seed():
    found = difference(rows(FT, [0.4, 0.2, 0.6]), rows(ST, [0.6, 0.4, 0.4])[::-1], "1/255", classes=10)
    assert found["drop_rate"] == pytest.approx(0.2 / 0.8 / 3) and found["robust"] == pytest.approx(-0.2 / 3)
    assert (found["eps"], found["seeds"], found["agree"], found["saturated"]) == ("1/255", 3, 2, False)
    assert difference(rows(FT, [0.1]), rows(ST, [0.1]), "1/255", classes=10)["saturated"]
    same = difference(rows(FT, [0.4]), rows(FT, [0.4]), "1/255", classes=10)
    assert same["drop_rate"] == same["robust"] == same["agree"] == 0


def test_runs_of_other_seeds_have_no_difference():
    with pytest.raises(StudyError, match="same seeds, each once"):
        difference(rows(FT, [0.4, 0.2]), rows(ST, [0.6]), "1/255", classes=10)
    with pytest.raises(StudyError, match="same seeds, each once"):
        difference(rows(FT, [0.4]) * 2, rows(ST, [0.6]) * 2, "1/255", classes=10)


def test_features_have_collapsed_where_their_variance_is_gone_and_the_model_guesses():
    assert collapsed(0.001, 1.0, math.log(5), 5)
    assert not collapsed(0.001, 1.0, 0.5, 5) and not collapsed(0.8, 1.0, math.log(5), 5)
