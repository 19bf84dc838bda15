"""A step's batch in parts: on one process one after the other, on several side by side, or fed ahead by threads."""

import copy
from dataclasses import replace

import pytest
import torch

from zsr.data.sources import make
from zsr.params import block, component, training_of
from zsr.training.batches import Part, batch_indices, parts_of
from zsr.training.feed import Feed
from zsr.training.finetune import FineTuning, Texts, finetune

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 20, 0, 24)


@pytest.fixture(scope="module")
def texts():
    text_embeddings, non_class = torch.nn.functional.normalize(torch.randn(2, 12, 48), dim=2)
    return Texts(text_embeddings, non_class)


def short(recipe):
    return replace(recipe, epochs=1, batch_size=8, warmup_steps=1, save_every=1, optimizer="sgd", grad_clip=0.0)


@pytest.mark.parametrize("n", [1, 3, 8, 9])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 3])
def test_parts_hold_every_place_of_a_batch_once_and_their_weights_add_up(monkeypatch, n, accumulate, processes):
    batch, found, mean, whole = torch.arange(n) + 50, [], 0.0, 0.0
    monkeypatch.setattr("zsr.training.batches.world_size", lambda: processes)
    for process in range(processes):
        monkeypatch.setattr("zsr.training.batches.rank", lambda process=process: process)
        for part in parts_of(batch, accumulate):
            counted = part.counts[process]
            found += part.places[:counted].tolist()
            assert torch.equal(part.samples, batch[part.places]) and len(part.samples) == max(counted, 1)
            mean += part.weight("mean") / processes
            whole += part.weight("whole") / processes
    assert sorted(found) == list(range(n)) and mean == pytest.approx(1)
    assert whole == pytest.approx(accumulate)  # so a loss over the batch cannot be accumulated: it would count again


SPLIT = ["tecoa", "fare", "pmg_aft", "tga_zsr", "comp_tga", "vision_attention", "embedding_anchor"]


@pytest.mark.parametrize("name", SPLIT)
def test_a_step_does_not_depend_on_how_its_batch_is_split(document, name, clip_model, texts, source, tmp_path):
    """Three uneven parts of batches of 8, and of the last one, of 4; PMG-AFT's sums over the batch included."""
    method, recipe = component(document, "methods", name), short(training_of(document, name, FineTuning))
    if name == "vision_attention":
        method = replace(method, target="label")  # the class explained is chosen among those of the part
    results = []
    for accumulate in (1, 3):
        model, kept = copy.deepcopy(clip_model), tmp_path / str(accumulate)
        rows = finetune(method, model, texts, source, replace(recipe, accumulate=accumulate), 0, kept)
        results.append((rows, model.visual.conv1.weight - clip_model.visual.conv1.weight))
    (rows, moved), (split_rows, split_moved) = results
    for row, other in zip(rows, split_rows, strict=True):
        assert other == pytest.approx(row, rel=1e-3, abs=1e-5)
    assert (moved - split_moved).norm() < 1e-2 * moved.norm()


def test_the_weight_of_pmgs_published_sums_grows_with_the_batch(document, model, frozen, batch):
    """What cannot be independent of the size of a batch: quirk M2."""
    method = component(document, "methods", "pmg_aft")
    twice = replace(batch, images=batch.images.repeat(2, 1, 1, 1), labels=batch.labels.repeat(2))
    once, double = (method.losses(model, frozen, b, b.images + 0.05) for b in (batch, twice))
    assert double["kl_general"].item() == pytest.approx(2 * once["kl_general"].item(), rel=1e-4)
    assert double["ce_adv"].item() == pytest.approx(once["ce_adv"].item(), rel=1e-4)


@pytest.mark.parametrize("fixed_noise", [False, True])
def test_what_threads_make_ready_is_what_would_be_made_at_once(document, source, fixed_noise):
    recipe = replace(short(block(document, "train", FineTuning)), epochs=2, accumulate=2)
    attack = replace(recipe.attack, fixed_noise=fixed_noise)
    ahead, plain = (Feed(source, recipe, attack, 0, CPU, ahead=n) for n in (3, 0))
    for step in range(2, recipe.n_steps(20)):
        for part in parts_of(batch_indices(step, 20, 8, 0), 2):
            fed, expected = ahead.take(step, part), plain.take(step, part)
            assert torch.equal(fed.images, expected.images) and torch.equal(fed.labels, expected.labels)
            assert torch.equal(attack.start(fed.images, fed.noise), attack.start(fed.images, expected.noise))


def test_parts_must_be_asked_for_in_order(document, source):
    recipe = short(block(document, "train", FineTuning))
    feed, batch = Feed(source, recipe, recipe.attack, 0, CPU, ahead=2), torch.arange(3)
    with pytest.raises(AssertionError, match="in order"):
        feed.take(0, Part(batch, batch, batch, [3]))
