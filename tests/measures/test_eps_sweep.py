import dataclasses
from pathlib import Path

import pytest
import torch

from zsr.attacks.batch import Noise
from zsr.attacks.pgd import PGD
from zsr.compute import ON_CPU
from zsr.data.prepared import Prepared
from zsr.evaluation.evaluate import Evaluation
from zsr.measures.eps_sweep import EpsSweep, SweepTask, measure, note, sweep
from zsr.models import heads
from zsr.params import ParamError, build

ATTACK = PGD(
    eps=4 / 255, step_size=1 / 255, n_iter=8, random_start=True, precision="fp32", reduction="sum", success="last"
)


class Thresholds(torch.nn.Module):
    """Class 0 while an image's mean is below 0.5: the image at distance d falls at eps = d exactly."""

    def forward(self, images):
        above = images.flatten(1).mean(dim=1) - 0.5
        return torch.stack([-above, above], dim=1)


def test_an_image_falls_where_the_ball_reaches_the_boundary():
    distances = torch.tensor([0.01, 0.03, 0.05, 0.2, -0.1])  # the last is wrong by itself
    images = (0.5 - distances).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    labels = torch.zeros(5, dtype=torch.int64)
    counts = sweep(Thresholds(), ATTACK, images, labels, Noise(0, "s", range(5)), [0.02, 0.04, 0.06, 0.5])
    assert counts == {0.0: 4, 0.02: 3, 0.04: 2, 0.06: 1, 0.5: 0}


def test_an_image_that_fell_is_not_attacked_again():
    sizes = []

    class Spy(Thresholds):
        def forward(self, images):
            sizes.append(len(images))
            return super().forward(images)

    images = torch.full((4, 3, 4, 4), 0.49)
    sweep(Spy(), ATTACK, images, torch.zeros(4, dtype=torch.int64), Noise(0, "s", range(4)), [0.02, 0.04])
    assert len(sizes) == 1 + 8 + 1  # once clean, one attack, one verdict; nothing is left for the second eps


@dataclasses.dataclass(frozen=True)
class Watched(PGD):
    """PGD that notes whose noise it is given."""

    seen: list = dataclasses.field(default_factory=list)

    def __call__(self, model, images, labels, noise, batch_size=None):
        self.seen.append((noise.seed, noise.scope, list(noise.ids)))
        return super().__call__(model, images, labels, noise, batch_size)


def test_an_image_keeps_its_noise_when_others_have_fallen():
    attack, distances = Watched(**vars(ATTACK)), torch.tensor([0.05, 0.01, 0.2, -0.1])
    images = (0.5 - distances).view(4, 1, 1, 1).expand(4, 3, 4, 4)
    sweep(Thresholds(), attack, images, torch.zeros(4, dtype=torch.int64), Noise(5, "s", range(10, 14)), [0.02, 0.06])
    assert attack.seen == [(5, "s", [10, 11, 12]), (5, "s", [10, 12])]


def test_the_step_keeps_its_proportion_and_the_noise_its_image(model, batch):
    alone = sweep(model, ATTACK, batch.images[3:4], batch.labels[3:4], Noise(0, "s", [3]), [1 / 255, 8 / 255])
    whole = [
        sweep(model, ATTACK, batch.images[i : i + 1], batch.labels[i : i + 1], Noise(0, "s", [i]), [1 / 255, 8 / 255])
        for i in range(6)
    ]
    together = sweep(model, ATTACK, batch.images, batch.labels, Noise(0, "s", range(6)), [1 / 255, 8 / 255])
    assert whole[3] == alone and together == {eps: sum(counts[eps] for counts in whole) for eps in together}


def test_eps_must_grow():
    with pytest.raises(ParamError, match="eps_sweep: eps must be at least one number, each larger"):
        build(EpsSweep, {"eps": ["2/255", "1/255"], "images": 3}, "eps_sweep")
    assert build(EpsSweep, {"eps": ["1/255", "2/255"], "images": 3}, "k") == EpsSweep(eps=(1 / 255, 2 / 255), images=3)


@pytest.mark.parametrize("size", [5, 64])
def test_counts_do_not_depend_on_the_batch_size(trained, split, size):
    images, labels, ids = split.tensors(range(12))
    given = trained, dataclasses.replace(ATTACK, n_iter=3), images, labels, Noise(0, "s", ids), [0.6 / 255, 0.9 / 255]
    whole, seen = sweep(*given), []
    trained.visual.conv1.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert sweep(*given, batch_size=size) == whole and max(seen) <= size
    assert whole[0.0] > whole[0.6 / 255] > whole[0.9 / 255] > 0


@pytest.fixture
def task(tmp_path, split):
    """A sweep over two sets of a network that is right on seven of the ten images, and the sets."""
    model = heads.Model(arch="small", head="linear", width=8)
    whole = model.backbone.random(12, seed=0)
    heads.save(tmp_path / "w.safetensors", whole, model)
    few = split.first(10)
    labels = whole(few.tensors(range(10))[0]).argmax(dim=1).numpy()
    labels[[1, 5, 9]] = (labels[[1, 5, 9]] + 1) % 12
    known = Prepared(dataclasses.replace(few, labels=labels), None, "", Path("images"), Path("text"))
    given = SweepTask(
        attack=dataclasses.replace(ATTACK, n_iter=2),
        sweep=EpsSweep(eps=(1 / 255, 32 / 255), images=8),
        evaluation=Evaluation(seed=3, batch_size=3, save_every=1),
        model=model,
        compute=ON_CPU,
        threads=torch.get_num_threads(),
        weights=tmp_path / "w.safetensors",
        sets=(("a", Path("images"), Path("text")), ("b", Path("images"), Path("text"))),
    )
    return given, {"a": known, "b": known}, whole


def test_every_set_has_a_row_for_every_eps_of_its_first_images(task):
    given, sets, whole = task
    rows = measure(given, sets)
    assert [(r["set"], r["eps"], r["n"]) for r in rows] == [(s, f"{e}/255", 8) for s in "ab" for e in (0, 1, 32)]
    images, labels, ids = sets["a"].split.tensors(range(8))
    for name in "ab":
        counts = sweep(whole, given.attack, images, labels, Noise(3, name, ids), given.sweep.eps, 3)
        assert [r["correct"] for r in rows if r["set"] == name] == list(counts.values())
        assert counts[0] == 6 > counts[32 / 255]


def test_noise_is_that_of_the_evaluation_and_of_the_set(task):
    given, sets, _ = task
    attack = Watched(**vars(given.attack))
    measure(dataclasses.replace(given, attack=attack), sets)
    assert {noise[:2] for noise in attack.seen} == {(3, "a"), (3, "b")}
    assert attack.seen[0][2] == sets["a"].split.ids[[0, 2, 3, 4, 6, 7]].tolist()  # those that are right by themselves


def test_more_images_than_a_set_has_are_all_it_has(task):
    given, sets, _ = task
    many = dataclasses.replace(given, sweep=EpsSweep(eps=(1 / 255,), images=99))
    assert [(r["eps"], r["n"]) for r in measure(many, sets)] == [("0/255", 10), ("1/255", 10)] * 2


def test_the_note_names_the_attack_and_its_step(task):
    text = note("pgd", task[0].sweep, ATTACK)
    assert text == "pgd, 8 iterations, steps 0.25 eps, first 8 images of each set, one seed"
