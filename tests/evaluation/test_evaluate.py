import dataclasses
import os
import random

import numpy as np
import pytest
import torch

from zsr import files
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.clean import Clean
from zsr.attacks.cw import CW
from zsr.attacks.pgd import PGD
from zsr.evaluation import audit
from zsr.evaluation.evaluate import Evaluation, evaluate, protocol
from zsr.evaluation.records import BITS, Record, merged
from zsr.params import StudyError

PGD4 = PGD(
    eps=0.4 / 255, step_size=0.1 / 255, n_iter=4, random_start=True, precision="fp32", reduction="sum", success="last"
)
BLANK = Record(method="clip", seed=0, attack="pgd", set_name="shapes", fingerprint="f", protocol="p")


def run(model, split, kept, attack=PGD4, batch_size=16, save_every=1, **changes):
    return evaluate(
        model,
        attack,
        split,
        dataclasses.replace(BLANK, **changes),
        Evaluation(seed=0, batch_size=batch_size, save_every=save_every),
        kept,
    )


def same_bits(record, other, *names):
    """Are these bits those of the other, image by image? Of no names: all bits."""
    return all(np.array_equal(getattr(record, name), getattr(other, name)) for name in names or BITS)


def test_bits_do_not_depend_on_the_batch_size(trained, split, tmp_path):
    records = [run(trained, split.first(12), tmp_path / str(size), batch_size=size) for size in (1, 5, 12)]
    assert 0 < sum(records[0].adv_bits) < sum(records[0].clean_bits)
    assert all(same_bits(record, records[0], "clean_bits", "adv_bits") for record in records[1:])


def test_bits_do_not_depend_on_the_company_of_an_image(trained, split, tmp_path):
    record = run(trained, split, tmp_path / "all")
    rows = torch.randperm(64)[:20].numpy()
    part = dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows], ids=split.ids[rows])
    some = run(trained, part, tmp_path / "some")
    assert some.ids.tolist() == rows.tolist() and some.adv_bits.tolist() == record.adv_bits[rows].tolist()


def test_the_attack_is_given_the_noise_of_each_image(trained, split, tmp_path):
    keys = []

    class Spy(Clean):
        def __call__(self, model, images, labels, noise, batch_size):
            keys.append((noise.seed, noise.scope, list(noise.ids)))
            return images

    rows = list(range(63, 53, -1))
    part = dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows], ids=split.ids[rows])
    run(trained, part, tmp_path / "r", attack=Spy(), batch_size=4)
    assert [key[:2] for key in keys] == [(0, "shapes")] * 3
    assert [i for key in keys for i in key[2]][:10] == rows


def test_the_record_counts_what_was_done(trained, split, tmp_path):
    record = run(trained, split, tmp_path / "r", batch_size=10)
    assert (
        record.pixels == 4 * 70 * 3 * 24 * 24 and record.zero_pixels == 0 and record.marks == ()
    )  # seven full batches
    assert not (record.zero_bits | record.broken_bits).any()
    assert record.gradients == 4 * 70 and record.forwards == 2 * 70 and record.n == 64
    assert record.robust_bits.tolist() == [c and a for c, a in zip(record.clean_bits, record.adv_bits)]
    clean = run(trained, split, tmp_path / "c", attack=Clean())
    assert same_bits(clean, record, "clean_bits") and np.array_equal(clean.adv_bits, clean.clean_bits)
    assert clean.gradients == 0


class Killed(Exception):
    pass


def test_a_killed_evaluation_continues_where_it_was(trained, split, tmp_path):
    whole = run(trained, split, tmp_path / "whole")

    class Dying:
        eps = PGD4.eps
        calls = 0

        def __call__(self, *args):
            Dying.calls += 1
            if Dying.calls == 3:
                raise Killed
            return PGD4(*args)

    with pytest.raises(Killed):
        run(trained, split, tmp_path / "killed", attack=Dying())
    assert Record.load(tmp_path / "killed").n == 32
    Dying.calls = 10
    assert run(trained, split, tmp_path / "killed", attack=Dying()) == whole
    assert Dying.calls == 12  # the two batches that were missing


