import pytest
import torch

from zsr.attacks.batch import Noise
from zsr.attacks.clean import Clean
from zsr.attacks.pgd import PGD
from zsr.measures.attention import measure, panels, told

NOISE = Noise(0, "shapes", range(6))


def test_without_an_attack_no_map_moves(model, batch):
    maps, facts = measure(model, Clean(), batch.images, batch.labels, NOISE)
    assert facts["shift_attack"] == facts["shift_noise"] == 0
    assert torch.equal(maps.clean, maps.attacked) and maps.clean.shape == (6, 6, 6)


def test_an_attack_moves_maps_as_far_as_the_images_it_made(model, batch):
    attack = PGD(eps=8 / 255, step_size=4 / 255, n_iter=3, random_start=True, precision="fp32", reduction="sum")
    maps, facts = measure(model, attack, batch.images, batch.labels, NOISE)
    assert facts["shift_attack"] > 0 < facts["shift_noise"]
    again, _ = measure(model, Clean(), maps.adv, batch.labels, NOISE)
    torch.testing.assert_close(again.clean, maps.attacked)


@pytest.mark.parametrize("size", [1, 4, 6, 50])
def test_maps_do_not_depend_on_the_batch_size(model, batch, size):
    attack = PGD(eps=1 / 255, step_size=1 / 255, n_iter=2, random_start=True, precision="fp32", reduction="sum")
    whole, expected = measure(model, attack, batch.images, batch.labels, NOISE)
    seen = []
    model.visual.conv1.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    maps, facts = measure(model, attack, batch.images, batch.labels, NOISE, size)
    assert facts == pytest.approx(expected, rel=1e-3, abs=1e-5) and max(seen) <= size
    torch.testing.assert_close(maps.adv, whole.adv, rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.clean, whole.clean, rtol=1e-4, atol=1e-4)


def test_the_object_is_where_the_picture_is_bright(model, batch):
    images = torch.zeros(6, 3, 24, 24)
    images[:, 1, :12, :12] = 1  # a quarter of the patches
    maps, facts = measure(model, Clean(), images, batch.labels, NOISE)
    peaks = maps.clean.flatten(1).argmax(dim=1)
    inside = (peaks // 6 < 3) & (peaks % 6 < 3)
    assert facts["object_share"] == 0.25 and facts["peak_on_object"] == pytest.approx(inside.float().mean().item())


def test_the_figure_gets_the_first_images_with_their_maps_and_what_was_measured(model, batch):
    maps, facts = measure(model, Clean(), batch.images, batch.labels, NOISE)
    columns = panels(batch.images, {"clip": maps, "other": maps}, shown=2)
    kinds = [("", "image"), ("clip", "clean"), ("clip", "attacked"), ("other", "clean"), ("other", "attacked")]
    assert list(columns) == kinds and [images.shape for images, _ in columns.values()] == [(2, 24, 24, 3)] * 5
    (_, nothing), (_, clean), (adv, attacked), *_ = columns.values()
    assert nothing is None and clean.tolist() == maps.clean[:2].tolist() and attacked.shape == (2, 6, 6)
    assert adv[1, 2, 3].tolist() == maps.adv[1, :, 2, 3].tolist()
    note = told([{"method": name} | facts for name in ("clip", "other")], ["clip"])
    assert note.endswith(f"A random patch lies on the object in {facts['object_share']:.0%}.") and "other" not in note


def test_maps_of_a_model_are_made_once(tmp_path, monkeypatch, clip_model, split, text_embeddings):
    from zsr import files
    from zsr.compute import ON_CPU
    from zsr.data.prepared import Prepared
    from zsr.evaluation.evaluate import Evaluation
    from zsr.measures import attention
    from zsr.models import clip
    from zsr.models.heads import Model

    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    weights, images, text = (tmp_path / f"{name}.safetensors" for name in ("weights", "images", "text"))
    clip.save(weights, clip_model, "zsr-tiny")
    split.save(images)
    prompts = torch.nn.functional.normalize(torch.randn(12, 48), dim=1)
    files.save_tensors(text, {"text_embeddings": prompts})
    task = attention.AttentionTask(
        attack=Clean(),
        n_images=6,
        evaluation=Evaluation(seed=0, batch_size=4, save_every=1),
        model=Model(arch="zsr-tiny"),
        compute=ON_CPU,
        threads=1,
        set_name="shapes",
        weights=weights,
        images=images,
        text_embeddings=text,
    )
    data = Prepared(split, prompts, "w", images, text)
    maps, facts = attention.measure_once(task, data, "code")
    monkeypatch.setattr(attention, "measure", None)
    again, same = attention.measure_once(task, data, "code")
    assert same == facts and torch.equal(maps.clean, again.clean) and torch.equal(maps.adv, again.adv)
