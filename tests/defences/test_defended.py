"""The columns of a defence: who attacks what, with which draws, and what a record says of it."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from zsr.attacks.apgd import Ascent
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.batch import Noise
from zsr.attacks.cw import CW
from zsr.attacks.fab import FAB
from zsr.attacks.pgd import PGD
from zsr.attacks.square import Square
from zsr.defences._base import AS_IS, ATTACK_DRAWS, Tower
from zsr.defences.clipure_cos import CLIPureCos
from zsr.defences.random_noise import RandomNoise
from zsr.defences.ttc import GATE, TTC
from zsr.evaluation import defended, measure
from zsr.evaluation.defence_records import CHECKED, COLUMNS, COUNTS, DefenceRecord, marks, rows
from zsr.evaluation.defended import Bench, Defending, check_attacks, judge_split, neutral_text, of_base, tailored
from zsr.evaluation.evaluate import Evaluation, evaluate
from zsr.evaluation.records import Mark, Record
from zsr.evaluation.results import Sample, average
from zsr.files import Unusable
from zsr.models import clip
from zsr.models.heads import Model
from zsr.models.passes import cross_entropy, differentiate, margin
from zsr.params import ParamError
from zsr.study import check

EPS = 0.8 / 255
PGD3 = PGD(eps=EPS, step_size=0.4 / 255, n_iter=3)
SMALL = Defending(attacks=["pgd"], images=12, draws=2, verdicts=3, queries=0, checked=0, large_eps=8 / 255)
NOISE = Noise(0, "shapes", list(range(12)))
FEW = RandomNoise(eps=0.4 / 255)


def bench(model, defence, attacks=None, defending=SMALL, batch_size=12):
    evaluation = Evaluation(seed=0, batch_size=batch_size, save_every=1)
    tower = Tower(model.eval().requires_grad_(False), neutral=torch.ones(48))
    return Bench(defence, tower, attacks or {"pgd": PGD3}, defending, evaluation)


def run(model, split, path, defence=FEW, **options):
    made = bench(model, defence, **options)
    cell = {"defence": "d", "method": "clip", "seed": 0, "set_name": "shapes", "fingerprint": "f"}
    return judge_split(made, split, made.blank("facts", **cell), path / "record.json")


# Draws


class Counted(RandomNoise):
    """Notes the draws that it is asked for."""

    asked: list = []  # noqa: RUF012
    ids: list = []  # noqa: RUF012

    def logits(self, model, images, noise, draw):
        self.ids.append(list(noise.ids))
        self.asked.append((draw, images.requires_grad))
        return super().logits(model, images, noise, draw)


def test_attacks_and_verdicts_have_different_draws_and_no_two_steps_have_the_same(trained, split, tmp_path):
    Counted.asked = []
    run(trained, split, tmp_path, Counted(eps=EPS))
    judged = {draw for draw, attacked in Counted.asked if not attacked}
    attacked = [draw for draw, differentiated in Counted.asked if differentiated][1 + 1 :]  # two checks of gradients
    assert judged == {0, 1, 2} and attacked == list(range(ATTACK_DRAWS, ATTACK_DRAWS + 3 * 2))


def test_an_attack_sees_the_mean_of_the_draws(trained, split):
    images, labels, _ = split.tensors(range(12))
    tower = Tower(trained.requires_grad_(False))
    seen = defended._Seen(FEW, tower, NOISE, draws=3, variant=AS_IS)
    draws = [FEW.logits(tower, images, NOISE, ATTACK_DRAWS + k) for k in range(6)]
    assert torch.allclose(seen(images), sum(draws[:3]) / 3, rtol=1e-5, atol=1e-4)
    assert torch.allclose(seen(images), sum(draws[3:]) / 3, rtol=1e-5, atol=1e-4)
    with pytest.raises(AssertionError, match="a draw belongs to an image"):
        seen(images[:5])


def test_the_term_of_an_adaptive_attack_adds_its_gradient_to_that_of_the_loss(trained, split):
    images, labels, _ = split.tensors(range(12))
    tower, defence = Tower(trained.requires_grad_(False)), TTC(eps=2 / 255, tau=1)

    def gradient(variant):
        seen = defended._Seen(defence, tower, NOISE, draws=2, variant=variant)
        return differentiate(seen, images, lambda logits: cross_entropy(logits, labels))[2]

    leaf = images.clone().requires_grad_()
    terms = [defence.adaptive(tower, leaf, NOISE, ATTACK_DRAWS + k, GATE)[1] for k in range(2)]
    (of_terms,) = torch.autograd.grad((sum(terms) / 2).sum(), leaf)
    assert of_terms.abs().max() > 0
    difference = gradient(GATE) - gradient(AS_IS)
    assert torch.allclose(difference, of_terms, atol=1e-4 * gradient(AS_IS).abs().max().item() + 1e-6)


# What an attack becomes


def test_a_random_defence_meets_no_attack_that_lucky_draws_end():
    pgd, cw = (tailored("a", attack(eps=EPS, n_iter=7), FEW, AS_IS)["a"] for attack in (PGD, CW))
    assert (pgd.success, pgd.n_iter, cw.success) == ("last", 7, "last")
    for attack in (AutoAttack(eps=EPS, n_iter=9), AutoAttack(eps=EPS, version="paper", n_iter=9)):
        forms = tailored("aa", attack, FEW, AS_IS, queries=5)
        assert list(forms) == ["aa apgd-ce", "aa apgd-margin"]
        assert all((f.n_iter, f.eps, f.early_drop, f.result) == (9, EPS, False, "loss") for f in forms.values())
    with pytest.raises(ParamError, match="defend.attacks: fab cannot attack random_noise, which is random; choose"):
        check_attacks({"fab": FAB(eps=EPS)}, FEW, "defend.attacks")


def test_a_deterministic_defence_meets_the_attacks_as_they_are_and_square():
    defence = CLIPureCos()
    for attack in (PGD3, AutoAttack(eps=EPS), FAB(eps=EPS)):
        forms = tailored("a", attack, defence, AS_IS, queries=5)
        assert forms == {"a": attack, "square": Square(eps=EPS, n_queries=5)}
        assert tailored("a", attack, defence, AS_IS) == {"a": attack}
        check_attacks({"a": attack}, defence, "defend.attacks")


def test_apgd_gives_the_iterate_of_largest_loss(trained, split):
    """Also where another iterate has fooled the model: a random model may be fooled by luck."""
    images, labels, _ = split.tensors(range(12))
    losses, points = [], []

    def noted(x):
        logits = trained(x)
        losses.append(cross_entropy(logits.detach(), labels)), points.append(x.detach())
        return logits

    attack = Ascent(norm="linf", eps=EPS, n_iter=8, loss="ce", early_drop=False, result="loss")
    adv = attack(noted, images, labels, NOISE)
    best = torch.stack(losses).argmax(dim=0)
    assert torch.equal(adv, torch.stack(points)[best, torch.arange(12)]) and len(set(best.tolist())) > 1
    margins = dataclasses.replace(attack, loss="margin")
    moved = margins(trained, images, labels, NOISE)
    assert (margin(trained(moved), labels) < margin(trained(images), labels)).all()


# The columns


def test_without_a_defence_the_columns_are_those_of_an_evaluation(trained, split, tmp_path):
    record = run(trained, split, tmp_path, RandomNoise(eps=0))
    blank = Record(method="clip", seed=0, attack="pgd", set_name="shapes", fingerprint="f", protocol="p")
    evaluation = Evaluation(seed=0, batch_size=12, save_every=1)
    plain = evaluate(trained, PGD3, split.first(12), blank, evaluation, tmp_path / "plain.json")
    assert (record.clean == 3 * plain.clean_bits).all() and (record.oblivious == 3 * plain.adv_bits).all()
    assert (record.undefended == plain.adv_bits).all() and (record.undefended_clean == plain.clean_bits).all()
    assert record.worst.sum() < record.clean.sum() and record.verdicts == 3


@pytest.mark.parametrize(
    "defence", [FEW, TTC(eps=1 / 255, tau=1), CLIPureCos(n_iter=0, templates=["{}"])], ids=lambda d: d.name
)
def test_the_worst_column_is_no_better_than_any(trained, split, tmp_path, defence):
    attacks = {"pgd": PGD3, "autoattack": AutoAttack(eps=EPS, n_iter=2, version="paper")}
    made = run(trained, split, tmp_path, defence, attacks=attacks, defending=dataclasses.replace(SMALL, images=5))
    for column in COUNTS:
        assert (made.worst <= getattr(made, column)).all()
    assert (made.worst == np.min([made.clean, made.oblivious, made.adaptive], axis=0)).all()
    assert (made.adaptive <= made.clean).all() and 0 < made.clean.sum()
    assert made.percent("adaptive") <= made.percent("oblivious") + 1 or "adaptive_too_weak" in {
        m.name for m in marks([made])
    }
    assert (0 <= made.clean).all() and (made.clean <= made.verdicts).all()


def test_counts_do_not_depend_on_the_batch_size(trained, split, tmp_path):
    defending, strong = dataclasses.replace(SMALL, images=6, checked=2), RandomNoise(eps=16 / 255)
    records = [run(trained, split, tmp_path / str(n), strong, batch_size=n, defending=defending) for n in (64, 4, 1)]
    assert 0 < records[0].worst.sum() < records[0].clean.sum() and len(records[0].doubled) == 2
    assert set(records[0].clean.tolist()) - {0, 3}  # the draws decide, so a verdict with other noise shows
    twice, large = (2 * 3) * (2 * 2), 3 * 2  # steps times draws
    assert records[0].passes["checks"][1] == 2 * (twice + large)  # of the two images that are checked
    for record in records[1:]:
        for name in (*COUNTS, "undefended", "doubled", "large"):
            assert np.array_equal(getattr(record, name), getattr(records[0], name)), name


def test_images_without_a_right_verdict_are_spared(trained, split, tmp_path):
    """Their count cannot fall any further; so a defence of a tower that is always wrong costs no attack."""
    images, labels, _ = split.tensors(range(12))
    made = bench(trained, FEW)
    counts, _, adv = made.adaptive(images, (labels + 1) % 12, NOISE, torch.zeros(12, dtype=torch.long))
    assert not counts.any() and torch.equal(adv, images) and made.tower.gradients == 0
    left = torch.tensor([0, 3, 0, 0, 1, 0, 0, 0, 0, 2, 0, 0])
    Counted.ids = []
    made = bench(trained, Counted(eps=EPS), defending=dataclasses.replace(SMALL, verdicts=5))
    counts, _, adv = made.adaptive(images, labels, NOISE, left)
    assert (counts <= left).all() and ((adv != images).flatten(1).any(dim=1) == (left > 0)).all()
    assert Counted.ids and all(ids == [1, 4, 9] for ids in Counted.ids)  # each image keeps its noise


class Broken(RandomNoise):
    """Has no finite logits for images that were moved."""

    images: torch.Tensor

    def logits(self, model, images, noise, draw):
        logits = model(images)
        known = (images[:, None] == Broken.images).flatten(2).all(dim=2).any(dim=1)
        return torch.where(known[:, None], logits, torch.nan)

    def surrogate(self, model, images, noise, draw):
        return model(images)


def test_a_verdict_that_is_not_finite_counts_as_wrong_without_and_as_right_with_an_attack(trained, split, tmp_path):
    Broken.images = split.tensors(range(12))[0]
    record = run(trained, split, tmp_path, Broken())
    assert (record.oblivious == 3).all() and np.array_equal(record.worst, record.clean) and record.broken >= 36
    assert "not_finite" in {mark.name for mark in marks([record])}
    Broken.images = Broken.images + 1
    assert not run(trained, split, tmp_path / "none", Broken()).clean.any()


def test_python_judges_a_defence_by_its_name(trained, split):
    """As for every model, `zsr.evaluate` gives back the model as it was."""
    images, labels, _ = split.tensors(range(3))
    trained.train()
    result = measure.evaluate(
        trained, images, labels, attack=dataclasses.replace(PGD3, n_iter=1), defence="random_noise"
    )
    assert (result.records[0].n, trained.training, result.records[0].defence) == (3, True, "random_noise")
    assert result.worst <= min(result.accuracy(column) for column in COUNTS) and result.interval[0] <= result.worst
    assert "oblivious" in repr(result) and "Violates: deterministic" in repr(result)
    for model, defence, line in (
        (trained, "clipure_cos", "reads the text tower"),
        (lambda x: trained(x), "ttc", "needs a model of zsr.zero_shot"),
        (trained, "tcc", "defence names no module of zsr.defences: 'tcc'; did you mean 'ttc'"),
    ):
        with pytest.raises(ParamError, match=line):
            measure.evaluate(model, images, labels, attack=PGD3, defence=defence)


def test_a_study_refuses_a_row_that_cannot_be_judged(tmp_path):
    text = (ROOT / "studies/defences/params.yaml").read_text()
    for old, new, line in (
        ("    on: clip\n", "    on: cilp\n", "defences.clipure_cos_clip.on is none of methods"),
        ("    on: clip\n", "", "missing key 'defences.clipure_cos_clip.on'"),
        ("module: ttc", "module: tct", "defences.ttc_clip.module names no module of zsr.defences: 'tct'; did you mean"),
        ("tau: 1\n", "tua: 1\n", "unknown key 'defences.ttc_clip.tua'; did you mean 'tau'"),
        ("  - pgd\n  - autoattack\n", "  - pdg\n", "defend.attacks is none of attacks"),
        ("large_eps: 48/255", "large_eps: 8/255", "defend.large_eps must be above attacks.pgd.eps, 13/255, got 8/255"),
        ("verdicts: 5", "verdicts: 0", "defend.verdicts must be at least 1"),
    ):
        assert old in text, old
        (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(ParamError, match=re.escape(line)):
            check(tmp_path / "params.yaml")


# Records


class Killed(Exception):
    pass


def test_a_killed_judgement_goes_on_to_the_same_bytes(trained, split, tmp_path, monkeypatch):
    defending = dataclasses.replace(SMALL, images=6, checked=1, verdicts=2, draws=1)
    defence, attacks = TTC(eps=1 / 255, n_iter=1), {"pgd": dataclasses.replace(PGD3, n_iter=1)}
    options = {"defending": defending, "batch_size": 2, "attacks": attacks}
    whole = run(trained, split, tmp_path / "whole", defence, **options)
    judged, calls = Bench.judged, []

    def dying(self, *args):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return judged(self, *args)

    monkeypatch.setattr(Bench, "judged", dying)
    with pytest.raises(Killed):
        run(trained, split, tmp_path / "killed", defence, **options)
    assert DefenceRecord.load(tmp_path / "killed/record.json").n == 2
    assert run(trained, split, tmp_path / "killed", defence, **options) == whole and len(calls) == 4
    files = [(tmp_path / name / "record.json").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1] and whole.n == 6 and len(whole.statistics["r"]["adaptive"]) == 6


@pytest.fixture
def record():
    return DefenceRecord(
        defence="d", method="clip", seed=0, set_name="shapes", fingerprint="f", protocol="p", verdicts=5,
        attacks=("pgd",), adaptive_attacks=("pgd/as_is",), violates=("deterministic",), large_eps=0.1,
        marks=(Mark("zero_gradient", "why"),), ids=[4, 7, 9, 11], clean=[5, 5, 4, 0], oblivious=[5, 3, 5, 2],
        adaptive=[4, 3, 2, 0], undefended_clean=[1, 1, 1, 0], undefended=[0, 0, 1, 0], doubled=[4, 3], large=[0, 0],
        statistics={"r": {"clean": [0.1, 0.2, 0.3, 0.4], "adaptive": [0.5, 0.6, 0.7, 0.8]}},
        passes={"clean": [40, 20], "adaptive": [8, 400]},
    )  # fmt: skip


def test_a_record_comes_back_from_its_file_and_only_whole(record, tmp_path):
    path = tmp_path / "r.json"
    record.save(path)
    assert DefenceRecord.load(path, defence="d", method="clip") == record
    assert record.percent("worst") == pytest.approx(100 * (4 + 3 + 2 + 0) / 20)
    with pytest.raises(Unusable, match="is of the defence 'd', not of 'e'"):
        DefenceRecord.load(path, defence="e")
    path.write_text(path.read_text().replace('"oblivious": [', '"oblivious":  [').replace('"seed": 0', '"seed": 1'))
    with pytest.raises(Unusable, match="another digest"):
        DefenceRecord.load(path)
    for wrong in ({"undefended": [0]}, {"adaptive": [6, 3, 2, 0]}, {"ids": [4, 4, 9, 11]}):
        dataclasses.replace(record, **wrong).save(path)
        with pytest.raises(Unusable, match="contradicts itself"):
            DefenceRecord.load(path)


def of_counts(n: int, **columns: list) -> DefenceRecord:
    """A record of n images with five verdicts each. columns: the first counts of a column; the others are 0.

    Of a check all counts are given.
    """
    filled = {name: [*columns.get(name, ()), *[0] * (n - len(columns.get(name, ())))] for name in COUNTS}
    filled |= {name: columns.get(name, ()) for name in CHECKED}
    cell = {"defence": "d", "method": "clip", "seed": 0, "set_name": "shapes", "fingerprint": "f", "protocol": "p"}
    none = {"undefended_clean": [0] * n, "undefended": [0] * n}
    return DefenceRecord(**cell, verdicts=5, ids=range(n), **none, **filled)


def test_the_worst_count_of_an_image_is_its_lowest_in_whatever_column_that_is():
    made = of_counts(4, clean=[1, 5, 4, 3], oblivious=[4, 2, 5, 3], adaptive=[5, 4, 3, 3])
    assert made.worst.tolist() == [1, 2, 3, 3] and made.hits.tolist() == [0.2, 0.4, 0.6, 0.6]
    assert made.percent("worst") == pytest.approx(45)
    assert rows([made])[0]["worst"] == 45


def test_a_mark_is_set_from_the_least_difference_on_that_asks_for_it():
    """Over a point for adaptive_too_weak, a point or more for not_converged, over five points for not_near_zero."""

    def found(n, **columns):
        return {mark.name for mark in marks([of_counts(n, **columns)])}

    clean, oblivious = {"clean": [5] * 20}, {"oblivious": [3] + [0] * 19}  # one verdict of 20 images is a point
    assert found(20, **clean, **oblivious, adaptive=[4]) == set()
    assert found(20, **clean, **oblivious, adaptive=[5]) == {"adaptive_too_weak"}
    right = {"clean": [5] * 40, "oblivious": [5] * 40}  # one verdict of 40 images is half a point
    for adaptive, doubled, expected in (
        (3, 2, set()),
        (2, 3, set()),
        (3, 1, {"not_converged"}),
        (1, 3, {"not_converged"}),
    ):
        assert found(40, **right, adaptive=[adaptive], doubled=[doubled] + [0] * 39) == expected
    assert found(20, **clean, large=[5] + [0] * 19) == set()
    assert found(20, **clean, large=[5, 1] + [0] * 18) == {"not_near_zero"}


def test_the_marks_follow_from_the_counts(record):
    def found(**changes):
        return {mark.name for mark in marks([dataclasses.replace(record, marks=(), **changes)])}

    assert found() == set()
    assert found(adaptive=[5, 5, 5, 1]) == {"adaptive_too_weak", "not_converged"}
    assert found(adaptive=[5, 3, 5, 2], doubled=[5, 3]) == set()  # as the oblivious attack
    assert found(doubled=[4, 2]) == {"not_converged"}
    assert found(doubled=[5, 3]) == {"not_converged"}  # an attack that is weaker with more steps is none to trust
    assert found(doubled=[5, 5], adaptive=[5, 5, 0, 0]) == set()  # the oblivious column is lower, before and after
    assert found(large=[1, 0]) == {"not_near_zero"}
    assert found(large=[], doubled=[]) == set()
    assert found(broken=1) == {"not_finite"}
    assert [mark.name for mark in marks([record, record])] == ["zero_gradient"]


def test_the_metrics_are_means_of_sets_with_equal_weights(record):
    other = dataclasses.replace(record, set_name="letters", clean=[0] * 4, marks=(Mark("weak_surrogate", "x"),))
    table = rows([record, other])
    assert [row["set"] for row in table] == ["shapes", "letters", "mean"]
    assert [row["worst"] for row in table] == [45.0, 0.0, 22.5]
    assert table[2]["low"] < 22.5 < table[2]["high"] and table[2]["n"] == 8
    assert table[0]["forwards_per_verdict"] == 60 / 20 and table[0]["passes_of_attack"] == 408 / 4
    assert table[0]["marks"] == "zero_gradient" and table[2]["marks"] == "zero_gradient weak_surrogate"
    assert table[0]["statistics"] == "r: clean 0.25, adaptive 0.65" and set(COLUMNS) <= set(table[0])


def test_every_column_has_the_interval_of_its_own_shares(record):
    (row, mean) = rows([record])
    for column in (*COUNTS, "undefended", "undefended_clean"):
        summary = average([Sample.of(record.shares(column)[None])])
        for made in (row, mean):
            assert [made[f"{column}_{end}"] for end in ("low", "high")] == [summary["low"], summary["high"]]
    assert (row["worst_before"], row["worst_doubled"]) == (70.0, 70.0)  # 4 + 3 of 10 verdicts of two images
    none = rows([dataclasses.replace(record, doubled=[])])[0]
    assert none["worst_before"] == none["worst_doubled"] == ""


# The original CLIP


def test_the_original_clip_stands_beside_a_tower_that_was_fine_tuned_alone(clip_model, tmp_path):
    model, base = Model(arch="zsr-tiny"), tmp_path / "base.safetensors"
    clip.save(base, clip_model, "zsr-tiny")
    assert of_base(TTC(), clip_model, model, base) == (None, None)
    assert of_base(FEW, clip_model, model, tmp_path / "nothing") == (None, None)
    clip_model.visual.proj.data *= 1.1
    assert of_base(TTC(), clip_model, model, base)[0] is not None
    templates = ["a photo of a {}", "a star"]
    origin, neutral = of_base(CLIPureCos(templates=["a photo of a {}"]), clip_model, model, base)
    assert origin is None and torch.equal(neutral, clip.embed_texts(clip_model, "zsr-tiny", ["a photo of a "])[0])
    both = clip.embed_texts(clip_model, "zsr-tiny", ["a photo of a ", "a star"])
    assert torch.allclose(neutral_text(clip_model, "zsr-tiny", templates), both.mean(dim=0), atol=1e-6)
    assert len(CLIPureCos().neutral_templates()) == 80
