import dataclasses

import pytest
import torch

from zsr.attacks.clean import Clean
from zsr.attacks.pgd import PGD
from zsr.evaluate import Evaluation, evaluate, protocol
from zsr.records import Record

PGD4 = PGD(eps=0.4 / 255, step_size=0.1 / 255, n_iter=4, random_start=True, precision="fp32", reduction="sum")
BLANK = Record(method="clip", seed=0, attack="pgd", set_name="shapes", fingerprint="f", protocol="p")


def run(model, split, scratch, attack=PGD4, batch_size=16, save_every=1, **changes):
    return evaluate(
        model,
        attack,
        split,
        dataclasses.replace(BLANK, **changes),
        Evaluation(seed=0, batch_size=batch_size, save_every=save_every),
        scratch,
    )


def test_bits_do_not_depend_on_the_batch_size(trained, split, tmp_path):
    records = [run(trained, split, tmp_path / str(size), batch_size=size) for size in (1, 7, 64)]
    assert 0 < sum(records[0].adv_bits) < sum(records[0].clean_bits)
    for record in records[1:]:
        assert record.clean_bits == records[0].clean_bits and record.adv_bits == records[0].adv_bits


def test_bits_do_not_depend_on_the_company_of_an_image(trained, split, tmp_path):
    record = run(trained, split, tmp_path / "all")
    rows = torch.randperm(64)[:20].numpy()
    part = dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows], ids=split.ids[rows])
    some = run(trained, part, tmp_path / "some")
    assert some.ids == tuple(rows.tolist())
    assert some.adv_bits == tuple(record.adv_bits[row] for row in rows)


def test_the_attack_is_given_the_noise_of_each_image(trained, split, tmp_path):
    keys = []

    class Spy(Clean):
        def __call__(self, model, images, labels, noise):
            keys.append((noise.seed, noise.scope, list(noise.ids)))
            return images

    rows = list(range(63, 53, -1))
    part = dataclasses.replace(split, images=split.images[rows], labels=split.labels[rows], ids=split.ids[rows])
    run(trained, part, tmp_path / "r", attack=Spy(), batch_size=4)
    assert [key[:2] for key in keys] == [(0, "shapes")] * 3
    assert [i for key in keys for i in key[2]][:10] == rows


def test_the_record_counts_what_was_done(trained, split, tmp_path):
    record = run(trained, split, tmp_path / "r", batch_size=10)
    assert record.gradients == 4 * 64 and record.forwards == 2 * 64 and len(record.ids) == 64
    assert record.robust_bits == tuple(c and a for c, a in zip(record.clean_bits, record.adv_bits))
    clean = run(trained, split, tmp_path / "c", attack=Clean())
    assert clean.adv_bits == clean.clean_bits == record.clean_bits and clean.gradients == 0


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
    assert len(Record.load(tmp_path / "killed").ids) == 32
    Dying.calls = 10
    assert run(trained, split, tmp_path / "killed", attack=Dying()) == whole
    assert Dying.calls == 12  # the two batches that were missing


def test_a_finished_record_is_not_computed_again_and_one_of_another_fingerprint_is_not_used(trained, split, tmp_path):
    first = run(trained, split, tmp_path / "r")
    assert run(None_but_eval(), split, tmp_path / "r") == first
    other = run(trained, split, tmp_path / "r", attack=Clean(), fingerprint="g")
    assert other.fingerprint == "g" and other.adv_bits != first.adv_bits


class None_but_eval:
    """A model that may be set up, not asked."""

    def eval(self):
        return self

    def requires_grad_(self, flag):
        return self


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
    fooled = list(map(int.__gt__, bits.clean_bits, bits.adv_bits)).index(True)
    rows = sorted({fooled, bits.adv_bits.index(True)})
    cornered.images[rows, 0, 0] = 77
    whole = run(trained, cornered, tmp_path / "whole")
    assert not any(whole.broken_bits) and whole.clean_bits[fooled] > whole.adv_bits[fooled]
    broken = run(NaNAway(trained, cornered.tensors([fooled])[0]), cornered, tmp_path / "broken")
    expected = [whole.clean_bits[i] if i in rows else bit for i, bit in enumerate(whole.adv_bits)]
    assert broken.adv_bits == tuple(expected) and broken.clean_bits == whole.clean_bits
    assert [i for i, bit in enumerate(broken.broken_bits) if bit] == rows


def test_an_image_without_a_finite_answer_counts_as_wrong(trained, split, tmp_path):
    record = run(NaNAway(trained, split.tensors(range(64))[0], clean=True), split, tmp_path / "r", attack=Clean())
    assert not any(record.clean_bits) and not any(record.adv_bits) and all(record.broken_bits)


def test_an_attack_that_leaves_its_ball_is_caught(trained, split, tmp_path):
    class Cheat(Clean):
        def __call__(self, model, images, labels, noise):
            return 1 - images

    with pytest.raises(AssertionError, match="left its ball"):
        run(trained, split, tmp_path / "r", attack=Cheat())


def test_protocol_facts(trained, split):
    text = protocol(trained, PGD4, 24, "a photo of {}", Evaluation(seed=3, batch_size=16, save_every=1))
    for fact in ("eps 0.4/255", "acts at 24 px", "noise seed 3", "logit scale 14.29", "prompt 'a photo of {}'", "fp32"):
        assert fact in text
