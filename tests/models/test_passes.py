"""Devices and number formats. There may be no GPU here: meta tensors, which mix with no others and hold no value to be
looked at, find what a GPU would find."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conftest import ROOT
from tests.small_clip import small_clip
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.batch import Drawn, Noise
from zsr.attacks.pgd import PGD
from zsr.compute import Compute, matmul_precision
from zsr.evaluation.evaluate import Evaluation, Meter, evaluate
from zsr.evaluation.records import Record
from zsr.models.clip import Classifier
from zsr.params import ParamError, component, read, training_of
from zsr.training.finetune import FineTuning, Texts

GPU, ELSEWHERE = torch.device("cuda", 0), torch.device("meta")
TRAINED = [name for name in read(ROOT / "params.yaml")["methods"] if name != "clip"]
BLANK = Record(method="m", seed=0, attack="pgd", set_name="s", fingerprint="f", protocol="p")
PGD8 = PGD(
    eps=4 / 255, step_size=1 / 255, n_iter=8, random_start=True, precision="fp32", reduction="sum", success="any"
)


class Unmixed(TorchDispatchMode):
    """Refuses what a GPU would: an operation on tensors of two devices. Copies may, and so may plain numbers."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim]
        copies = function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        assert copies or len({x.device for x in tensors}) <= 1, f"{function} of tensors on two devices"
        return function(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch):
    """A classifier that is not on the CPU: `(text_embeddings) -> Classifier`."""
    monkeypatch.setattr(Compute, "place", lambda self: ELSEWHERE)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none on meta
    return lambda text_embeddings: Classifier(small_clip(), text_embeddings)


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_leaves_nothing_on_the_cpu(document, name, elsewhere):
    """Attack, losses and backward of every method on a device that mixes with no other and cannot be waited for."""
    method, recipe = component(document, "methods", name), training_of(document, name, FineTuning)
    images, noise = torch.rand(4, 3, 24, 24, device=ELSEWHERE), Drawn(torch.rand(4, 3, 24, 24, device=ELSEWHERE))
    text, labels = torch.rand(5, 48), torch.randint(0, 5, (4,), device=ELSEWHERE)
    texts = Texts(text, text).to(ELSEWHERE)
    model, frozen = (elsewhere(texts.text_embeddings) for _ in range(2))
    frozen.requires_grad_(False)
    batch = texts.batch(images, labels, method.anchors(frozen, texts.batch(images, labels)))
    with Unmixed():
        objective = method.inner_objective(model, batch)
        adv = recipe.attack.maximise(objective, images, noise) if method.attacked else None
        total = sum(method.losses(model, frozen, batch, adv).values())
        total.backward()
    assert total.device == ELSEWHERE and model.visual.conv1.weight.grad.device == ELSEWHERE


def test_an_attack_of_fixed_length_never_waits_for_the_gpu(elsewhere):
    """Every step of PGD through the meter: a value that the CPU must know would be an error here."""
    images, labels = torch.rand(4, 3, 24, 24, device=ELSEWHERE), torch.randint(0, 5, (4,), device=ELSEWHERE)
    meter = Meter(elsewhere(torch.rand(5, 48)).requires_grad_(False), images)
    with Unmixed():
        adv = replace(PGD8, success="last", n_iter=2)(meter, images, labels, Drawn(torch.rand_like(images)), 4)
    assert adv.device == ELSEWHERE and meter.zero.device == ELSEWHERE


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_what_is():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    settings = {"compile": False, "channels_last": False}
    assert Compute(device="auto", **settings).place() == torch.device("cpu")
    with pytest.raises(ParamError, match="compute.device is cuda, but torch sees no GPU; choose auto or cpu"):
        Compute(device="cuda", **settings).place()