class Fragile(torch.nn.Module):
    """Dies in the forward that `left` counts down to."""

    def __init__(self, model):
        super().__init__()
        self.model, self.left = model, None

    def forward(self, images):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        return self.model(images)


def test_ten_kills_at_random_moments_leave_no_trace(trained, split, tmp_path, monkeypatch):
    few, kept = split.first(32), tmp_path / "killed"
    run(trained, few, tmp_path / "whole", batch_size=2)
    fragile, moments, kills = Fragile(trained), random.Random(0), 0

    def dying(file: int):  # in the middle of a write
        os.ftruncate(file, 10)
        raise Killed

    while True:
        in_writing = kills < 10 and moments.random() < 0.3
        fragile.left = None if in_writing or kills >= 10 else moments.randrange(12 if kept.exists() else 60)
        with monkeypatch.context() as patch:
            if in_writing:
                patch.setattr(files.os, "fsync", dying)
            try:
                run(fragile, few, kept, batch_size=2)
                break
            except Killed:
                kills += 1
    assert kills == 10
    assert kept.read_bytes() == (tmp_path / "whole").read_bytes()


def part(split, rows):
    return dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows], ids=split.ids[rows])


def test_the_order_of_images_moves_bits_and_changes_none(trained, split, tmp_path):
    record = run(trained, split.first(24), tmp_path / "forth")
    back = run(trained, part(split, list(range(23, -1, -1))), tmp_path / "back", batch_size=7)
    assert back.ids[::-1].tolist() == record.ids.tolist()
    assert all(np.array_equal(getattr(back, name)[::-1], getattr(record, name)) for name in BITS)


def test_two_shards_make_the_record_of_the_whole(trained, split, tmp_path):
    whole = run(trained, split.first(32), tmp_path / "whole")
    shards = [run(trained, part(split, list(range(i, 32, 2))), tmp_path / str(i), batch_size=8) for i in (0, 1)]
    assert merged(shards, whole.ids) == merged(shards[::-1], whole.ids) == whole


def test_an_attack_whose_batch_shrinks_gives_the_same_bits_in_any_batch_and_shard(trained, split, tmp_path):
    attack = AutoAttack(version="standard", eps=0.4 / 255, n_iter=2, n_queries=6, n_targets=2)
    few = split.first(12)
    whole = run(trained, few, tmp_path / "whole", attack=attack, batch_size=12)
    assert 0 < sum(whole.adv_bits) < sum(whole.clean_bits) and not (whole.zero_bits | whole.broken_bits).any()
    refilled = run(trained, few, tmp_path / "refilled", attack=attack, batch_size=5, save_every=4)
    rows = [list(range(i, 12, 2)) for i in (1, 0)]
    shards = [run(trained, part(few, r), tmp_path / str(r[0]), attack=attack, batch_size=8) for r in rows]
    for other in (refilled, merged(shards, whole.ids)):
        assert same_bits(other, whole)


@pytest.mark.parametrize("make", [PGD, CW])
def test_an_attack_that_ends_at_a_success_gives_the_same_bits_in_any_batch_and_costs_less(
    make, trained, split, tmp_path
):
    own = {"kappa": 50.0} if make is CW else {}
    steps = {"eps": 0.7 / 255, "step_size": 0.2 / 255, "n_iter": 6, "random_start": True}
    attack = make(**steps, precision="fp32", reduction="sum", success="any", **own)
    few = split.first(12)
    whole, last = (
        run(trained, few, tmp_path / a.success, attack=a, batch_size=12)
        for a in (attack, dataclasses.replace(attack, success="last"))
    )
    assert 0 < sum(whole.robust_bits) <= sum(last.robust_bits) < sum(last.clean_bits)
    assert not (whole.robust_bits & ~last.robust_bits).any()
    assert whole.gradients < last.gradients == 6 * 12
    for size, save_every in ((1, 1), (7, 3)):
        other = run(trained, few, tmp_path / f"{size}", attack=attack, batch_size=size, save_every=save_every)
        assert same_bits(other, whole)


def test_shards_that_do_not_belong_together_are_refused(trained, split, tmp_path):
    one, two = (run(trained, part(split, [2 * i, 2 * i + 1]), tmp_path / str(i), attack=Clean()) for i in (0, 1))
    for other in ({"fingerprint": "g"}, {"method": "tecoa"}, {"seed": 1}, {"set_name": "greek"}):
        with pytest.raises(StudyError, match="are not parts of one"):
            merged([one, dataclasses.replace(two, **other)], range(4))
    for shards in ([one], [one, one], [one, two, two], [one, one, two]):
        with pytest.raises(StudyError, match="do not hold every image once"):
            merged(shards, range(4))


def test_a_finished_record_is_not_computed_again_and_one_of_another_fingerprint_is_not_used(trained, split, tmp_path):
    first = run(trained, split, tmp_path / "r")
    assert run(None_but_eval(), split, tmp_path / "r") == first
    other = run(trained, split, tmp_path / "r", attack=Clean(), fingerprint="g")
    assert other.fingerprint == "g" and not same_bits(other, first, "adv_bits")


def test_the_work_of_equal_models_is_shared_whatever_they_are_called(trained, split, tmp_path):
    first, names = run(trained, split.first(8), tmp_path / "r"), {"method": "tecoa", "seed": 7}
    again = run(None_but_eval(), split.first(8), tmp_path / "r", **names)
    assert again == dataclasses.replace(first, **names) != first


def test_a_record_of_other_images_is_not_continued_whatever_its_fingerprint(trained, split, tmp_path):
    few, others = part(split, list(range(8))), part(split, list(range(8, 20)))
    run(trained, few, tmp_path / "r", attack=Clean())
    record = run(trained, others, tmp_path / "r", attack=Clean())
    assert record == run(trained, others, tmp_path / "new", attack=Clean())


class None_but_eval:
    """A model that may be set up, not asked."""

    def eval(self):
        return self

    def requires_grad_(self, flag):
        return self