def test_products_are_exact_again_after_a_stretch_in_tf32():
    flags = lambda: (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)  # noqa: E731
    before = flags()
    with matmul_precision(GPU, "tf32"):
        assert flags() == (True, True)
        with matmul_precision(GPU, "fp32"):
            assert flags() == (False, False)
        assert flags() == (True, True)
    with pytest.raises(KeyError), matmul_precision(GPU, "bf16"):
        raise KeyError
    assert flags() == before


def test_maps_are_of_fp32_tokens_also_in_autocast_and_features_are_not(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.tokens(batch.images), model.tokens(batch.images).float())
        tokens, features = model.tokens(batch.images), model.image_features(batch.images)
    torch.testing.assert_close(tokens, model.tokens(batch.images), rtol=0, atol=0)
    assert (features - model.image_features(batch.images)).abs().max() > 1e-4


@pytest.mark.parametrize("layout, compiled", [(True, False), (False, True)])
def test_compiled_or_in_another_layout_a_model_says_the_same(text_embeddings, batch, layout, compiled, monkeypatch):
    clip_model = small_clip()
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: real(function, backend="eager"))
    plain = Classifier(clip_model, text_embeddings)
    expected, tokens = plain(batch.images), plain.tokens(batch.images)
    other = Classifier(clip_model, text_embeddings, Compute(device="cpu", compile=compiled, channels_last=layout))
    torch.testing.assert_close(other(batch.images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.tokens(batch.images), tokens, rtol=1e-4, atol=1e-4)


class Doubtful(torch.nn.Module):
    """In half precision it is fooled by everything; in fp32 an image falls where its mean leaves that of the original.

    So an attack that believes the gradient's forward stops at the start, where nothing has fallen.
    """

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, images):
        rising = images.mean(dim=(1, 2, 3))
        half = torch.is_autocast_enabled("cpu")
        lead = rising.new_full((), -1.0) + 0 * rising if half else self.bound - rising
        return torch.stack([lead, -lead], dim=1)


@pytest.mark.parametrize("attack", [PGD8, AutoAttack(version="paper", eps=4 / 255, n_iter=8)])
def test_a_success_that_fp32_refutes_is_no_end(split, tmp_path, attack):
    images, labels, ids = split.tensors(range(8))
    few = replace(split.first(8), labels=0 * split.labels[:8])
    bound = images.mean(dim=(1, 2, 3)) + 2 / 255  # reached by moving every pixel, not at the random start
    model = Doubtful(bound[0].item())
    model.bound = bound.max().item()
    evaluation = Evaluation(seed=0, batch_size=8, save_every=1)
    hits = {}
    for precision in ("fp32", "bf16"):
        record = evaluate(model, replace(attack, precision=precision), few, BLANK, evaluation, tmp_path / precision)
        hits[precision] = record.adv_bits.tolist()
    assert hits["bf16"] == hits["fp32"] and not all(hits["fp32"])


def test_gradients_in_bf16_change_no_verdict_without_a_forward_in_fp32(trained, split, tmp_path):
    """Success at any point, gradients in bf16: what counts as fooled is wrong in fp32."""
    kinds = []

    class Watched(torch.nn.Module):
        def forward(self, images):
            logits = trained(images)
            kinds.append((images.requires_grad and torch.is_grad_enabled(), logits.dtype))
            return logits

    evaluation = Evaluation(seed=0, batch_size=16, save_every=1)
    record = evaluate(Watched(), replace(PGD8, precision="bf16"), split.first(16), BLANK, evaluation, tmp_path / "r")
    assert {kind for graded, kind in kinds if graded} >= {torch.bfloat16}
    assert len(record.adv_bits) == 16


def test_noise_drawn_ahead_is_refused_for_another_shape():
    rows = Noise(0, "s", [1, 2]).uniform((3, 4, 4), "pgd")
    assert torch.equal(Drawn(rows).uniform((3, 4, 4), "pgd"), rows)
    with pytest.raises(AssertionError):
        Drawn(rows).uniform((3, 5, 5), "pgd")