class Masked(torch.nn.Module):
    """Passes no gradient to images whose first pixel is bright."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        masked = images[:, 0, 0, 0] > 0.5
        return self.model(torch.where(masked[:, None, None, None], images.detach(), images))


class InParts:
    """PGD on a few images of the batch at a time, last first: as an attack whose batch shrinks."""

    eps = PGD4.eps

    def __call__(self, model, images, labels, noise, batch_size):
        adv = images.clone()
        for rows in torch.arange(len(labels)).flip(0).split(3):
            ids = [noise.ids[row] for row in rows]
            adv[rows] = PGD4(model, images[rows], labels[rows], dataclasses.replace(noise, ids=ids))
        return adv


@pytest.mark.parametrize("attack", [PGD4, InParts()])
def test_images_without_a_gradient_are_noted_by_name(trained, split, tmp_path, attack):
    masked = dataclasses.replace(split.first(18), images=split.images[:18].copy())
    masked.images[:, 0, 0], masked.images[[5, 14, 17], 0, 0] = 20, 250
    record = run(Masked(trained), masked, tmp_path / "r", attack=attack, batch_size=10)
    assert [i for i, bit in enumerate(record.zero_bits) if bit] == [5, 14, 17]
    assert record.zero_pixels == 0


def test_entries_without_a_gradient_are_counted(trained, split, tmp_path):
    class Blind(torch.nn.Module):
        def forward(self, images):
            return trained(torch.cat([images[:, :1].detach(), images[:, 1:]], dim=1))

    record = run(Blind(), split.first(16), tmp_path / "r", batch_size=10)
    assert record.pixels == 4 * 20 * 3 * 24 * 24 == 3 * record.zero_pixels and not any(record.zero_bits)
    assert "underflow" in {mark.name for mark in audit.marks({("m", "pgd", "s"): [record]})["m", "pgd", "s"]}


def test_what_is_wrong_with_a_model_is_in_its_record_and_survives_a_kill(trained, split, tmp_path):
    trained.logit_scale /= trained.logit_scale  # plain cosines
    few = split.first(16)
    record = run(trained, few, tmp_path / "r")
    assert [mark.name for mark in record.marks] == ["plain_cosines"]
    assert Record.load(tmp_path / "r") == record
    assert run(trained, few, tmp_path / "clean", attack=Clean()).marks == ()  # nothing is attacked


def test_a_detached_model_ends_an_attack_in_one_sentence(trained, split, tmp_path):
    class Detached(Fragile):
        def forward(self, images):
            return self.model(images.detach())

    with pytest.raises(StudyError, match="no gradient reaches the pixels"):
        run(Detached(trained), split, tmp_path / "r")


def test_the_published_protocol_loses_gradients_and_the_audit_says_so(trained, split, tmp_path):
    trained.logit_scale *= 1.5  # nearly sure of itself
    few = split.first(16)
    attack = dataclasses.replace(PGD4, eps=1 / 255, step_size=1 / 255, n_iter=1, reduction="mean")
    evaluation = Evaluation(seed=0, batch_size=256, save_every=1, precision="fp16", counted="adv")
    record = evaluate(trained, attack, few, dataclasses.replace(BLANK, counted="adv"), evaluation, tmp_path / "r")
    assert record.zero_pixels > 0.01 * record.pixels and any(record.zero_bits)
    assert {mark.name for mark in audit.marks({("m", "pgd", "s"): [record]})["m", "pgd", "s"]} >= {
        "underflow",
        "zero_gradient",
    }


def test_half_precision_is_real_and_is_of_every_pass_or_of_none(trained, split, tmp_path):
    kinds = []

    class Watched(torch.nn.Module):
        def forward(self, images):
            logits = trained(images)
            kinds.append(logits.dtype)
            return logits

    half = Evaluation(seed=0, batch_size=8, save_every=1, precision="fp16")
    evaluate(Watched(), PGD4, split.first(8), BLANK, half, tmp_path / "half")
    assert set(kinds[-6:]) == {torch.float16}
    kinds.clear()
    own = dataclasses.replace(PGD4, precision="fp16")  # of the attack alone: verdicts stay fp32
    run(Watched(), split.first(8), tmp_path / "own", attack=own, batch_size=8)
    assert kinds[-6:] == [torch.float16] * 4 + [torch.float32] * 2


class NaNAway(torch.nn.Module):
    """Answers with NaN where the first pixel of an image that it knows has moved, or, clean: always."""

    def __init__(self, model, images, clean=False):
        super().__init__()
        self.model, self.corners, self.clean = model, images[:, 0, 0, 0], clean

    def forward(self, images):
        at = images[:, 0, 0, 0].detach()
        known = (at[:, None] - self.corners).abs().amin(dim=1) < 0.5 / 255
        moved = known & ((at[:, None] - self.corners).abs().amin(dim=1) > 0)
        return torch.where((moved | (known & self.clean))[:, None], torch.nan, self.model(images))


def test_an_attacked_image_without_a_finite_answer_keeps_its_clean_verdict_and_is_noted(trained, split, tmp_path):
    cornered = dataclasses.replace(split, images=split.images.copy())
    cornered.images[:, 0, 0] = 20
    bits = run(trained, cornered, tmp_path / "uniform")
    fooled, survives = (bits.clean_bits & ~bits.adv_bits).argmax(), bits.adv_bits.argmax()
    rows = sorted({int(fooled), int(survives)})
    cornered.images[rows, 0, 0] = 77
    whole = run(trained, cornered, tmp_path / "whole")
    assert not any(whole.broken_bits) and whole.clean_bits[fooled] and not whole.adv_bits[fooled]
    broken = run(NaNAway(trained, cornered.tensors([fooled])[0]), cornered, tmp_path / "broken")
    expected = [whole.clean_bits[i] if i in rows else bit for i, bit in enumerate(whole.adv_bits)]
    assert broken.adv_bits.tolist() == expected and same_bits(broken, whole, "clean_bits")
    assert [i for i, bit in enumerate(broken.broken_bits) if bit] == rows


def test_a_gradient_that_is_no_number_at_a_pixel_is_noted_and_leaves_that_pixel_alone(trained, split, tmp_path):
    class Rooted(torch.nn.Module):
        """Adds a root at zero, whose gradient is infinite, times zero, to images with a bright corner."""

        def forward(self, images):
            corner = images[:, :1, 0, 0]
            roots = torch.where(corner > 0.5, 0 * corner, 1.0).sqrt()
            return trained(images) + roots - roots.detach()

    few = dataclasses.replace(split.first(12), images=split.images[:12].copy())
    few.images[:, 0, 0], few.images[7, 0, 0] = 20, 250
    whole, rooted = run(trained, few, tmp_path / "whole"), run(Rooted(), few, tmp_path / "rooted")
    assert [i for i, bit in enumerate(rooted.broken_bits) if bit] == [7] and not any(whole.broken_bits)
    assert whole.clean_bits[7] and not whole.adv_bits[7]  # the other pixels are enough
    assert same_bits(rooted, whole, "clean_bits", "adv_bits")


def test_an_image_that_an_attack_has_spoilt_comes_back_as_it_was(trained, split, tmp_path):
    class Spoiling(Clean):
        def __call__(self, model, images, labels, noise, batch_size):
            spoilt = torch.tensor([i in (2, 9) for i in noise.ids])
            return images.masked_fill(spoilt[:, None, None, None], torch.nan)

    record = run(trained, split.first(12), tmp_path / "r", attack=Spoiling())
    assert record.broken_bits.nonzero()[0].tolist() == [2, 9]
    assert np.array_equal(record.adv_bits, record.clean_bits)


def test_an_image_without_a_finite_answer_counts_as_wrong(trained, split, tmp_path):
    record = run(NaNAway(trained, split.tensors(range(64))[0], clean=True), split, tmp_path / "r", attack=Clean())
    assert not any(record.clean_bits) and not any(record.adv_bits) and all(record.broken_bits)


def test_an_attack_that_leaves_its_ball_is_caught(trained, split, tmp_path):
    class Cheat(Clean):
        def __call__(self, model, images, labels, noise, batch_size):
            return 1 - images

    with pytest.raises(StudyError, match="left its ball"):
        run(trained, split, tmp_path / "r", attack=Cheat())


WRONG = {
    "nothing": lambda images: None,
    "an array": lambda images: images.numpy(),
    "one image": lambda images: images[:1],
    "rows": lambda images: images.flatten(1),
    "the images themselves, changed": lambda images: images.mul_(0),
    "other pixels": lambda images: images - 0.01,
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_attacked_batch_is_refused_in_one_line(trained, split, tmp_path, kind):
    class Own(Clean):
        eps = 0.02

        def __call__(self, model, images, labels, noise, batch_size):
            return WRONG[kind](images)

    with pytest.raises(StudyError, match="^the attack Own of .* (must give images of the shape|left its|left the)"):
        run(trained, split, tmp_path / "r", attack=Own())


def test_a_ball_is_that_of_the_attack_s_norm(trained, split, tmp_path):
    class Round(Clean):
        norm, eps = "l2", 0.1

        def __call__(self, model, images, labels, noise, batch_size):
            return (images - 0.01).clamp(0, 1)  # a tenth of eps in l-inf, several of it in l2

    with pytest.raises(StudyError, match="left its ball"):
        run(trained, split, tmp_path / "r", attack=Round())


def test_protocol_facts(trained, split):
    text = protocol(trained, PGD4, 24, "prompt 'a photo of {}'", Evaluation(seed=3, batch_size=16, save_every=1))
    for fact in ("eps 0.4/255", "acts at 24 px", "noise seed 3", "logit scale 1286", "prompt 'a photo of {}'", "fp32"):
        assert fact in text
